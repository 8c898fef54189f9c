"""ARPA files: the text format in which n-gram models are exchanged (SRILM, KenLM, Kaldi).

A file lists, order by order, log10 p, the words, and log10 of the back-off weight. `<s>` begins a text, `</s>` ends
it. In the tables one row serves both: `<s>` is only ever a context, `</s>` is never one. Words are separated by white
space, so a token that holds some is spelled with escapes (`word_names`). Files ending in .gz are compressed.
"""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault
from zhixing.models.ngram.tables import UNKNOWN, Floats, Ints, NgramTables, find

BEGIN, END, UNK = "<s>", "</s>", "<unk>"
ZERO = -99.0
"""What stands for log10 0 in ARPA files."""

PIECE = 1 << 16
"""N-grams that are worked on at a time."""

LONGEST_LINE = 1 << 16
HIGHEST_ORDER = 32

# What separates words for one reader or another: white space, and characters that end a line for some.
_SEPARATING = re.compile(r"[\s\x00-\x20\x7f\x85\xa0\u2028\u2029\u200b\ufeff\\]")


def word_names(pieces: Sequence[str | None], unknown: int | None = None) -> list[str]:
    """Returns how each token is spelled in an ARPA file: without white space, and never like one of the marks.

    White space, control characters and backslashes become \\uXXXX, so that names stay different.

    Args:
        pieces: The raw spelling of each id; None for an id that is not used.
        unknown: The token for what the vocabulary cannot spell: it is `<unk>`.
    """
    names = []
    for index, piece in enumerate(pieces):
        if index == unknown:
            names.append(UNK)
        elif not piece:
            names.append(f"\\id{index}")
        elif piece in (BEGIN, END, UNK):
            names.append(f"\\u003c{piece[1:]}")
        else:
            names.append(_SEPARATING.sub(lambda match: f"\\u{ord(match[0]):04x}", piece))
    return names


