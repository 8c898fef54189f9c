"""Building token shards from text: read, split, encode, write. The format on disk is `shards`' concern."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, ZhixingError, unknown_name
from zhixing.core.files import FolderLock, atomic_folder, atomic_write, hash_json, os_fault, read_json
from zhixing.core.progress import human_count, progress_bar
from zhixing.data.encode import Encoder, Text, encode_ahead, flatten, in_batches
from zhixing.data.inputs import (
    InputFile,
    hash_inputs,
    inputs_from_json,
    inputs_to_json,
    look_at_inputs,
    report_changes,
)
from zhixing.data.problems import Problems
from zhixing.data.readers import read_documents
from zhixing.data.seams import seamless_chunks
from zhixing.data.shards import (
    FORMAT_VERSION,
    INDEX,
    SPLITS,
    ShardFacts,
    ShardSet,
    open_shards,
)
from zhixing.data.sources import Source, find_sources
from zhixing.data.split import document_hash, split_key
from zhixing.data.writer import SplitWriter

INPUTS = "inputs.json"
SPLIT_WAYS = ("document", "tail")


@dataclass(frozen=True)
class ShardOptions:
    """How text becomes shards.

    Attributes:
        validation_fraction: The share of documents (or, for `tail`, of characters) to hold out.
        split: `document` holds out documents by their content, stable under added data; `tail` holds out the end of
            the whole text.
        separator: Whether the tokenizer's end-of-text id follows each document. With `split="tail"` and no separator
            the tokens of each split are those of its text encoded as a whole.
        field: The column or key that holds the text of structured files; None finds it by name.
        seed: Chooses the held-out documents.
    """

    validation_fraction: float = 0.05
    split: str = "document"
    separator: bool = True
    field: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise BadInput(f"validation_fraction must be at least 0 and below 1, not {self.validation_fraction}")
        if self.split not in SPLIT_WAYS:
            raise unknown_name("split", self.split, SPLIT_WAYS)


def build_shards(
    paths: Sequence[str | Path],
    tokenizer: Encoder,
    folder: str | Path,
    options: ShardOptions | None = None,
    *,
    rebuild: bool = False,
) -> ShardSet:
    """Encodes text into a folder of token shards, or opens the folder when it is up to date.

    It is built again when the content of an input, the tokenizer or an option changed. The folder is replaced as a
    whole at the end: a crash leaves the old one, or none.

    Args:
        paths: Files, folders and glob patterns.
        tokenizer: What encodes the text.
        folder: Where the shards go.
        options: How to split and separate; the defaults when None.
        rebuild: Build even when nothing changed.

    Raises:
        MissingResource: A path is missing, the disk is full, the folder cannot be written, a package is missing.
        BadInput: There is no text, no field that holds it, or another process is building in this folder.
    """
    options = options or ShardOptions()
    folder = Path(folder)
    if options.separator and tokenizer.end_of_text_id is None:
        raise BadInput(
            "this tokenizer has no end-of-text token to separate documents with",
            remedy="choose separator: false (data.separator in a recipe), or a tokenizer with an end-of-text token",
        )
    problems = Problems()
    sources = find_sources(paths, problems)
    with _lock(folder):
        known = _known_inputs(folder)
        inputs = look_at_inputs(sources, known)
        if not rebuild and (ready := _up_to_date(folder, inputs, known, tokenizer, options)):
            return ready
        builder = _Builder(sources, tokenizer, options, inputs, problems)
        with atomic_folder(folder) as temporary:
            builder.build(temporary)
            atomic_write(temporary / INPUTS, json.dumps(inputs_to_json(inputs), ensure_ascii=False, indent=0))
        return open_shards(folder)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keeps other builds of this folder out, and clears away what a killed one left behind."""
    # The lock lies beside the folder, because the folder itself is replaced.
    with FolderLock(folder.with_name(f".{folder.name}.building")):
        try:
            for old in sorted(folder.parent.glob(f".{folder.name}.*.old")):
                if folder.exists():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    old.rename(folder)
            for part in folder.parent.glob(f".{folder.name}.*.part"):
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise os_fault(error, folder, "clearing away an unfinished build") from error
        yield


