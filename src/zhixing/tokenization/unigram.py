"""Learning a Unigram vocabulary (Kudo 2018) with byte fallback, around what the library's trainer gets wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, trainers

from zhixing.tokenization.learners import UNKNOWN, Learned, Request, definition_of, word_split

COVERAGE = 0.9995
"""The share of a text's characters that get a Unigram piece of their own, as in SentencePiece; bytes spell the rest."""

MARK = "\1"
"""Stands behind a word in the Unigram trainer's list, and in no piece."""


def unigram(texts: list[str], request: Request) -> Learned:
    """Spaces stay spaces (no ▁), so that every text comes back exactly, also one that holds a ▁."""
    room = request.vocab_size - len(request.special) - 256
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    split = word_split(request.max_digits)
    for text in texts:
        characters.update(text)
        words.update(word for word, _ in split.pre_tokenize_str(text))
    kept = _covering(characters, (room - 1) * 3 // 4)
    rare = characters.keys() - kept
    backend = Backend(models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=max(room, len(kept) + 3) + 1,
        show_progress=False,
        special_tokens=[UNKNOWN],
        unk_token=UNKNOWN,
        max_piece_length=16,
    )
    backend.train_from_iterator(_unigram_sentences(words, rare), trainer)
    backend.pre_tokenizer = split
    definition = definition_of(backend)
    model = definition["model"]
    pieces = [entry for entry in _settled(model["vocab"][1:]) if MARK not in entry[0]][: room - 1]
    floor = min((score for _, score in pieces), default=-1.0)
    byte_pieces = [[f"<0x{byte:02X}>", floor - 10.0] for byte in range(256)]
    model["vocab"] = [[UNKNOWN, 0.0], *pieces, *byte_pieces]
    model["unk_id"] = 0
    model["byte_fallback"] = True
    definition["decoder"] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    left_out = {"different rare characters are spelled by bytes": len(rare)} if rare else {}
    return definition, left_out


def _unigram_sentences(words: Counter[str], rare: Set[str]) -> Iterator[list[str]]:
    """Yields what the Unigram trainer learns from, in batches.

    The trainer insists on a piece for every character that it sees, so words are cut at rare ones. And its candidates
    are the substrings that go on in more than one way in its list of *different* words: a word that is no part of
    another ends in only one way and would never be a candidate, however common. So words that occur twice are listed
    once more with a mark behind them.
    """
    cut = str.maketrans(dict.fromkeys(rare, MARK))
    for word, count in words.items():
        for part in word.translate(cut).split(MARK) if rare else (word,):
            if part:
                yield [part] * count
                if count > 1 and len(part) > 1:
                    yield [part + MARK]


def _covering(counts: Counter[str], most: int) -> set[str]:
    """Returns the most frequent characters that make up COVERAGE of the text, at most so many."""
    kept: set[str] = set()
    covered, wanted = 0, COVERAGE * counts.total()
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if covered >= wanted or len(kept) >= most:
            break
        kept.add(character)
        covered += count
    return kept


def _settled(pieces: list[list[Any]]) -> list[list[Any]]:
    """Sorts a learned Unigram vocabulary by score, the same on every run.

    The trainer adds up in the order of a hash table, which changes the last digits: they are rounded off. It also gives
    characters that must stay but have no probability the lowest score and a little more, in that same order: here they
    all get the lowest.
    """
    rounded = [(piece, round(score, 6)) for piece, score in pieces]
    lowest = min((score for _, score in rounded), default=0.0)
    loose = lowest + 1e-4 * sum(len(piece) == 1 for piece, _ in rounded)
    settled = [(piece, lowest if len(piece) == 1 and score <= loose else score) for piece, score in rounded]
    return [[piece, score] for piece, score in sorted(settled, key=lambda entry: (-entry[1], entry[0]))]
