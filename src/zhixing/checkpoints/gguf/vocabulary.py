"""The tokenizer inside a GGUF file: its metadata to the content of a tokenizer.json.

Two kinds are known: byte-level BPE (`gpt2`: tokens, merges, and the name of the pattern that cuts words) and
SentencePiece's BPE (`llama`: tokens with scores, and bytes for what has no token). What the metadata mean is taken from
src/llama-vocab.cpp of ggml-org/llama.cpp. The way back is in `vocabulary_out`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.checkpoints.gguf.cache import cached_array
from zhixing.checkpoints.gguf.header import GGUFFile, Texts
from zhixing.checkpoints.gguf.pretokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer, steps_of
from zhixing.core.errors import BadInput, unknown_name
from zhixing.tokenization.definition import Definition, around_text
from zhixing.tokenization.sentencepiece import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, merge_pairs
from zhixing.tokenization.tokenizer import Tokenizer

PREFIX = "tokenizer.ggml."

END_NAMES = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>",
    "<|end_of_text|>", "<end_of_utterance>", "<｜end▁of▁sentence｜>",
})  # fmt: skip
"""Control tokens that end an answer wherever they occur; files seldom say all of theirs."""

ROLE_KEYS = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id", "sep_token": "seperator_token_id", "mask_token": "mask_token_id",
}  # fmt: skip
"""Roles of special tokens, and the keys that give their ids ("seperator" is how the format spells it)."""


@dataclass
class FileTokenizer:
    """A tokenizer read from a GGUF file, with what only the file knows.

    Attributes:
        tokenizer: The tokenizer; its chat template is the file's.
        end_tokens: Ids that end an answer.
        notes: What was assumed because the file does not say it.
    """

    tokenizer: Tokenizer
    end_tokens: list[int]
    notes: list[str] = field(default_factory=list)

    def generation(self) -> dict[str, Any]:
        """Returns the ids of special tokens as a generation_config.json has them."""
        ids = {"bos_token_id": self.tokenizer.begin_id, "pad_token_id": self.tokenizer.pad_id}
        found: dict[str, Any] = {key: index for key, index in ids.items() if index is not None}
        return {**found, "eos_token_id": self.end_tokens} if self.end_tokens else found


def read_tokenizer(file: GGUFFile) -> FileTokenizer | None:
    """Reads a file's tokenizer; None where it has none.

    Raises:
        BadInput: It is damaged, or of a kind that is not supported.
    """
    vocabulary = _Vocabulary(file)
    kind = vocabulary.metadata.get("tokenizer.ggml.model")
    if kind in (None, "no_vocab", "none"):
        return None
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        known = ", ".join(f"{name!r}" for name in builders)
        raise BadInput(f"tokenizers of kind {kind!r} are not supported (known: {known})", where=str(file.path))
    vocabulary.read()
    definition = builders[kind](vocabulary)
    definition["post_processor"] = around_text(vocabulary.begin, vocabulary.end, vocabulary.ids)
    config: dict[str, Any] = dict(vocabulary.roles)
    template = vocabulary.metadata.get("tokenizer.chat_template")
    if template is not None:
        if not isinstance(template, str):
            raise vocabulary.fault(f"tokenizer.chat_template is {template!r}, not a text")
        config["chat_template"] = template
    try:
        tokenizer = Tokenizer(definition, config)
    except BadInput as error:
        raise BadInput(error.cause, where=str(file.path), remedy=error.remedy) from error
    if tokenizer.vocab_size != len(vocabulary.tokens):
        raise BadInput(
            f"the vocabulary has {len(vocabulary.tokens)} tokens, of which {tokenizer.vocab_size} can be told apart",
            where=str(file.path),
        )
    return FileTokenizer(tokenizer, vocabulary.end_tokens(), vocabulary.notes)


class _Vocabulary:
    """The tokenizer's metadata, checked against one another."""

    def __init__(self, file: GGUFFile) -> None:
        self.metadata, self.where = file.metadata, str(file.path)
        self.notes: list[str] = []

    def fault(self, cause: str) -> BadInput:
        return BadInput(cause, where=self.where, remedy="the file is damaged, or put together from two models")

    def read(self) -> None:
        """Reads tokens, types and roles."""
        listed = self.metadata.get(PREFIX + "tokens")
        if not isinstance(listed, Texts) or not len(listed):
            raise self.fault("the tokenizer has no list of tokens")
        self.listed = listed
        self.tokens = listed.decoded()
        for empty in [index for index, token in enumerate(self.tokens) if not token]:
            self.tokens[empty] = f"[EMPTY_{empty}]"  # a few published files have such; llama.cpp names them so
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if self.ids[token] != index)
            raise self.fault(f"the token {twice[:60]!r} occurs twice in the vocabulary")
        self.types = self.numbers("token_type", np.int64, NORMAL)
        roles = {role: self._id(key) for role, key in ROLE_KEYS.items()}
        self.roles = {role: self.tokens[index] for role, index in roles.items() if index is not None}

    def numbers(self, name: str, dtype: Any, default: float) -> NDArray[Any]:
        values = self.metadata.get(PREFIX + name)
        if values is None:
            return np.full(len(self.tokens), default, dtype)
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens):
            count = len(values) if isinstance(values, np.ndarray) else "no"
            raise self.fault(f"{PREFIX}{name} has {count} entries for {len(self.tokens)} tokens")
        return values.astype(dtype)

    def _id(self, name: str) -> int | None:
        value = self.metadata.get(PREFIX + name)
        if value is None or value in (-1, 0xFFFFFFFF):  # both are written for "none"
            return None
        if type(value) is not int or not 0 <= value < len(self.tokens):
            raise self.fault(f"{PREFIX}{name} is {value!r}, outside of the vocabulary of {len(self.tokens)}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Returns a truth value."""
        value = self.metadata.get(PREFIX + name, default)
        if not isinstance(value, bool):
            raise self.fault(f"{PREFIX}{name} is {value!r}, not true or false")
        return value

    def put_around(self, begin: bool) -> None:
        """Finds out which tokens the file wants around a text."""
        self.begin = self._wanted("add_bos_token", "bos_token", begin)
        self.end = self._wanted("add_eos_token", "eos_token", False)

    def _wanted(self, flag: str, role: str, default: bool) -> str | None:
        if not self.flag(flag, default):
            return None
        if role not in self.roles and PREFIX + flag in self.metadata:
            raise self.fault(f"{PREFIX}{flag} is set, but the file names no {role}")
        return self.roles.get(role)

    def added_tokens(self) -> list[dict[str, Any]]:
        """Returns the tokens that are found in a text as they stand: control tokens (special) and user-defined ones."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": int(index), "content": self.tokens[index], **flags, "special": kind != USER_DEFINED}
            for index, kind in enumerate(self.types.tolist())
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]

    def end_tokens(self) -> list[int]:
        """Returns the ids that end an answer: the file's own, and control tokens of well-known names."""
        ids: list[int | None] = [self._id(f"{name}_token_id") for name in ("eos", "eot", "eom")]
        ids += [
            index for name in END_NAMES if (index := self.ids.get(name)) is not None and self.types[index] == CONTROL
        ]
        return sorted({index for index in ids if index is not None})


def _byte_level(vocabulary: _Vocabulary) -> Definition:
    way = _pre_tokenizer(vocabulary)
    vocabulary.put_around(way.begin)
    merges = vocabulary.metadata.get(PREFIX + "merges")
    if not isinstance(merges, Texts):
        raise vocabulary.fault("a byte-level BPE without a list of merges")
    pairs = []
    for merge in merges.decoded():
        left, _, right = merge[1:].partition(" ")  # the first character may be a space itself
        pairs.append((merge[:1] + left, right))
    for left, right in pairs:
        if left not in vocabulary.ids or right not in vocabulary.ids or left + right not in vocabulary.ids:
            raise vocabulary.fault(f"the merge {f'{left} {right}'[:60]!r} needs a token that is not in the vocabulary")
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": {"type": "NFC"} if way.composed else None,
        "pre_tokenizer": steps_of(way),
        "decoder": plain,
        "model": _bpe(vocabulary, pairs, ignore_merges=way.whole_words),
    }


