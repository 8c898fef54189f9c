"""Training of word vectors with gensim: word2vec (Mikolov et al. 2013) and fastText (Bojanowski et al. 2017).

What is here: cutting text into words, keeping them on disk so that every epoch reads numbers instead of text, and the
call. With one worker, the same text, options and seed give the same vectors, bit for bit.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from zhixing.checkpoints.vectors import from_gensim
from zhixing.core.errors import BadInput, Interrupted, missing_extra
from zhixing.core.files import os_fault
from zhixing.core.progress import Bar, human_count, progress_bar
from zhixing.models.vectors import WordVectors
from zhixing.tokenization.tokenizer import Tokenizer

SENTENCE_WORDS = 1000
"""A paragraph is cut here at the latest: gensim leaves out what stands behind the 10,000th word of a sentence."""

_CHINESE = "\u3005\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CHINESE}]|[^\W_{_CHINESE}]+(?:['’][^\W_{_CHINESE}]+)*")
_PARAGRAPH = re.compile(r"\n\s*\n")


class Segmenter(Protocol):
    """Cuts text into words."""

    description: str

    def __call__(self, text: str) -> list[str]:
        """Returns the words of a text, in order."""


class Words:
    """Words as runs of letters and digits, and every Chinese or Japanese character a word of its own.

    Args:
        lowercase: Take "The" and "the" for one word.
    """

    def __init__(self, lowercase: bool = False) -> None:
        self.lowercase = lowercase
        self.description = "words between spaces and punctuation" + (", in lower case" if lowercase else "")
        self.description += "; Chinese and Japanese by characters"

    def __call__(self, text: str) -> list[str]:
        """Returns the words of a text; punctuation is left out."""
        return _WORD.findall(text.lower() if self.lowercase else text)


class TokenWords:
    """The tokens of a tokenizer as words, without the space that a token may begin with.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.words = [token_word(tokenizer, token) for token in range(tokenizer.vocab_size)]
        self.description = f"tokens of the {tokenizer.kind} tokenizer ({tokenizer.vocab_size:,}) without leading spaces"

    def __call__(self, text: str) -> list[str]:
        """Returns the tokens of a text; blanks and parts of characters are left out."""
        return [word for token in self.tokenizer.encode(text) if (word := self.words[token]) is not None]


def token_word(tokenizer: Tokenizer, token: int) -> str | None:
    """Returns the word that a token spells, without the blanks around it; None for a special token, a blank, or a part
    of a character."""
    if token in tokenizer.special_ids:
        return None
    try:
        return tokenizer.token_bytes(token).decode("utf-8").strip() or None
    except UnicodeDecodeError:
        return None


@dataclass(frozen=True)
class VectorOptions:
    """How vectors are trained.

    Attributes:
        kind: "word2vec", or "fasttext", which also learns character n-grams.
        size: Numbers per vector.
        window: Words to each side that count as context.
        min_count: Words that occur less often get no vector.
        epochs: Passes over the text.
        skip_gram: Predict the context from the word (skip-gram) instead of the word from its context (CBOW).
        negative: Wrong words that each right one is held against.
        sample: Words more frequent than this share are thinned out.
        shortest: fastText: characters of the shortest n-grams.
        longest: fastText: characters of the longest n-grams.
        buckets: fastText: rows of the table that the n-grams share.
        seed: Of all random numbers.
        workers: Threads; with more than one, no two runs are the same.
    """

    kind: Literal["word2vec", "fasttext"] = "word2vec"
    size: int = 100
    window: int = 5
    min_count: int = 5
    epochs: int = 5
    skip_gram: bool = True
    negative: int = 5
    sample: float = 1e-3
    shortest: int = 3
    longest: int = 6
    buckets: int = 200_000
    seed: int = 1
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "window", "min_count", "epochs", "negative", "shortest", "buckets", "workers"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.longest < self.shortest:
            raise BadInput(f"the longest n-grams ({self.longest}) are shorter than the shortest ({self.shortest})")