def write_arpa(tables: NgramTables, names: Sequence[str], path: Path) -> None:
    """Writes a model as an ARPA file, a piece at a time.

    Every number is written with as many digits as reading it back exactly takes.

    Args:
        tables: The model.
        names: The word of each token, from `word_names`.
        path: The file; compressed when it ends in .gz.

    Raises:
        MissingResource: It cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with _open(part, "wt", path.suffix) as file:
            _write(file, tables, names)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise os_fault(error, path, "writing an ARPA file") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _open(path: Path, mode: str, suffix: str) -> IO[str]:
    if suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="\n")  # type: ignore[return-value]
    return path.open(mode, encoding="utf-8", newline="\n")


def _write(file: IO[str], tables: NgramTables, names: Sequence[str]) -> None:
    contexts, lasts = np.array([*names, BEGIN], dtype=object), np.array([*names, BEGIN], dtype=object)
    contexts[tables.begin], lasts[tables.begin] = BEGIN, END
    counts = [tables.vocab_size + 1 + (tables.begin == tables.vocab_size), *tables.counts[1:]]
    file.write("\\data\\\n" + "".join(f"ngram {order}={count}\n" for order, count in enumerate(counts, 1)))
    for order in range(1, tables.order + 1):
        file.write(f"\n\\{order}-grams:\n")
        values = tables.log_probabilities[order - 1]
        backoffs = tables.log_backoffs[order - 1] if order < tables.order else None
        for start in range(0, len(values), PIECE):
            piece = slice(start, min(len(values), start + PIECE))
            columns = _words(tables, order, np.arange(piece.start, piece.stop), contexts, lasts)
            lines = [_numbers(values[piece]), *columns]
            text = [f"{line[0]}\t{' '.join(line[1:])}" for line in zip(*lines, strict=True)]
            if backoffs is not None:
                text = [f"{line}\t{number}" for line, number in zip(text, _numbers(backoffs[piece]), strict=True)]
            if order == 1 and piece.start <= tables.begin < piece.stop:
                text[tables.begin - piece.start] = _marks(tables)
            file.write("\n".join(text) + "\n")
    file.write("\n\\end\\\n")


def _numbers(values: Floats) -> list[str]:
    """Returns the shortest spelling of each float32 that reads back as itself."""
    return [text.removesuffix(".0") for text in np.asarray(values).astype(str).tolist()]


def _marks(tables: NgramTables) -> str:
    """Returns the lines of <s>, which nobody predicts, and </s>, which nothing follows."""
    end = ZERO if tables.begin == tables.vocab_size else tables.log_probabilities[0][tables.begin]
    backoff = f"\t{_numbers(tables.log_backoffs[0][tables.begin : tables.begin + 1])[0]}" if tables.order > 1 else ""
    nothing = "\t0" if tables.order > 1 else ""
    return f"0\t{BEGIN}{backoff}\n{_numbers(np.array([end], dtype=np.float32))[0]}\t{END}{nothing}"


def _words(
    tables: NgramTables, order: int, rows: Ints, contexts: NDArray[Any], lasts: NDArray[Any]
) -> list[NDArray[Any]]:
    """Returns the words of some n-grams, one array per position."""
    columns: list[NDArray[Any]] = []
    for length in range(order, 0, -1):
        tokens = rows
        if length > 1:
            rows, tokens = np.divmod(tables.keys[length - 2][rows], tables.vocab_size)
        columns.append((lasts if length == order > 1 else contexts)[tokens])
    return columns[::-1]


@dataclass(frozen=True)
class ArpaModel:
    """What was read from an ARPA file.

    Attributes:
        tables: The model.
        words: Its words in the order of their ids, where the file itself gave the vocabulary; `</s>` among them.
        notes: What the reader should know, in sentences.
    """

    tables: NgramTables
    words: list[str]
    notes: list[str]


def read_arpa(path: Path, names: Sequence[str] | None = None, begin: int | None = None) -> ArpaModel:
    """Reads an ARPA file, line by line; memory holds the numbers of the model, never the text.

    Args:
        path: The file; compressed when it ends in .gz.
        names: The word of each token of a tokenizer (`word_names`); None takes the file's own words as the vocabulary.
        begin: With `names`: the token that ends texts and that they begin after, or None.

    Raises:
        BadInput: It is no ARPA file, or a broken one, or it does not fit the tokenizer; the message names the line.
        MissingResource: It cannot be read.
    """
    if not path.is_file():
        raise MissingResource("no such file", where=str(path))
    try:
        with _open(path, "rt", path.suffix) as file:
            return _Reader(path, file, names, begin).read()
    except UnicodeDecodeError as error:
        raise BadInput(f"not UTF-8 text ({error.reason})", where=str(path), remedy="convert it with iconv") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(f"not a whole gzip file ({error})", where=str(path), remedy="copy it again") from error
    except OSError as error:
        raise os_fault(error, path, "reading an ARPA file") from error


class _Reader:
    def __init__(self, path: Path, file: IO[str], names: Sequence[str] | None, begin: int | None) -> None:
        self.path, self.file = path, file
        self.line = 0
        self.own = names is None
        self.ids: dict[str, int] = {} if names is None else {name: index for index, name in enumerate(names)}
        self.vocab_size = len(self.ids)
        self.begin = begin if begin is not None else self.vocab_size
        self.notes: list[str] = []

    def fail(self, cause: str, line: int | None = None, remedy: str | None = None) -> NoReturn:
        raise BadInput(cause, where=f"{self.path}:{self.line if line is None else line}", remedy=remedy)

    def lines(self) -> Iterator[str]:
        """Yields lines that hold something."""
        while text := self.file.readline(LONGEST_LINE):
            self.line += 1
            if len(text) == LONGEST_LINE and not text.endswith("\n"):
                self.fail(f"a line of more than {LONGEST_LINE} characters", remedy="this is no ARPA file")
            if stripped := text.strip(" \t\r\n"):
                yield stripped

    def read(self) -> ArpaModel:
        """Reads all sections."""
        lines = self.lines()
        for text in lines:
            if text == "\\data\\":
                break
            if self.line > 1000:
                self.fail("no \\data\\ line so far: this is no ARPA file")
        else:
            self.fail("no \\data\\ line: this is no ARPA file")
        counts, text = self.header(lines)
        keys: list[Ints] = []
        values, backoffs = [], []
        for order, count in enumerate(counts, 1):
            if text != f"\\{order}-grams:":
                self.fail(f"expected \\{order}-grams:, got {text[:60]!r}")
            highest = order == len(counts)
            if order == 1:
                value, backoff, text = self.unigrams(lines, count, highest)
            else:
                key, value, backoff, text = self.section(lines, order, count, highest, keys)
                keys.append(key)
            values.append(value)
            if not highest:
                backoffs.append(backoff)
        if text != "\\end\\":
            self.fail(f"expected \\end\\, got {text[:60]!r}", remedy="the file is cut off, or damaged: copy it again")
        tables = NgramTables(self.vocab_size, self.begin, keys, values, backoffs)
        words = [word for word, _ in sorted(self.ids.items(), key=lambda item: item[1])] if self.own else []
        return ArpaModel(tables, words, self.notes)

    def header(self, lines: Iterator[str]) -> tuple[list[int], str]:
        """Reads the counts; returns them and the line behind them."""
        counts: list[int] = []
        size = self.path.stat().st_size * (2000 if self.path.suffix == ".gz" else 1)
        while text := next(lines, ""):
            match = re.fullmatch(r"ngram\s+(\d{1,4})\s*=\s*(\d{1,18})", text)
            if match is None:
                if not counts or not text.startswith("\\"):
                    self.fail(f"expected 'ngram {len(counts) + 1}=COUNT', got {text[:60]!r}")
                return counts, text
            order, count = int(match[1]), int(match[2])
            if order != len(counts) + 1 or order > HIGHEST_ORDER:
                self.fail(f"the count of order {order} stands where that of order {len(counts) + 1} belongs")
            if count > size // (2 * order):
                self.fail(f"{count} {order}-grams cannot be in a file of {self.path.stat().st_size} bytes")
            counts.append(count)
        return self.fail("the file ends inside its header", remedy="it is cut off: copy it again")

    def entries(self, lines: Iterator[str], order: int, count: int, highest: bool) -> Iterator[_Entry]:
        """Yields the lines of one section, then one entry with the line behind it as its words."""
        for seen, text in enumerate(lines):
            if text.startswith("\\") and (text.endswith("-grams:") or text == "\\end\\"):
                if seen != count:
                    self.fail(f"the header says {count} {order}-grams, but there are {seen}")
                yield _Entry(math.nan, [text], 0.0)
                return
            fields = text.split()
            if len(fields) not in ((order + 1,) if highest else (order + 1, order + 2)):
                self.fail(f"a line of the {order}-grams has {len(fields)} fields: {text[:80]!r}")
            if seen == count:
                self.fail(f"the header says {count} {order}-grams, but there are more")
            backoff = self.number(fields[-1]) if len(fields) == order + 2 else 0.0
            probability = self.number(fields[0])
            if probability > 0:
                self.fail(f"the probability 10^{fields[0]} is above 1")
            yield _Entry(probability, fields[1 : order + 1], backoff)
        self.fail(f"the file ends inside the {order}-grams", remedy="it is cut off: copy it again")

    def number(self, text: str) -> float:
        """Reads a logarithm; -inf counts as -99."""
        try:
            value = float(text)
        except ValueError:
            self.fail(f"{text[:40]!r} is not a number")
        if value == -math.inf:
            return ZERO
        if not math.isfinite(value) or abs(value) > 1e6:
            self.fail(f"{text[:40]!r} is not a logarithm")
        return value

    def unigrams(self, lines: Iterator[str], count: int, highest: bool) -> tuple[Floats, Floats, str]:
        """Reads the single words, which are the vocabulary where no tokenizer gives one."""
        found: dict[str, tuple[float, float]] = {}
        behind = ""
        for entry in self.entries(lines, 1, count, highest):
            if math.isnan(entry.probability):
                behind = entry.words[0]
                break
            word = entry.words[0]
            if word in found:
                self.fail(f"the word {word!r} stands here a second time")
            if not self.own and word not in self.ids and word not in (BEGIN, END, UNK):
                self.fail(
                    f"the word {word[:60]!r} is no token of the tokenizer",
                    remedy="read the file without --tokenizer: its words become the vocabulary",
                )
            found[word] = (entry.probability, entry.backoff)
        self.end = found.get(END, (ZERO, 0.0))[0] > ZERO
        self.set_vocabulary(found)
        rows = max(self.vocab_size, self.begin + 1)
        values, backoffs = np.full(rows, np.nan, dtype=np.float32), np.zeros(rows, dtype=np.float32)
        for word, (probability, backoff) in found.items():
            if word == BEGIN:
                backoffs[self.begin] = backoff
            elif word == END and self.end:
                values[self.begin] = probability
            elif word != END and word in self.ids:
                values[self.ids[word]], backoffs[self.ids[word]] = probability, backoff
        self.fill(values, found.get(UNK))
        if self.begin == self.vocab_size:
            values[self.begin] = 0.0
        return values, backoffs, behind

    def set_vocabulary(self, found: Mapping[str, Any]) -> None:
        """Numbers the words, or checks that the tokenizer can end a text where the file does."""
        if self.own:
            words = [word for word in found if word != BEGIN and (word != END or self.end)]
            self.ids = {word: index for index, word in enumerate(words)}
            self.vocab_size = len(words)
            self.begin = self.ids.get(END, self.vocab_size)
        elif self.end and self.begin == self.vocab_size:
            self.fail(
                f"the file predicts the end of a text ({END}), for which the tokenizer has no token",
                remedy="use a tokenizer with an end-of-text token",
            )
        if not self.vocab_size:
            self.fail("there are no words")

    def fill(self, values: Floats, unknown: tuple[float, float] | None) -> None:
        """Gives tokens that the file does not name their share of <unk>."""
        missing = np.isnan(values[: self.vocab_size])
        count = int(missing.sum())
        if not count:
            return
        if unknown is None or UNK in self.ids:
            # A tokenizer's own token for the unknown has that probability itself; nothing is left for others.
            if self.begin < self.vocab_size and count == 1 and missing[self.begin]:
                values[self.begin] = ZERO  # texts do not end
                return
            self.fail(
                f"{count} tokens of the tokenizer are not in the file, and it has no {UNK} for them",
                remedy="read the file without --tokenizer, or with the one it was made for",
            )
        values[: self.vocab_size][missing] = unknown[0] - math.log10(count)
        self.notes.append(f"{count} tokens that the file does not name share the probability of {UNK}")

    def section(
        self, lines: Iterator[str], order: int, count: int, highest: bool, keys: list[Ints]
    ) -> tuple[Ints, Floats, Floats, str]:
        """Reads the n-grams of one order above 1 and puts them into the order of their keys."""
        pieces: list[tuple[Ints, Floats, Floats, Ints]] = []
        tokens: list[list[int]] = []
        numbers: list[tuple[float, float]] = []
        places: list[int] = []
        behind = ""
        for entry in self.entries(lines, order, count, highest):
            last = math.isnan(entry.probability)
            if last:
                behind = entry.words[0]
            else:
                tokens.append(self.tokens(entry.words))
                numbers.append((entry.probability, entry.backoff))
                places.append(self.line)
            if tokens and (last or len(tokens) == PIECE):
                pieces.append(self.pack(np.array(tokens, dtype=np.int64), numbers, places, keys))
                tokens, numbers, places = [], [], []
        if not pieces:
            empty = np.empty(0, dtype=np.float32)
            return np.empty(0, dtype=np.int64), empty, empty, behind
        key, value, backoff, line = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        arrangement = np.argsort(key, kind="stable")
        key = key[arrangement]
        double = np.flatnonzero(key[1:] == key[:-1])
        if len(double):
            first, second = line[arrangement[double[0] : double[0] + 2]].tolist()
            self.fail(f"this n-gram stands in line {first} already", line=second)
        return key, value[arrangement], backoff[arrangement], behind

    def tokens(self, words: list[str]) -> list[int]:
        """Turns the words of an n-gram into ids."""
        ids = []
        for place, word in enumerate(words):
            ends = word == END and place == len(words) - 1 and self.begin < self.vocab_size
            if ends or (word == BEGIN and place == 0):
                ids.append(self.begin)
            elif word in (BEGIN, END):
                self.fail(f"{word} cannot be word {place + 1} of {len(words)}: {' '.join(words)[:80]!r}")
            elif (index := self.ids.get(word)) is None:
                self.fail(f"the word {word[:60]!r} is not among the 1-grams")
            else:
                ids.append(index)
        return ids

    def pack(
        self, tokens: Ints, numbers: list[tuple[float, float]], places: list[int], keys: list[Ints]
    ) -> tuple[Ints, Floats, Floats, Ints]:
        """Returns keys, probabilities, back-off weights and lines of some n-grams, (n, order) ids."""
        rows: Ints = tokens[:, 0]
        for place in range(1, tokens.shape[1] - 1):
            rows = find(keys[place - 1], self.vocab_size, rows, tokens[:, place])
        lost = np.flatnonzero(rows == UNKNOWN)
        if len(lost):
            self.fail(
                f"the first {tokens.shape[1] - 1} words of this n-gram are not among the {tokens.shape[1] - 1}-grams",
                line=places[lost[0]],
                remedy="a model whose contexts were pruned away cannot be read",
            )
        values = np.array(numbers, dtype=np.float32)
        return rows * self.vocab_size + tokens[:, -1], values[:, 0], values[:, 1], np.array(places, dtype=np.int64)


@dataclass(slots=True)
class _Entry:
    """One line of a section; a probability of NaN marks the line behind the section."""

    probability: float
    words: list[str]
    backoff: float
