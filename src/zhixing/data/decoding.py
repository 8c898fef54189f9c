"""Finding the encoding of a file by looking at it, and decoding it so that bad bytes can be found and reported."""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

CHUNK = 1 << 18
"""Bytes that are looked at to find an encoding, and read at a time afterwards."""
BAD_SHARE = 0.01
"""A file with a larger share of bytes that are not UTF-8 is left out as a whole, not piece by piece."""

BAD = re.compile("[\x00\ud800-\udfff]")
"""Characters that no document may hold: NUL, and the marks that undecodable bytes leave behind."""

_BAD_BYTES = re.compile("[\ud800-\udfff]")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CODING_LINE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
# A closed list: a name in a data file must not choose which module of `encodings` is imported.
_CODING_NAMES = re.compile(
    r"(?:iso-?8859-?\d{1,2}|latin-?[19]|l1|(?:cp|windows-?)125\d|cp(?:437|85\d|86\d|9\d\d)|koi8-[rut]|mac-?roman"
    r"|gbk|gb2312|gb18030|hz|big5|big5hkscs|euc-?(?:jp|kr|jis-2004)|shift-?jis|sjis|iso-?2022-(?:jp|kr)|johab|ascii)$"
)
_COMMON_CHINESE = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学"
    "如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由"
    "曰乎矣焉哉其夫何故则若非至相得亦與為這個們來國說時會對後過發經學現當沒動還進開從實無長機關點業將兩間"
)


class NotTextError(ValueError):
    """The bytes are no text. `kind` is the kind of problem to report; `line` is where, if that can be said."""

    def __init__(self, kind: str, message: str, line: int | None = None) -> None:
        self.kind, self.line = kind, line
        super().__init__(message)


class Encoding(NamedTuple):
    """How a file is encoded: the codec, the length of its byte-order mark, and what is worth saying about it."""

    codec: str
    mark: int = 0
    note: str | None = None


def _mark_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff" * (error.end - error.start), error.end


codecs.register_error("zhixing-mark", _mark_bad_bytes)


def find_encoding(sample: bytes, *, complete: bool, suffix: str = "", nul_share: float = 0.001) -> Encoding:
    """Finds the encoding of a file from its beginning.

    UTF-8 is expected. Byte-order marks decide at once; Python sources may name their encoding (PEP 263); GB18030 is
    accepted for text that is not UTF-8, decodes without fault, and reads as Chinese. Nothing else is guessed.

    Args:
        sample: The first bytes of the file.
        complete: Whether that is the whole file (else its last character may be cut).
        suffix: The suffix of the file's name, with its dot.
        nul_share: The share of NUL bytes from which the file is binary; fewer are faults in a text.

    Raises:
        NotTextError: The bytes are binary, or in an encoding that cannot be told.
    """
    for mark, codec in _BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            note = None if codec == "utf-8" else f"read as {codec.upper()}, as its byte-order mark says"
            return Encoding(codec, len(mark), note)
    bad_from = _first_bad_byte(sample, complete)
    bad = 0 if bad_from is None else len(_BAD_BYTES.findall(sample.decode("utf-8", "surrogateescape")))
    mostly_bad = bad > max(1, BAD_SHARE * len(sample))
    if (nul := sample.find(0)) >= 0 and (mostly_bad or sample.count(0) > nul_share * len(sample)):
        raise NotTextError("binary", f"holds a NUL byte at offset {nul}: binary, or UTF-16 without a byte-order mark")
    if suffix in (".py", ".pyi", ".pyw") and (named := _coding_line(sample)):
        return Encoding(named)
    if bad_from is not None and is_chinese(sample, complete):
        if (line := _utf8_line(sample, complete)) is not None:
            other = sample.count(b"\n", 0, bad_from) + 1
            raise NotTextError(
                "undecodable",
                f"in two encodings: line {line} is UTF-8, line {other} is not, and reads as GB18030; convert the parts"
                " one by one: iconv -f GB18030 -t UTF-8",
                other,
            )
        return Encoding("gb18030", 0, "not UTF-8; read as GB18030, which decodes it to Chinese")
    if bad_from is not None and mostly_bad:
        raise NotTextError(
            "undecodable",
            f"not UTF-8: byte 0x{sample[bad_from]:02x} at offset {bad_from}; convert it: iconv -f ENCODING -t UTF-8",
            sample.count(b"\n", 0, bad_from) + 1,
        )
    return Encoding("utf-8")