def _bpe(vocabulary: _Vocabulary, merges: list[tuple[str, str]], **options: Any) -> dict[str, Any]:
    known = vocabulary.ids
    if options.get("ignore_merges"):
        # Special tokens behind the vocabulary stay out of it, so that no quoted text can be read as one.
        last = len(vocabulary.tokens)
        while last and vocabulary.types[last - 1] in (CONTROL, UNKNOWN):
            last -= 1
        known = {token: index for token, index in known.items() if index < last}
    settings = {
        "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    }  # fmt: skip
    return {"type": "BPE", **settings, **options, "vocab": known, "merges": merges}


def _pre_tokenizer(vocabulary: _Vocabulary) -> PreTokenizer:
    name = vocabulary.metadata.get(PREFIX + "pre")
    if name is None:
        vocabulary.notes.append(
            f"{vocabulary.where} does not say how words are cut ({PREFIX}pre): llama.cpp's default was taken"
        )
        return DEFAULT
    if name not in PRE_TOKENIZERS:
        error = unknown_name("pre-tokenizer", str(name), PRE_TOKENIZERS, where=vocabulary.where)
        raise BadInput(f"{error.cause}: it decides how words are cut", where=error.where, remedy=error.remedy)
    return PRE_TOKENIZERS[name]


def _sentencepiece(vocabulary: _Vocabulary) -> Definition:
    vocabulary.put_around(begin=True)
    scores = vocabulary.numbers("scores", np.float64, 0.0)
    if not np.isfinite(scores).all():
        raise vocabulary.fault(f"{PREFIX}scores holds what is not a number")
    tokens, types = vocabulary.tokens, vocabulary.types.tolist()
    count = {kind: types.count(kind) for kind in (BYTE, UNKNOWN)}
    fallback = count[BYTE] > 0
    if fallback and any(vocabulary.ids.get(name) is None for name in map("<0x{:02X}>".format, range(256))):
        raise vocabulary.fault("the 256 byte tokens of the vocabulary are not complete")
    key = hashlib.sha256(vocabulary.listed.raw)
    key.update(np.asarray(types, dtype=np.int8).tobytes() + scores.tobytes())
    pairs = cached_array(
        f"merges/{key.hexdigest()}.npy", lambda: merge_pairs(tokens, scores.tolist(), types), _is_merges(len(tokens))
    )
    left, right = (map(tokens.__getitem__, column.tolist()) for column in pairs.T)
    merges = list(zip(left, right, strict=True))
    unknown = vocabulary.roles.get("unk_token") or next(
        (token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None
    )
    space = vocabulary.flag("add_space_prefix", True)
    steps: list[dict[str, Any]] = []
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    steps += [{"type": "Prepend", "prepend": SPACE}] if space else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})
    decoders: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}]
    decoders += [{"type": "ByteFallback"}] if fallback else []
    decoders.append({"type": "Fuse"})
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if space else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback),
    }


def _is_merges(tokens: int) -> Any:
    """Returns a check of merges that come from the cache, which anything may have happened to."""

    def check(pairs: NDArray[Any]) -> bool:
        fits = pairs.dtype == np.int32 and pairs.ndim == 2 and pairs.shape[1] == 2
        return bool(fits and (not pairs.size or (pairs.min() >= 0 and pairs.max() < tokens)))

    return check
