"""The algorithms behind `train`: from texts to a tokenizer definition, one function for each kind.

Byte-level BPE, WordPiece, characters and bytes are here; Unigram is in `unigram`. Special tokens are added by `train`.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from zhixing.core.errors import BadInput
from zhixing.tokenization.decoding import ALPHABET
from zhixing.tokenization.definition import KNOWN_ROLES, Definition
from zhixing.tokenization.patterns import multilingual_pattern

UNKNOWN = "<|unk|>"

MAX_TOKEN_BYTES = 64
"""No learned piece is longer: keeps lines of signs and boilerplate sentences out of the vocabulary."""

Learned = tuple[Definition, dict[str, int]]
"""A learned definition, and the counts of what has no token of its own."""


@dataclass(frozen=True)
class Request:
    """The options of one training, checked."""

    vocab_size: int
    special: list[str]
    min_frequency: int
    max_digits: int
    lowercase: bool = False


def definition_of(backend: Backend) -> Definition:
    """Returns what the library would write to tokenizer.json."""
    definition: Definition = json.loads(backend.to_str())
    return definition


def unknown_token(special: Sequence[str]) -> str | None:
    """Returns the first special token that by its name stands for unknown text, or None."""
    return next((name for name in special if name in KNOWN_ROLES["unk_token"]), None)


def word_split(max_digits: int) -> pre_tokenizers.PreTokenizer:
    """Returns the step that cuts a text into words, by Zhixing's own pattern."""
    return pre_tokenizers.Split(Regex(multilingual_pattern(max_digits)), "isolated")


def byte_bpe(texts: list[str], request: Request) -> Learned:
    """Learns a byte-level BPE (Sennrich et al. 2016, on bytes as in GPT-2)."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [word_split(request.max_digits), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.vocab_size - len(request.special),
        min_frequency=request.min_frequency,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_TOKEN_BYTES,
    )
    backend.train_from_iterator(texts, trainer)
    return definition_of(backend), {}


def wordpiece(texts: list[str], request: Request) -> Learned:
    """Learns a WordPiece vocabulary in the manner of BERT, cased or uncased."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=request.lowercase, lowercase=request.lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    read = (backend.normalizer.normalize_str(text) for text in texts) if request.lowercase else texts
    backend.decoder = decoders.WordPiece(cleanup=True)
    trainer = trainers.WordPieceTrainer(
        vocab_size=request.vocab_size - len(request.special),
        min_frequency=request.min_frequency,
        show_progress=False,
        # The library numbers continuations in the order of a hash table, and the numbers decide between equal merges:
        # naming them first is what makes the result the same on every run. (`_finish` takes the list off again.)
        special_tokens=["[UNK]", *(f"##{character}" for character in _inner_characters(read))],
    )
    backend.train_from_iterator(texts, trainer)
    return definition_of(backend), {}


def _inner_characters(texts: Iterable[str]) -> list[str]:
    """Returns the characters that stand inside words by BERT's rules, sorted."""
    pairs: set[tuple[str, str]] = set()
    for text in texts:
        pairs.update(pairwise(text))

    def joins(character: str) -> bool:
        category = unicodedata.category(character)
        signs = category[0] in "PZC" or (character.isascii() and not character.isalnum())
        return not signs and not unicodedata.name(character, "").startswith("CJK ")

    inside = {character for pair in pairs for character in pair if joins(character)}
    return sorted({after for before, after in pairs if before in inside and after in inside})


def character_definition(counts: Counter[str], request: Request, limited: bool) -> tuple[Definition, dict[str, int]]:
    """A BPE without merges: every character is a token, in sorted order."""
    unknown = unknown_token(request.special)
    room = request.vocab_size - len(request.special) if limited else len(counts)
    kept = sorted(sorted(counts, key=lambda character: (-counts[character], character))[:room])
    left_out = {}
    if len(kept) < len(counts):
        if unknown is None:
            raise BadInput(
                f"the text has {len(counts)} different characters, which do not fit a vocabulary of "
                f"{request.vocab_size}, and there is no token for unknown ones",
                remedy=f"ask for {len(counts) + len(request.special)} tokens, or add {UNKNOWN!r} to the special tokens",
            )
        rare = counts.total() - sum(counts[character] for character in kept)
        left_out["different characters have no token of their own (they are the rarest)"] = len(counts) - len(kept)
        left_out["characters of the text become the unknown token"] = rare
    vocabulary = [*kept, unknown] if unknown else kept
    backend = Backend(models.BPE(vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=[]))
    backend.decoder = decoders.Fuse()
    definition = definition_of(backend)
    definition["model"]["unk_token"] = unknown
    return definition, left_out


def byte_definition() -> Definition:
    """The 256 bytes: a BPE without merges whose ids are the values of the bytes."""
    spelling = {byte: character for character, byte in ALPHABET.items()}
    backend = Backend(models.BPE(vocab={spelling[byte]: byte for byte in range(256)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return definition_of(backend)
