"""A tokenizer's definition: the content of `tokenizer.json`, as plain data.

Here: reading, checking, naming its kind, its special tokens, its fingerprint. The definition is kept as it was read and
written back as it was kept, so a fingerprint does not change when the `tokenizers` library changes its formatting.
Not here: turning text into tokens (`tokenizer`) and tokens into text (`decoding`).
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from zhixing.core.errors import BadInput
from zhixing.core.files import hash_json
from zhixing.tokenization.charsmap import check_packed

Definition = dict[str, Any]
"""The parsed content of a tokenizer.json."""

ROLES = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token")
"""The roles a special token can have, by the keys of tokenizer_config.json."""

KNOWN_ROLES: dict[str, tuple[str, ...]] = {
    "eos_token": ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>"),
    "bos_token": ("<s>", "<|begin_of_text|>", "<bos>", "<|bos|>", "<|startoftext|>", "<|endoftext|>"),
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>"),
    "unk_token": ("<unk>", "[UNK]", "<|unk|>"),
    "sep_token": ("[SEP]",),
    "cls_token": ("[CLS]",),
    "mask_token": ("[MASK]", "<mask>"),
}
"""What published tokenizers call their special tokens, for files that come without a tokenizer_config.json."""

MODEL_TYPES = ("BPE", "Unigram", "WordPiece", "WordLevel")


def check_definition(definition: object, where: str | None = None) -> Definition:
    """Returns the definition with truncation and padding off, or says why it is none.

    Raises:
        BadInput: It is not a tokenizer.json.
    """
    remedy = "give a tokenizer.json written by Zhixing, `tokenizers` or `transformers`"
    if not isinstance(definition, dict) or not isinstance(definition.get("model"), dict):
        raise BadInput("not a tokenizer definition: it has no 'model'", where=where, remedy=remedy)
    model = definition["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind not in MODEL_TYPES:
        raise BadInput(f"unknown tokenizer model type {kind!r}; known: {', '.join(MODEL_TYPES)}", where=where)
    expected = list if kind == "Unigram" else dict
    if not isinstance(model.get("vocab"), expected):
        raise BadInput(f"the {kind} model has no vocabulary", where=where, remedy=remedy)
    _check_steps(definition, model, where)
    added = definition.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) and "content" in token for token in added):
        raise BadInput("'added_tokens' is not a list of tokens", where=where, remedy=remedy)
    # A tokenizer file can carry the padding and cutting of whoever used it last; neither belongs to the vocabulary, and
    # cutting would drop text without a word.
    return {**definition, "truncation": None, "padding": None, "added_tokens": added}


def _check_steps(definition: Definition, model: Definition, where: str | None) -> None:
    """Checks the processing steps, and what the library does not check but ends the whole process on."""
    prefix = model.get("continuing_subword_prefix")
    if prefix and model.get("merges"):
        if not isinstance(prefix, str):
            raise BadInput("the continuing_subword_prefix is not text", where=where)
        for merge in model["merges"]:
            right = merge[-1] if isinstance(merge, list) and merge else str(merge).rpartition(" ")[2]
            if not str(right).startswith(prefix):
                raise BadInput(f"the merge {merge!r} does not go on with {prefix!r}", where=where)
    try:
        parts(definition.get("decoder"), "decoders")
        for step in parts(definition.get("normalizer"), "normalizers"):
            if step["type"] == "Precompiled":
                check_packed(step.get("precompiled_charsmap"))
    except BadInput as error:
        raise BadInput(error.cause, where=where) from error


def build_backend(definition: Definition, where: str | None = None) -> Backend:
    """Builds the `tokenizers` object that a definition describes.

    Raises:
        BadInput: The library refuses it; its reason is passed on.
    """
    model = definition["model"]
    merges = model.get("merges")
    try:
        if model.get("type") == "BPE" and merges and isinstance(merges[0], list | tuple):
            return _build_bpe(definition)
        return Backend.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception as error:  # The library has no error class of its own.
        raise BadInput(f"the tokenizer definition is broken: {error}", where=where) from error


BPE_OPTIONS = (
    "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
    "ignore_merges",
)  # fmt: skip
"""The settings of a BPE model beside its vocabulary and merges."""

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def _build_bpe(definition: Definition) -> Backend:
    """Builds a BPE tokenizer without a detour through text, which for large vocabularies takes twice as long."""
    model = definition["model"]
    options = {key: model[key] for key in BPE_OPTIONS if model.get(key) is not None}
    merges = model["merges"]
    if not isinstance(merges[0], tuple):  # the library takes nothing else
        merges = [(left, right) for left, right in merges]
    network = BPE(vocab=model["vocab"], merges=merges, **options)
    steps = {**definition, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    backend = Backend.from_str(json.dumps(steps, ensure_ascii=False))
    backend.model = network
    for special, run in itertools.groupby(definition["added_tokens"], key=lambda token: bool(token["special"])):
        tokens = [AddedToken(token["content"], **{flag: token[flag] for flag in TOKEN_FLAGS}) for token in run]
        (backend.add_special_tokens if special else backend.add_tokens)(tokens)
    return backend


def vocabulary_of(definition: Definition, backend: Backend) -> dict[str, int]:
    """Returns every token's spelling with its id, the added ones included."""
    listed = definition["model"]["vocab"]
    if not isinstance(listed, dict):
        return backend.get_vocab(with_added_tokens=True)
    vocabulary: dict[str, int] = dict(listed)  # copying is ten times faster than asking the library for it
    for token in definition["added_tokens"]:
        index = backend.token_to_id(token["content"])
        if index is not None:
            vocabulary[token["content"]] = index
    return vocabulary


