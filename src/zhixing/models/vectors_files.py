"""Word vectors in word2vec's two formats, and GloVe's, which lacks their first line.

Text: a line "WORDS SIZE", then a line per word: the word and its numbers. Binary: the same first line, then for each
word the word, a space, and its numbers as float32. White space in a word is written as \\uXXXX, and said.
"""

from __future__ import annotations

import codecs
import gzip
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault
from zhixing.models.vectors import Matrix, WordVectors

LONGEST_LINE = 1 << 20
LONGEST_WORD = 1 << 14
LARGEST_SIZE = 1 << 16
GZIP_AT_MOST = 100
"""How often smaller compressed text can be: more is not believed of a file's first line."""

_SPACE = re.compile(r"[\s\x00\\]")


def write_vectors(vectors: WordVectors, path: Path, *, binary: bool) -> int:
    """Writes vectors in word2vec's text or binary format; a text file ending in .gz is compressed.

    Returns:
        How many words held white space or backslashes, which are written as \\uXXXX.

    Raises:
        MissingResource: The file cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    names = [_SPACE.sub(lambda match: f"\\u{ord(match[0]):04x}", word) or "\\u0000" for word in vectors.words]
    try:
        if binary:
            with part.open("wb") as file:
                file.write(f"{len(names)} {vectors.size}\n".encode())
                for name, row in zip(names, vectors.vectors, strict=True):
                    file.write(name.encode("utf-8") + b" " + row.astype("<f4").tobytes() + b"\n")
        else:
            with _open_text(part, "wt", path.suffix) as text:
                text.write(f"{len(names)} {vectors.size}\n")
                for name, row in zip(names, vectors.vectors, strict=True):
                    text.write(f"{name} {' '.join(map(str, row))}\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise os_fault(error, path, "writing word vectors") from error
    return sum(name != word for name, word in zip(names, vectors.words, strict=True))


def _open_text(path: Path, mode: str, suffix: str) -> IO[str]:
    if suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="\n")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8", newline="\n")


def read_vectors(path: Path) -> WordVectors:
    """Reads a file of vectors, found out to be text or binary by looking.

    Raises:
        MissingResource: It is not there, or cannot be read.
        BadInput: It is neither, or broken; the message names the line or the word.
    """
    if not path.is_file():
        raise MissingResource("no such file of word vectors", where=str(path))
    try:
        if path.suffix != ".gz" and _is_binary(path):
            return _read_binary(path)
        with _open_text(path, "rt", path.suffix) as file:
            return _TextReader(path, file).read()
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8 text, and not word2vec's binary format", where=str(path)) from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(f"not a whole gzip file ({error})", where=str(path), remedy="copy it again") from error
    except OSError as error:
        raise os_fault(error, path, "reading word vectors") from error


def _header(line: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"(\d{1,10}) (\d{1,6})\s*", line)
    return (int(match[1]), int(match[2])) if match else None


def _check_header(count: int, size: int, room: int, where: str) -> None:
    """Refuses numbers that cannot be, before memory is asked for."""
    if not 1 <= size <= LARGEST_SIZE or count < 1:
        raise BadInput(f"the first line says {count} words of {size} numbers", where=where)
    if count * size > room:
        raise BadInput(f"the first line says {count} words of {size} numbers, but the file is too small", where=where)


def _is_binary(path: Path) -> bool:
    """Tells by what follows the first line: numbers of 32 bits are hardly ever text."""
    with path.open("rb") as file:
        if _header(file.readline(64).decode("latin-1")) is None:
            return False
        sample = file.read(4096)
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    return any(character == "\ufffd" or (character < " " and character not in "\t\r\n") for character in text)


def _read_binary(path: Path) -> WordVectors:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(b"\n") + 1
        header = _header(data[:at].decode("latin-1"))
        assert header is not None
        count, size = header
        _check_header(count, size, (len(data) - at) // 4, str(path))
        vectors, words = np.empty((count, size), dtype=np.float32), []
        for row in range(count):
            while data[at : at + 1] == b"\n":
                at += 1
            space = data.find(b" ", at, at + LONGEST_WORD)
            end = space + 1 + 4 * size
            if space < 0 or end > len(data):
                cause = f"the file ends, or is broken, at word {row + 1} of {count}"
                raise BadInput(cause, where=str(path), remedy="copy it again")
            try:
                words.append(data[at:space].decode("utf-8"))
            except UnicodeDecodeError as error:
                raise BadInput(f"word {row + 1} is not UTF-8 (byte {at})", where=str(path)) from error
            vectors[row] = np.frombuffer(data, "<f4", size, space + 1)
            at = end
    return _finished(words, vectors, path)


class _TextReader:
    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path, self.file, self.number = path, file, 0

    def fail(self, cause: str) -> NoReturn:
        raise BadInput(cause, where=f"{self.path}:{self.number}")

    def line(self) -> str:
        text = self.file.readline(LONGEST_LINE)
        self.number += 1
        if len(text) == LONGEST_LINE:
            self.fail(f"a line of more than {LONGEST_LINE} characters: these are no word vectors")
        return text

    def read(self) -> WordVectors:
        first = self.line()
        header = _header(first)
        words: list[str] = []
        if header is not None:
            count, size = header
            room = self.path.stat().st_size * (GZIP_AT_MOST if self.path.suffix == ".gz" else 1)
            _check_header(count, size, room // 2, f"{self.path}:1")
            rows = np.empty((count, size), dtype=np.float32)
            for row in range(count):
                word, rows[row] = self.parse(self.line(), size)
                words.append(word)
            if self.line().strip():
                self.fail(f"the first line says {count} words, but there are more")
            return _finished(words, rows, self.path)
        size = len(first.split()) - 1
        if not 2 <= size <= LARGEST_SIZE:
            self.fail("neither a line 'WORDS SIZE' nor a word with its numbers: these are no word vectors")
        pieces: list[Matrix] = []
        text = first
        while text:
            word, vector = self.parse(text, size)
            words.append(word)
            pieces.append(vector)
            text = self.line()
        return _finished(words, np.stack(pieces), self.path)

    def parse(self, text: str, size: int) -> tuple[str, Matrix]:
        """Returns a line's word and numbers, counted from behind: a word of GloVe's may hold spaces."""
        if not text:
            self.fail("the file ends too early")
        fields = text.rstrip("\r\n ").split(" ")
        if len(fields) < size + 1:
            self.fail(f"{len(fields) - 1} numbers, expected {size}: {text[:60]!r}")
        try:
            vector = np.array(fields[-size:], dtype=np.float32)
        except ValueError:
            self.fail(f"not {size} numbers: {text[:60]!r}")
        return " ".join(fields[:-size]), vector


def _finished(words: Sequence[str], vectors: Matrix, path: Path) -> WordVectors:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise BadInput(f"the vector of {words[bad[0]][:60]!r} holds what is no number", where=str(path))
    try:
        return WordVectors(words, vectors)
    except BadInput as error:
        raise BadInput(error.cause, where=str(path)) from error
