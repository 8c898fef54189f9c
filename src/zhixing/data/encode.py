"""Encoding a stream of texts in bounded batches, with the tokenizer's threads at work all the time.

The tokenizer does the heavy part; meanwhile this process reads ahead by one batch and writes the one before, so that
memory depends on the batch and not on the corpus.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zhixing.data.shards import TokenArray

BATCH_DOCUMENTS = 4096
BATCH_CHARACTERS = min(1 << 23, max(1 << 20, (os.cpu_count() or 1) << 18))
"""Characters encoded at once: four documents of full length for each core."""


class Encoder(Protocol):
    """What a tokenizer must offer to build shards."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides how it encodes."""

    @property
    def end_of_text_id(self) -> int | None:
        """The id that ends a document, if there is one."""

    def encode_batch(self, texts: list[str]) -> Sequence[Any]:
        """Returns the ids of each text, as a list or an array, without adding special tokens."""


class Text(NamedTuple):
    """A text that is to be encoded, and where it goes (an index into SPLITS)."""

    split: int
    text: str
    byte_count: int


def in_batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    """Groups texts into batches of about BATCH_CHARACTERS."""
    batch: list[Text] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text.text)
        if characters >= BATCH_CHARACTERS or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def encode_ahead(batches: Iterator[list[Text]], tokenizer: Encoder) -> Iterator[tuple[list[Text], Sequence[Any]]]:
    """Encodes each batch in a thread of its own while the one before is written and the next one is read."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        pending: tuple[list[Text], Future[Sequence[Any]]] | None = None
        for batch in batches:
            future = pool.submit(tokenizer.encode_batch, [text.text for text in batch])
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = batch, future
        if pending is not None:
            yield pending[0], pending[1].result()


def flatten(
    encoded: Sequence[Any], dtype: np.dtype[Any], vocab_size: int, separator: int | None
) -> tuple[TokenArray, NDArray[np.int64]]:
    """Joins the ids of several documents into one array, each followed by the separator if there is one.

    Returns:
        The tokens, and how many each document has.

    Raises:
        ValueError: An id is not below `vocab_size`: the tokenizer contradicts itself.
    """
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    count = int(lengths.sum())
    if isinstance(encoded[0], np.ndarray):
        flat = np.concatenate(encoded)
    else:
        flat = np.fromiter(itertools.chain.from_iterable(encoded), np.int64, count)
    if count and not 0 <= int(flat.min()) <= int(flat.max()) < vocab_size:
        raise ValueError(f"the tokenizer gave ids {flat.min()}..{flat.max()}, but its vocabulary has {vocab_size}")
    if separator is None:
        return flat.astype(dtype), lengths
    lengths += 1
    tokens = np.full(count + len(encoded), separator, dtype)
    is_token = np.ones(len(tokens), bool)
    is_token[np.cumsum(lengths) - 1] = False
    tokens[is_token] = flat
    return tokens, lengths