def _first_bad_byte(sample: bytes, complete: bool) -> int | None:
    try:
        # Not final: a character that the end of the sample cuts is no fault.
        codecs.getincrementaldecoder("utf-8")().decode(sample, complete)
    except UnicodeDecodeError as error:
        return error.start
    return None


def _utf8_line(sample: bytes, complete: bool) -> int | None:
    """Returns the first line that is Chinese in UTF-8, as no line of GB18030 is by chance."""
    lines = sample.split(b"\n")
    for number, line in enumerate(lines if complete else lines[:-1], start=1):
        if len(line) < 9 or line.isascii():
            continue
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if sum("\u4e00" <= character <= "\u9fff" for character in text) >= 3:
            return number
    return None


def _coding_line(sample: bytes) -> str | None:
    """Returns the codec that one of the first two lines of a Python source names, when it is a known, other one."""
    for line in sample.split(b"\n", 2)[:2]:
        if match := _CODING_LINE.match(line):
            name = match[1].decode("ascii").lower().replace("_", "-")
            return codecs.lookup(name).name if _CODING_NAMES.match(name) else None
        if line.strip() and not line.lstrip().startswith(b"#"):
            return None
    return None


def is_chinese(sample: bytes, complete: bool, codec: str = "gb18030") -> bool:
    """Tells whether bytes that are not UTF-8 are Chinese in GB18030, or in another codec.

    Korean, Japanese and Big5 bytes often decode as GB18030 too, but into rare characters: the common ones of modern
    and classical Chinese tell the difference.
    """
    try:
        text = codecs.getincrementaldecoder(codec)().decode(sample, complete)
    except UnicodeDecodeError:
        return False
    beyond_ascii = [character for character in text if character > "\x7f"]
    ideographs = [character for character in beyond_ascii if "\u4e00" <= character <= "\u9fff"]
    if len(ideographs) < 0.6 * len(beyond_ascii) or len(ideographs) < 4:
        return False
    return sum(character in _COMMON_CHINESE for character in ideographs) > 0.1 * len(ideographs)


def read_up_to(stream: BinaryIO, count: int) -> bytes:
    """Reads `count` bytes, or all that are left when they are fewer (a single `read` may return less)."""
    parts = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def buffered(raw: Any) -> BinaryIO:
    """Returns a raw stream with a buffer of CHUNK bytes around it."""
    return cast(BinaryIO, io.BufferedReader(raw, CHUNK))


def decode_stream(first: bytes, stream: BinaryIO, codec: str) -> Iterator[str]:
    """Decodes `first` and then the rest of a stream; bytes that do not decode become marks that `BAD` finds."""
    # surrogateescape is the same marking in C, but only for codecs whose bad bytes are never ASCII.
    decoder = codecs.getincrementaldecoder(codec)("surrogateescape" if codec == "utf-8" else "zhixing-mark")
    chunk = first
    while chunk:
        yield decoder.decode(chunk)
        chunk = stream.read(CHUNK)
    if rest := decoder.decode(b"", True):
        yield rest


class Utf8Stream(io.RawIOBase):
    """A stream that gives the text of another one as UTF-8, whatever its codec; bad bytes come out as 0xff.

    Where lines end with a carriage return alone, it becomes a line feed.
    """

    def __init__(self, first: bytes, stream: BinaryIO, codec: str) -> None:
        self._chunks = _utf8_chunks(first, stream, codec)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Says that this stream is there to be read."""
        return True

    def readinto(self, target: bytearray) -> int:  # type: ignore[override]
        """Fills `target` with what comes next; 0 at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(target), len(self._left))
        target[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _utf8_chunks(first: bytes, stream: BinaryIO, codec: str) -> Iterator[bytes]:
    chunks: Iterable[bytes]
    if codec == "utf-8":
        chunks = itertools.chain((first,), iter(lambda: stream.read(CHUNK), b""))
    else:
        chunks = (text.encode("utf-8", "surrogateescape") for text in decode_stream(first, stream, codec))
    old_macintosh = None
    for chunk in chunks:
        if old_macintosh is None:
            old_macintosh = b"\r" in chunk and b"\n" not in chunk
        if chunk:
            yield chunk.replace(b"\r", b"\n") if old_macintosh else chunk