def _signature(inputs: Iterable[InputFile], tokenizer: Encoder, options: ShardOptions) -> str:
    return hash_json([FORMAT_VERSION, hash_inputs(inputs), tokenizer.fingerprint, asdict(options)])


def is_current(shards: ShardSet, paths: Sequence[str | Path]) -> bool:
    """Tells whether the text at these paths is still what the shards were built from.

    Raises:
        MissingResource: A path is missing.
        BadInput: There is nothing to read.
    """
    inputs = look_at_inputs(find_sources(paths, Problems()), _known_inputs(shards.folder))
    return hash_inputs(inputs) == shards.facts.data_hash


def _known_inputs(folder: Path) -> list[InputFile]:
    try:
        return inputs_from_json(read_json(folder / INPUTS))
    except ZhixingError:
        return []


def _up_to_date(
    folder: Path, inputs: list[InputFile], known: list[InputFile], tokenizer: Encoder, options: ShardOptions
) -> ShardSet | None:
    try:
        index = read_json(folder / INDEX)
        if not isinstance(index, dict) or index.get("signature") != _signature(inputs, tokenizer, options):
            return None
        ready = open_shards(folder)
    except ZhixingError:
        return None  # missing, damaged or of another version: it is built again
    if inputs != known:
        # Only times or places changed: note them, so that the next call need not hash again.
        with contextlib.suppress(ZhixingError):
            atomic_write(folder / INPUTS, json.dumps(inputs_to_json(inputs), ensure_ascii=False, indent=0))
    return replace(ready, reused=True)