def fingerprint(definition: Definition) -> str:
    """Returns the SHA-256 of a definition, the same for every way of writing the same JSON."""
    return hash_json(definition)


def parts(step: Any, key: str) -> list[Mapping[str, Any]]:
    """Flattens a processing step that may be a Sequence of steps; `key` names the list inside a Sequence.

    Raises:
        BadInput: It is not a step.
    """
    if step is None:
        return []
    if not isinstance(step, Mapping) or not isinstance(step.get("type"), str):
        raise BadInput(f"a tokenizer's processing step needs a type, which {str(step)[:60]!r} has not")
    if step["type"] != "Sequence":
        return [step]
    inner = step.get(key)
    if not isinstance(inner, list):
        raise BadInput(f"a Sequence of processing steps needs the list {key!r}")
    return [part for one in inner for part in parts(one, key)]


def is_byte_level(definition: Definition) -> bool:
    """Tells whether pieces are spelled in GPT-2's printable alphabet of bytes."""
    return any(part.get("type") == "ByteLevel" for part in parts(definition.get("decoder"), "decoders"))


def kind_of(definition: Definition) -> str:
    """Names the kind of tokenizer: byte-bpe, bpe, unigram, wordpiece, character, byte or word."""
    model = definition["model"]
    kind = model.get("type", "BPE")
    if kind != "BPE":
        return {"Unigram": "unigram", "WordPiece": "wordpiece", "WordLevel": "word"}[kind]
    if is_byte_level(definition):
        return "byte-bpe" if model.get("merges") else "byte"
    if not model.get("merges") and not definition.get("pre_tokenizer") and not definition.get("normalizer"):
        return "character"
    return "bpe"


def special_tokens(definition: Definition) -> list[str]:
    """Returns the tokens that stand for something other than text, in the order of the file."""
    return [token["content"] for token in definition["added_tokens"] if token.get("special")]


def guess_roles(vocabulary: Mapping[str, int], special: list[str]) -> dict[str, str]:
    """Gives roles to special tokens by their published names; used when no tokenizer_config.json says them."""
    names = [name for name in special if name in vocabulary]
    found = {role: next((name for name in known if name in names), None) for role, known in KNOWN_ROLES.items()}
    return {role: name for role, name in found.items() if name is not None}


def around_text(begin: str | None, end: str | None, ids: Mapping[str, int]) -> dict[str, Any] | None:
    """Returns the post-processor that puts a begin and an end token around a text; None when there is neither.

    Args:
        begin: The begin token, or None.
        end: The end token, or None.
        ids: The ids of both.
    """
    used = list(dict.fromkeys(name for name in (begin, end) if name))
    if not used:
        return None

    def around(sequence: str, type_id: int) -> list[dict[str, Any]]:
        steps = [{"SpecialToken": {"id": begin, "type_id": type_id}}] if begin else []
        steps.append({"Sequence": {"id": sequence, "type_id": type_id}})
        return [*steps, {"SpecialToken": {"id": end, "type_id": type_id}}] if end else steps

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in used},
    }


def without_special_pieces(definition: Definition) -> Definition | None:
    """Returns a copy in which no text can be read as a special token, or None when the original already is so.

    Special tokens that are listed beside the vocabulary are switched off by the library. Those that are also pieces
    of the vocabulary (as SentencePiece models have them: `</s>` is piece 2) would still be found by a Unigram or
    word-matching model, and a document that quotes "</s>" would end there. Their spelling is replaced by one made of
    Unicode noncharacters, which no text holds.
    """
    model = definition["model"]
    kind = model.get("type", "BPE")
    if kind == "BPE" and not model.get("ignore_merges"):
        hidden = {name for name in special_tokens(definition) if name in model["vocab"] and len(name) == 1}
        if hidden:
            merges = model["merges"]
            hidden -= {
                "".join(merge) if isinstance(merge, list | tuple) else merge.replace(" ", "") for merge in merges
            }
    else:
        pieces = {piece for piece, _ in model["vocab"]} if kind == "Unigram" else model["vocab"].keys()
        hidden = {name for name in special_tokens(definition) if name in pieces}
    hidden -= {model.get("unk_token")}
    if not hidden:
        return None
    variant = copy.copy(definition)
    variant["added_tokens"] = [token for token in definition["added_tokens"] if not token.get("special")]

    def spelled(piece: str) -> str:
        return f"\U0010fffe{piece}\U0010ffff" if piece in hidden else piece

    if kind == "Unigram":
        vocabulary: Any = [[spelled(piece), score] for piece, score in model["vocab"]]
    else:
        vocabulary = {spelled(piece): index for piece, index in model["vocab"].items()}
    variant["model"] = {**model, "vocab": vocabulary}
    return variant


def with_renamed_tokens(definition: Definition, names: Mapping[str, str]) -> Definition:
    """Returns a copy in which added tokens have other names, with the same ids: only text that spells the new name is
    read as the token. Whether every id is kept is for the caller to check."""
    model = definition["model"]
    if isinstance(model["vocab"], list):
        vocabulary: Any = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    else:
        vocabulary = {names.get(piece, piece): index for piece, index in model["vocab"].items()}
    renamed = {**model, "vocab": vocabulary}
    if model.get("unk_token") in names:
        renamed["unk_token"] = names[model["unk_token"]]
    added = [
        {**token, "content": names.get(token["content"], token["content"])} for token in definition["added_tokens"]
    ]
    return {**definition, "model": renamed, "added_tokens": added, "post_processor": None}
