"""Opening a source as a stream of bytes: plain, gzip, Zstandard, zip members, and gzip or Zstandard inside zip.

Memory is bounded whatever the bytes claim, and so is how far a small file may expand (decompression bombs).
"""

from __future__ import annotations

import gzip
import importlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from zhixing.core.errors import missing_extra
from zhixing.data.decoding import buffered
from zhixing.data.sources import Source

if TYPE_CHECKING:
    import zstandard

EXPANDS_AT_MOST = 300
"""A compressed file may be so many times longer than it is on disk..."""
EXPANDS_FREELY = 1 << 30
"""...but so many bytes are always allowed."""
ZSTD_STEP = 2048
"""Compressed bytes given to Zstandard at once; a block of 128 KiB takes at least 4, so at most 64 MiB come out."""


class DamagedError(ValueError):
    """A compressed stream that breaks off, or that expands beyond all measure."""


def require_packages(sources: Iterable[Source]) -> None:
    """Makes sure, before hours of reading, that the packages are there which the sources need.

    Raises:
        MissingResource: One of them is not installed.
    """
    sources = list(sources)
    for package, what, needed in (
        ("zstandard", ".zst", any(source.compression == "zstd" for source in sources)),
        ("pyarrow", ".parquet", any(source.format == "parquet" for source in sources)),
    ):
        if needed:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise missing_extra(package, "data", f"reading {what} files") from error


def read_faults() -> tuple[type[Exception], ...]:
    """Returns the exceptions that broken input raises while it is read."""
    faults: tuple[type[Exception], ...] = (
        OSError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
        DamagedError,
    )
    try:
        import zstandard
    except ImportError:
        return faults
    return (*faults, zstandard.ZstdError)


class _Counted(io.RawIOBase):
    """Passes bytes on, calls back with how many there were, and stops at a limit."""

    def __init__(self, stream: BinaryIO, advance: Callable[[int], None] | None, limit: int | None = None) -> None:
        self._stream, self._advance, self._left = stream, advance, limit

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        count = cast(io.BufferedIOBase, self._stream).readinto(target)
        if self._advance is not None:
            self._advance(count)
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise DamagedError(
                    f"expands to more than {EXPANDS_AT_MOST} times its size; unpack it by hand if that is right"
                )
        return count


class _Zstandard(io.RawIOBase):
    """Decompresses frames one after the other. Unlike `zstandard.stream_reader` it notices a stream that breaks off."""

    def __init__(self, stream: BinaryIO) -> None:
        import zstandard

        self._stream = stream
        self._new: Callable[[], zstandard.ZstdDecompressionObj] = zstandard.ZstdDecompressor().decompressobj
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._output:
            self._input = self._input or self._stream.read(ZSTD_STEP)
            if not self._input:
                if self._frame is not None:
                    raise DamagedError("the Zstandard data breaks off")
                return 0
            self._frame = self._frame or self._new()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        count = min(len(target), len(self._output))
        target[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


@contextmanager
def open_source(
    source: Source, *, archive: zipfile.ZipFile | None = None, advance: Callable[[int], None] | None = None
) -> Iterator[BinaryIO]:
    """Opens a source for reading, decompressed.

    Args:
        source: What to open.
        archive: The zip archive of the source, when it is open already.
        advance: Is called with the number of bytes of the file on disk that were read, for progress.

    Yields:
        A buffered binary stream. Reading may raise any of `read_faults()`.

    Raises:
        MissingResource: `zstandard` is needed and not installed.
    """
    with ExitStack() as stack:
        stream: BinaryIO
        if source.member is None:
            stream = stack.enter_context(source.path.open("rb"))
            limit = None
        else:
            archive = archive or stack.enter_context(zipfile.ZipFile(source.path))
            try:
                stream = cast(BinaryIO, stack.enter_context(archive.open(source.member)))
            except KeyError as error:
                raise DamagedError("the archive has no such member any more") from error
            limit = max(EXPANDS_FREELY, EXPANDS_AT_MOST * source.size)
        if source.compression == "none" and source.member is None and advance is None:
            yield stream
            return
        stream = buffered(_Counted(stream, None if source.member else advance, limit))
        if source.compression != "none":
            inner: Any = gzip.GzipFile(fileobj=stream) if source.compression == "gzip" else _Zstandard(stream)
            stream = buffered(_Counted(buffered(inner), None, max(EXPANDS_FREELY, EXPANDS_AT_MOST * source.size)))
        yield stream
        if source.member is not None and advance is not None:
            advance(source.size)