class _Builder:
    def __init__(
        self,
        sources: list[Source],
        tokenizer: Encoder,
        options: ShardOptions,
        inputs: list[InputFile],
        problems: Problems,
    ) -> None:
        self.sources, self.tokenizer, self.options, self.inputs = sources, tokenizer, options, inputs
        self.found = problems  # what finding the sources reported; reading starts from a copy each time
        self.problems = problems
        self.notes: list[str] = []
        self.separator = tokenizer.end_of_text_id if options.separator else None
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self.least_key = math.inf

    def build(self, folder: Path) -> None:
        """Writes the shards and the index."""
        fraction = self.options.validation_fraction
        if self.options.split == "tail":
            writers = self._write(folder, self._tail)
        else:
            writers = self._write(folder, lambda advance: self._by_document(fraction, advance))
            train, validation = (writer.facts.documents for writer in writers)
            if fraction and not validation and train > 1:
                # The document that a larger fraction would hold out first.
                self.notes.append("no document fell to validation by its hash; the nearest one is held out")
                threshold = math.nextafter(self.least_key, 1)
                writers = self._write(folder, lambda advance: self._by_document(threshold, advance))
            elif fraction and (not validation or not train):
                self.notes.append(
                    f"too few documents to hold some out; the last {100 * fraction:g} % of the text is instead"
                )
                writers = self._write(folder, self._tail)
        if not any(writer.facts.tokens for writer in writers):
            raise BadInput("there is no text in the input", remedy="give files with text in UTF-8")
        report_changes(self.inputs, self.problems)
        self._write_index(folder, writers)

    def _write_index(self, folder: Path, writers: Sequence[SplitWriter]) -> None:
        files: dict[str, Any] = {}
        splits: dict[str, list[str]] = {}
        for split, writer in zip(SPLITS, writers, strict=True):
            splits[split], written = writer.close()
            files |= written
        facts = ShardFacts(
            train=writers[0].facts,
            validation=writers[1].facts,
            sources=len(self.sources),
            separator_id=self.separator,
            vocab_size=self.tokenizer.vocab_size,
            fingerprint=self.tokenizer.fingerprint,
            options=asdict(self.options),
            notes=tuple(self.notes),
            problems=self.problems,
            data_hash=hash_inputs(self.inputs),
        )
        index = {
            "version": FORMAT_VERSION,
            "signature": _signature(self.inputs, self.tokenizer, self.options),
            "dtype": "uint16" if self.dtype.itemsize == 2 else "uint32",
            "splits": splits,
            "files": files,
            "facts": facts.to_json(),
        }
        atomic_write(folder / INDEX, json.dumps(index, ensure_ascii=False, indent=1))

    def _write(
        self, folder: Path, texts: Callable[[Callable[[int], None]], Iterator[Text]]
    ) -> tuple[SplitWriter, SplitWriter]:
        """Encodes and writes what `texts` yields."""
        for left in folder.iterdir():
            left.unlink()
        writers = (SplitWriter(folder, SPLITS[0], self.dtype), SplitWriter(folder, SPLITS[1], self.dtype))
        total = sum(source.size for source in self.sources)
        tokens = 0
        with progress_bar("Tokenizing", total) as bar:
            for batch, encoded in encode_ahead(in_batches(texts(bar.advance)), self.tokenizer):
                for split, writer in enumerate(writers):
                    tokens += self._write_split(writer, split, batch, encoded)
                bar.advance(0, f"{human_count(tokens)} tokens")
        return writers

    def _write_split(self, writer: SplitWriter, split: int, batch: list[Text], encoded: Sequence[Any]) -> int:
        chosen = []
        for text, ids in zip(batch, encoded, strict=True):
            if text.split == split:
                if len(ids):
                    chosen.append((text, ids))
                else:
                    self.problems.report("empty", repr(text.text[:40]), "the tokenizer gives no token for this text")
        if not chosen:
            return 0
        tokens, lengths = flatten([ids for _, ids in chosen], self.dtype, self.tokenizer.vocab_size, self.separator)
        counts = [text.byte_count for text, _ in chosen]
        writer.write(tokens, lengths, counts, sum(len(text.text) for text, _ in chosen))
        return len(tokens)

    def _read(self, advance: Callable[[int], None] | None) -> Iterator[str]:
        self.problems = Problems()
        self.problems.merge(self.found)
        documents = read_documents(self.sources, self.problems, field=self.options.field, advance=advance)
        return (document.text for document in documents)

    def _by_document(self, threshold: float, advance: Callable[[int], None]) -> Iterator[Text]:
        seed = self.options.seed
        for text in self._read(advance):
            data = text.encode("utf-8")
            key = split_key(document_hash(data), seed)
            self.least_key = min(self.least_key, key)
            yield Text(int(key < threshold), text, len(data))

    def _tail(self, advance: Callable[[int], None]) -> Iterator[Text]:
        with progress_bar("Counting characters", sum(source.size for source in self.sources)) as bar:
            characters = sum(map(len, self._read(bar.advance)))
        left = int(characters * (1 - self.options.validation_fraction))
        for split, texts in enumerate(_split_at(self._read(advance), left)):
            if self.separator is None:
                texts = seamless_chunks(texts, self.tokenizer.encode_batch, self.notes.append)
            for text in texts:
                yield Text(split, text, len(text.encode("utf-8")))


def _split_at(texts: Iterator[str], characters: int) -> tuple[Iterator[str], Iterator[str]]:
    """Divides a stream after so many characters. The second part must be read after the first."""
    rest: list[str] = []

    def head() -> Iterator[str]:
        left = characters
        for text in texts:
            if left <= 0 or len(text) > left:
                rest.append(text[max(0, left) :])
                if left > 0:
                    yield text[:left]
                return
            left -= len(text)
            yield text

    return head(), itertools.chain(_drain(rest), texts)


def _drain(texts: list[str]) -> Iterator[str]:
    yield from texts
