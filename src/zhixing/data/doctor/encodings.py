"""Text that is not UTF-8, turned into it: by its byte-order mark, or line by line in the encodings that fit them.

A line may be too short to tell its encoding: then the encoding of most other lines is its own, too.
"""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from zhixing.data.decoding import CHUNK, find_encoding, is_chinese, read_up_to
from zhixing.data.records import RECORD_LIMIT
from zhixing.data.sources import Source
from zhixing.data.streams import open_source

SAMPLE = 1 << 20
"""Bytes of lines that are not UTF-8 from which the encoding of a file is told."""
_RUNS = re.compile(rb"[\x80-\xff]+")


def to_utf8(source: Source, folder: Path) -> tuple[Source, list[tuple[int, str, str]]]:
    """Returns a source whose text is UTF-8: itself when it is, else a copy in a folder.

    Returns:
        The source, and (line, codec, the line) for each line that was in another encoding.
    """
    if source.format == "parquet" or _is_utf8(source):
        return source, []
    with open_source(source) as stream:
        usual = _usual(stream)
    target = folder / (Path(source.member or source.path.name).name.removesuffix(".gz").removesuffix(".zst"))
    odd = []
    with open_source(source) as stream, target.open("wb") as file:
        for number, line in enumerate(_decoded(stream, usual), start=1):
            text, codec = line
            file.write(text.encode("utf-8"))
            if codec != "utf-8":
                odd.append((number, codec, text))
    copy = replace(source, path=target, member=None, compression="none", size=target.stat().st_size)
    return copy, odd