def train_vectors(texts: Iterable[str], segment: Segmenter, options: VectorOptions) -> WordVectors:
    """Trains word vectors.

    Args:
        texts: The documents, read once.
        segment: Cuts them into words.
        options: How to train.

    Returns:
        The vectors, the most frequent word first.

    Raises:
        MissingResource: gensim is not installed, or the disk is full.
        BadInput: No word occurs often enough.
        Interrupted: Ctrl-C; nothing is saved.
    """
    try:
        from gensim.models import FastText, Word2Vec
    except ImportError as error:
        raise missing_extra("gensim", "vectors", "training of word vectors") from error
    common: dict[str, Any] = {
        "vector_size": options.size, "window": options.window, "min_count": options.min_count,
        "epochs": options.epochs, "sg": int(options.skip_gram), "negative": options.negative,
        "sample": options.sample, "seed": options.seed, "workers": options.workers,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="zhixing-vectors-") as folder:
        try:
            sentences = Sentences.of(texts, segment, Path(folder))
        except OSError as error:
            raise os_fault(error, folder, "keeping words for training") from error
        frequencies = {word: count for word, count in sentences.counts.items() if count >= options.min_count}
        if len(frequencies) < 2:
            raise BadInput(
                f"of {len(sentences.counts):,} different words in {sentences.words:,},"
                f" {len(frequencies)} occur at least {options.min_count} times",
                remedy="give more text, or lower --min-count",
            )
        if options.kind == "fasttext":
            grams = {"min_n": options.shortest, "max_n": options.longest, "bucket": options.buckets}
            model = FastText(**common, **grams)
        else:
            model = Word2Vec(**common)
        model.build_vocab_from_freq(frequencies, corpus_count=sentences.count)
        title = f"Training {len(frequencies):,} vectors"
        try:
            with progress_bar(title, options.epochs * sentences.words) as bar:
                sentences.bar = bar
                model.train(
                    sentences, total_examples=sentences.count, total_words=sentences.words, epochs=options.epochs
                )
        except KeyboardInterrupt:
            raise Interrupted("stopped while training word vectors; nothing is saved") from None
    facts: dict[str, object] = {
        **asdict(options), "segmentation": segment.description, "trained_words": sentences.words,
        "different_words": len(sentences.counts), "sentences": sentences.count,
    }  # fmt: skip
    if options.kind != "fasttext":
        for name in ("shortest", "longest", "buckets"):
            del facts[name]
    return from_gensim(model.wv, facts)


class Sentences:
    """Words of a corpus as numbers on disk, given back as sentences as often as asked.

    Args:
        names: The words by number.
        numbers: The words' numbers, (words), and where sentences end, (sentences): files of int32 and int64.
        counts: How often each word occurs.
    """

    def __init__(self, names: list[str], numbers: Path, ends: Path, counts: dict[str, int]) -> None:
        self.names, self.counts = names, counts
        self.words = sum(counts.values())
        self._numbers = np.memmap(numbers, np.int32, mode="r") if self.words else np.empty(0, np.int32)
        self._ends = np.fromfile(ends, np.int64)
        self.count = len(self._ends)
        self.bar: Bar | None = None

    @classmethod
    def of(cls, texts: Iterable[str], segment: Segmenter, folder: Path) -> Sentences:
        """Reads texts once."""
        numbers: dict[str, int] = {}
        counts: list[int] = []
        total = 0
        with (
            (folder / "numbers").open("wb") as words_out,
            (folder / "ends").open("wb") as ends_out,
            progress_bar("Reading") as bar,
        ):
            for text in texts:
                for sentence in _sentences(text, segment):
                    found = np.empty(len(sentence), dtype=np.int32)
                    for place, word in enumerate(sentence):
                        number = numbers.setdefault(word, len(counts))
                        if number == len(counts):
                            counts.append(0)
                        counts[number] += 1
                        found[place] = number
                    found.tofile(words_out)
                    total += len(found)
                    np.array([total], dtype=np.int64).tofile(ends_out)
                bar.advance(len(text), f"{human_count(total)} words")
        names = list(numbers)
        return cls(names, folder / "numbers", folder / "ends", dict(zip(names, counts, strict=True)))

    def __iter__(self) -> Iterator[list[str]]:
        start = 0
        waiting = 0
        for end in self._ends.tolist():
            yield [self.names[number] for number in self._numbers[start:end].tolist()]
            waiting += end - start
            start = end
            if self.bar is not None and waiting > 10_000:
                self.bar.advance(waiting)
                waiting = 0


def _sentences(text: str, segment: Segmenter) -> Iterator[list[str]]:
    """Yields the words of each paragraph, a long one in several parts."""
    for paragraph in _PARAGRAPH.split(text):
        words = segment(paragraph)
        for start in range(0, len(words), SENTENCE_WORDS):
            yield words[start : start + SENTENCE_WORDS]
