"""Reading sources as documents, one after the other, in bounded memory. Finding them is `sources`' concern.

What cannot be read is reported to `Problems` with file and line and skipped; reading goes on.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

from zhixing.core.errors import BadInput
from zhixing.data.cutting import cut_text
from zhixing.data.decoding import BAD, CHUNK, NotTextError, decode_stream, find_encoding, read_up_to
from zhixing.data.documents import Document
from zhixing.data.fields import TextField
from zhixing.data.problems import Problems
from zhixing.data.records import RECORD_LIMIT, read_records
from zhixing.data.sources import Source
from zhixing.data.streams import open_source, read_faults, require_packages

WHOLE_RECORD = 1 << 18
"""Records (of JSON, CSV, Parquet) of at most so many characters stay whole; longer ones are cut like files."""
BAD_LINES = 0.05
"""When no more than this share of the lines of a text hold bad bytes, only those lines are left out."""

_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def read_documents(
    sources: Iterable[Source],
    problems: Problems,
    *,
    field: str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Document]:
    """Reads the documents of all sources in order.

    Plain text files are one document each, or several when they are long (see `cutting`). Records of JSON Lines, JSON,
    CSV, TSV and Parquet files are one document each.

    Args:
        sources: What `find_sources` returned.
        problems: Where everything that is skipped or odd is counted.
        field: The column or key that holds the text; None finds it by its name (`text`, `content`, ...).
        advance: Is called with the bytes on disk that were read, for progress.

    Raises:
        BadInput: There is not one document, and why: for instance no column holds text, and which columns there are.
        MissingResource: A format needs a package that is not installed.
    """
    sources = list(sources)
    require_packages(sources)
    faults = read_faults()
    found = False
    without_text: list[tuple[Source, TextField]] = []
    names: list[str] = []
    with Archives() as archives:
        for source in sources:
            if len(names) < 4:
                names.append(source.name)
            text_field = TextField(field)
            try:
                with open_source(source, archive=archives.of(source), advance=advance) as stream:
                    if source.format == "text":
                        documents = _read_text(source, stream, problems)
                    else:
                        documents = _read_table(source, stream, problems, text_field)
                    for document in documents:
                        found = True
                        yield document
                if source.format == "parquet" and source.member is None and advance is not None:
                    advance(source.size)  # it is not read through the stream, which would have counted
            except faults as error:
                problems.report("unreadable", source.name, fault_reason(error))
            if not text_field.found and text_field.columns:
                without_text.append((source, text_field))
    if not found:
        if without_text:
            source, text_field = without_text[0]
            raise text_field.error(source.name)
        first = problems.first()
        more = ", ..." if len(names) == 4 else ""
        raise BadInput(
            f"there is no text to read{f' ({first})' if first else ''}",
            where=f"{', '.join(names[:3])}{more}" if names else None,
            remedy="give files with text in UTF-8",
        )


def fault_reason(error: Exception) -> str:
    """Says in a few words why a source could not be read to its end."""
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"damaged: {error}" if str(error) else f"damaged: {type(error).__name__}"


class Archives:
    """Keeps the zip archive of the last source open: opening one reads its whole directory."""

    def __init__(self) -> None:
        self._archive: zipfile.ZipFile | None = None
        self._source: Source | None = None

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def of(self, source: Source) -> zipfile.ZipFile | None:
        """Returns the open archive of a source that is a zip member."""
        if source.member is None:
            return None
        if self._source is None or self._source.path != source.path or self._archive is None:
            if self._archive is not None:
                self._archive.close()
                self._archive = None
            self._archive = zipfile.ZipFile(source.path)
            self._source = source
        return self._archive


def _read_text(source: Source, stream: BinaryIO, problems: Problems) -> Iterator[Document]:
    name = source.name
    first = read_up_to(stream, CHUNK)
    if not first:
        problems.report("empty", name, "the file is empty")
        return
    try:
        encoding = find_encoding(first, complete=len(first) < CHUNK, suffix=source.suffix)
    except NotTextError as error:
        problems.report(error.kind, name, str(error), line=error.line)
        return
    if encoding.note:
        problems.report("encoding", name, encoding.note)
    line, offset = 1, encoding.mark
    for text in cut_text(decode_stream(first[encoding.mark :], stream, encoding.codec)):
        bad = bad_character(text)
        if bad:
            kept = _without_bad_lines(text, _Place(name, line, offset, encoding.codec), problems)
        elif line == 1 and text.isspace():
            problems.report("empty", name, "nothing but white space")
            kept = ""
        else:
            kept = text
        if kept:
            yield Document(kept, name, line)
        line += text.count("\n") or text.count("\r")
        offset += len(text.encode("utf-8", "surrogateescape"))


class _Place(NamedTuple):
    """Where a text begins: file, line, and the offset in bytes if it is UTF-8."""

    source: str
    line: int
    offset: int
    codec: str


def _without_bad_lines(text: str, place: _Place, problems: Problems) -> str:
    """Leaves out, and reports, the lines that hold bad characters; when they are many, the whole text."""
    lines = text.splitlines(keepends=True) if "\n" not in text else _LINE.findall(text)
    bad_lines = {number for number, line in enumerate(lines) if BAD.search(line)}
    whole = len(bad_lines) > max(1, BAD_LINES * len(lines)) or len(bad_lines) == len(lines)
    at = 0
    for number, line in enumerate(lines):
        if number in bad_lines:
            bad = BAD.search(line)
            assert bad is not None
            before = len(text[: at + bad.start()].encode("utf-8", "surrogateescape"))
            skipped = (
                f"{len(text)} characters are skipped" if whole else f"the line ({len(line)} characters) is skipped"
            )
            what = _describe(bad[0], place.codec, place.offset + before)
            problems.report("undecodable", place.source, f"{what}; {skipped}", line=place.line + number)
            if whole:
                return ""
        at += len(line)
    return "".join(line for number, line in enumerate(lines) if number not in bad_lines)


def _describe(bad: str, codec: str, offset: int) -> str:
    if bad == "\0":
        return "a NUL character"
    if codec != "utf-8":
        return f"not {codec.upper()}"
    return f"not UTF-8: byte 0x{ord(bad) - 0xDC00:02x} at offset {offset}"


def bad_character(text: str) -> re.Match[str] | None:
    """Finds the first character that no document may hold: NUL, or half a surrogate pair."""
    if "\0" not in text:
        if text.isascii():
            return None
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            pass
        else:
            return None
    return BAD.search(text)


def _read_table(source: Source, stream: BinaryIO, problems: Problems, field: TextField) -> Iterator[Document]:
    name = source.name
    for line, record in read_records(source, stream, problems, field):
        text = field.text(record)
        if text is None:
            problems.report("field", name, field.why(record), line=line)
            if field.hopeless:
                problems.report("field", name, "no record has text so far; the rest of the file is left out", line=line)
                return
        elif not text or text.isspace():
            problems.report("empty", name, "the text of this record is empty", line=line)
        elif len(text) > RECORD_LIMIT:
            problems.report("long", name, f"a text of {len(text)} characters", line=line)
        elif bad := bad_character(text):
            what = "a NUL character" if bad[0] == "\0" else "half a surrogate pair"
            problems.report("undecodable", name, f"the text holds {what}", line=line)
        elif len(text) <= WHOLE_RECORD:
            yield Document(text, name, line)
        else:
            for piece in cut_text([text]):
                yield Document(piece, name, line)
    if field.found and field.asked is None and field.name not in (None, "text"):
        problems.report("chosen", name, f"the text is taken from {field.name!r}")