def _is_utf8(source: Source) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open_source(source) as stream:
            first = read_up_to(stream, CHUNK)
            if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _unmarked(first):
                return False
            decoder.decode(first)
            while chunk := stream.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _unmarked(first: bytes) -> str | None:
    """Returns the codec of UTF-16 that has no byte-order mark, as some spreadsheets write it."""
    sample = first[: 1 << 16]
    sample = sample[: len(sample) // 2 * 2]
    if sample.count(0) < 4:
        return None
    for codec, ending in (("utf-16-le", "\n".encode("utf-16-le")), ("utf-16-be", "\n".encode("utf-16-be"))):
        text = sample.decode(codec, "replace")
        plain = sum(
            (character.isascii() and (character.isprintable() or character in "\t\r\n"))
            or "\u3000" <= character <= "\u9fff"
            or "\uff00" <= character <= "\uffef"
            or (character.isalpha() and character < "\u2000")
            for character in text
        )
        if plain > 0.98 * len(text) and ending in sample:
            return codec
    return None


def _usual(stream: BinaryIO) -> str | None:
    """Returns the encoding in which most lines that are not UTF-8 can be read, None where that cannot be told."""
    votes: Counter[str] = Counter()
    joined = b""
    while len(joined) < SAMPLE and (line := stream.readline(RECORD_LIMIT)):
        if line.isascii():
            continue
        codec = decode_line(line)[1]
        if codec != "utf-8":
            joined += line
            votes[codec] += sum(map(len, _RUNS.findall(line)))
    eastern = [codec for codec in _CODECS if codec != "cp1252"]  # accents are told line by line
    whole = next((codec for codec in eastern if joined and _CODECS[codec](joined, codec)), None)
    if whole is not None:
        return whole
    codec, weight = votes.most_common(1)[0] if votes else ("", 0)
    return codec if codec in eastern and weight > votes.total() / 2 else None


def _decoded(stream: BinaryIO, usual: str | None) -> Iterator[tuple[str, str]]:
    """Yields the lines of a stream, each with the codec that it is in."""
    first = read_up_to(stream, CHUNK)
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
    if first.startswith(marks):
        encoding = find_encoding(first, complete=False)
        rest = io.BufferedReader(_Joined(first[encoding.mark :], stream))  # type: ignore[type-var]
        for text in io.TextIOWrapper(rest, encoding.codec, "replace", newline=""):
            yield text, encoding.codec
        return
    if (codec := _unmarked(first)) is not None:
        rest = io.BufferedReader(_Joined(first, stream))  # type: ignore[type-var]
        for text in io.TextIOWrapper(rest, codec, "replace", newline=""):
            yield text, codec
        return
    joined = io.BufferedReader(_Joined(first, stream))  # type: ignore[type-var]
    while line := joined.readline(RECORD_LIMIT):
        yield decode_line(line, usual)


class _Joined(io.RawIOBase):
    """The beginning of a stream that was read already, and its rest."""

    def __init__(self, first: bytes, stream: BinaryIO) -> None:
        self._first, self._stream = first, stream

    def readable(self) -> bool:
        return True

    def readinto(self, target: bytearray) -> int:  # type: ignore[override]
        data = self._first[: len(target)] or self._stream.read(len(target))
        self._first = self._first[len(data) :] if self._first else b""
        target[: len(data)] = data
        return len(data)


def decode_line(line: bytes, usual: str | None = None) -> tuple[str, str]:
    """Decodes a line: as UTF-8, else in the first encoding in which it reads as a language.

    What reads as none keeps its good characters; the bad bytes become U+FFFD, which only a person can mend.

    Args:
        line: Its bytes.
        usual: The encoding of most other lines of the file, where that is known.
    """
    try:
        return line.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    if usual is not None and _may_be(line, usual):
        return line.decode(usual), usual
    for codec, reads in _CODECS.items():
        if reads(line, codec):
            return line.decode(codec), codec
    return line.decode("utf-8", "replace"), "no known encoding"


def _may_be(line: bytes, codec: str) -> bool:
    """Tells whether a line may be in the encoding of its neighbours: it reads so, or its characters are whole pairs.

    A single letter with an accent, as a Western line has it, is no pair.
    """
    if _CODECS[codec](line, codec):
        return True
    try:
        line.decode(codec)
    except UnicodeDecodeError:
        return False
    return all(len(run) % 2 == 0 for run in _RUNS.findall(line))


def _reads_as_chinese(line: bytes, codec: str) -> bool:
    return is_chinese(line, True, codec)


def _reads_as_western(line: bytes, codec: str) -> bool:
    """Tells whether the characters beyond ASCII are letters within words, or the punctuation of Western languages."""
    try:
        text = line.decode(codec)
    except UnicodeDecodeError:
        return False
    beyond = sum(not character.isascii() for character in text)
    letters = sum(character.isalpha() for character in text)
    fitting = sum((c.isalpha() and c not in "ªºƒ") or c in _WESTERN for c in text if not c.isascii())
    return fitting > 0.9 * beyond and beyond <= 0.5 * max(letters, 2)


def _reads_in(first: str, last: str, share: float) -> Callable[[bytes, str], bool]:
    """Returns a test whether so large a share of the characters beyond ASCII is of one script."""

    def reads(line: bytes, codec: str) -> bool:
        try:
            beyond = [character for character in line.decode(codec) if not character.isascii()]
        except UnicodeDecodeError:
            return False
        return sum(first <= character <= last for character in beyond) > share * len(beyond)

    return reads


_WESTERN = frozenset("\u00a0‘’“”„‚‹›«»–—…•·°§©®™€£¥¢¡¿×÷±½¼¾²³¹µ¶†‡")
_KANA, _HANGUL = _reads_in("\u3040", "\u30ff", 0.3), _reads_in("\uac00", "\ud7a3", 0.8)
_CODECS: dict[str, Callable[[bytes, str], bool]] = {
    "cp932": _KANA,
    "euc_jp": _KANA,
    "gb18030": _reads_as_chinese,
    "big5": _reads_as_chinese,
    "euc_kr": _HANGUL,
    "cp1252": _reads_as_western,
}
"""Encodings that are tried for a line that is not UTF-8, with what tells that it reads as a language."""
