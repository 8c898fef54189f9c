"""The way out: a tokenizer to the metadata of a GGUF file, so that llama.cpp gives the same tokens.

GGUF names the pattern that cuts words instead of spelling it out, and keeps scores instead of SentencePiece's merges. A
tokenizer that these cannot express is refused: a file that gives other tokens would be worse than none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.checkpoints.gguf.pretokenizers import PRE_TOKENIZERS
from zhixing.checkpoints.gguf.vocabulary import PREFIX, ROLE_KEYS
from zhixing.core.errors import BadInput
from zhixing.tokenization.decoding import BYTE_PIECE
from zhixing.tokenization.definition import Definition, parts
from zhixing.tokenization.patterns import GPT2_PATTERN
from zhixing.tokenization.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    merge_pairs,
)
from zhixing.tokenization.tokenizer import Tokenizer

Metadata = dict[str, Any]


def tokenizer_metadata(tokenizer: Tokenizer, rows: int, end_tokens: Sequence[int] = ()) -> Metadata:
    """Returns a tokenizer as GGUF's metadata.

    Args:
        tokenizer: The tokenizer.
        rows: Rows of the model's embedding table; ids without a token are filled up.
        end_tokens: Ids that end an answer, beside the tokenizer's own.

    Raises:
        BadInput: GGUF cannot express it.
    """
    definition = tokenizer.definition
    if definition["model"].get("type", "BPE") != "BPE" or tokenizer.kind == "character":
        raise _refusal(f"a tokenizer of kind {tokenizer.kind!r}", "only byte-level BPE and SentencePiece's BPE")
    pieces = _pieces(tokenizer, rows)
    metadata = _byte_level(definition) if tokenizer.kind in ("byte-bpe", "byte") else _sentencepiece(tokenizer, pieces)
    types = metadata.pop(PREFIX + "token_type", None) or [NORMAL] * rows
    for token in definition["added_tokens"]:
        index = tokenizer.token_id(token["content"])
        if index is not None:
            known = types[index] == UNKNOWN
            types[index] = UNKNOWN if known else CONTROL if token.get("special") else USER_DEFINED
    named = tokenizer.vocabulary
    types = [kind if piece in named else UNUSED for kind, piece in zip(types, pieces, strict=True)]
    metadata |= {PREFIX + "tokens": pieces, PREFIX + "token_type": types, **_around(tokenizer)}
    for role, key in ROLE_KEYS.items():
        if role in tokenizer.roles:
            metadata[PREFIX + key] = named[tokenizer.roles[role]]
    others = [index for index in end_tokens if index != tokenizer.end_of_text_id]
    if others:
        metadata[PREFIX + "eot_token_id"] = others[0]
        if tokenizer.end_of_text_id is None:
            metadata[PREFIX + "eos_token_id"] = others[0]
    if tokenizer.chat_template:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _refusal(what: str, known: str) -> BadInput:
    return BadInput(
        f"GGUF cannot express {what} ({known})", remedy="keep this model as a folder; only GGUF has this limit"
    )


def _pieces(tokenizer: Tokenizer, rows: int) -> list[str]:
    if tokenizer.vocab_size > rows:
        raise BadInput(f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {rows}")
    pieces = [f"[PAD{index}]" for index in range(rows)]
    for piece, index in tokenizer.vocabulary.items():
        pieces[index] = piece
    return pieces


def _around(tokenizer: Tokenizer) -> Metadata:
    """Finds out, by trying, which tokens the tokenizer puts around a text."""
    plain, whole = tokenizer.encode("a"), tokenizer.encode("a", special=True)
    length = len(whole) - len(plain)
    for before in range(length + 1):
        if whole[before : before + len(plain)] == plain:
            begin, end = whole[:before], whole[before + len(plain) :]
            break
    else:
        raise _refusal("what this tokenizer adds to a text", "only one token before and one behind")
    for found, wanted, name in ((begin, tokenizer.begin_id, "begin"), (end, tokenizer.end_of_text_id, "end")):
        if found not in ([], [wanted]):
            raise _refusal(f"a tokenizer that puts {found} around a text", f"only its {name} token")
    return {PREFIX + "add_bos_token": bool(begin), PREFIX + "add_eos_token": bool(end)}


def _byte_level(definition: Definition) -> Metadata:
    normalizers = parts(definition.get("normalizer"), "normalizers")
    if any(step["type"] != "NFC" for step in normalizers):
        raise _refusal(f"the normaliser {normalizers[0]['type']}", "a byte-level BPE has none, or NFC")
    model = definition["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or []]
    return {
        PREFIX + "model": "gpt2",
        PREFIX + "pre": _pre_name(definition, bool(normalizers)) if merges else "gpt-2",
        PREFIX + "merges": merges,
    }


def _pre_name(definition: Definition, composed: bool) -> str:
    """Finds the name under which llama.cpp knows how this tokenizer cuts words."""
    patterns = tuple(pattern for step in parts(definition.get("pre_tokenizer"), "pretokenizers") if (
        pattern := _pattern(step)))  # fmt: skip
    whole = bool(definition["model"].get("ignore_merges"))
    fitting = [
        (name, way) for name, way in PRE_TOKENIZERS.items() if way.patterns == patterns and way.whole_words == whole
    ]
    if not fitting:
        shown = " | ".join(patterns) or "none"
        raise _refusal(
            f"the way this tokenizer cuts words: {shown[:160]}",
            "it is known by name only, and llama.cpp has no name for this one",
        )
    # llama.cpp never composes characters; where a name says it, Zhixing does when it reads the file again.
    return next((name for name, way in fitting if way.composed == composed), fitting[0][0])


def _pattern(step: Mapping[str, Any]) -> str | None:
    """Returns the regular expression that a pre-tokenising step cuts by; None for one that does not cut."""
    kind = step["type"]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return GPT2_PATTERN if step.get("use_regex", True) else None
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step["pattern"].get("Regex")
        if isinstance(pattern, str):
            return pattern
    raise _refusal(f"the pre-tokenising step {kind} with these settings", "steps that isolate what a pattern finds")


def _sentencepiece(tokenizer: Tokenizer, pieces: list[str]) -> Metadata:
    definition = tokenizer.definition
    model = definition["model"]
    prefix, extra = _spaces(definition)
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    ids = tokenizer.vocabulary
    special = {token["content"] for token in definition["added_tokens"] if token.get("special")}
    unknown = model.get("unk_token")
    types, scores = [], []
    rank: dict[str, int] = {}
    for left, right in merges:
        rank.setdefault(left + right, len(rank))
    defined = {token["content"] for token in definition["added_tokens"]} - special
    for piece in pieces:
        is_byte = bool(model.get("byte_fallback")) and BYTE_PIECE.fullmatch(piece) is not None
        kind = UNKNOWN if piece == unknown else BYTE if is_byte else CONTROL if piece in special else NORMAL
        types.append(USER_DEFINED if piece in defined else kind)
        # The order of the merges becomes the order of the scores; what nothing merges into comes last.
        scores.append(-float(rank.get(piece, len(rank))))
    for index, (piece, kind) in enumerate(zip(pieces, types, strict=True)):
        if piece not in ids or (kind == NORMAL and len(piece) > 1 and piece not in rank):
            types[index] = UNUSED
    derived = merge_pairs(pieces, scores, types).tolist()
    if {(pieces[left], pieces[right]) for left, right in derived} != set(merges):
        raise _refusal("merges that do not follow from an order of the tokens", "SentencePiece's BPE has such an order")
    return {
        PREFIX + "model": "llama",
        PREFIX + "pre": "default",
        PREFIX + "scores": scores,
        PREFIX + "token_type": types,
        PREFIX + "add_space_prefix": prefix,
        PREFIX + "remove_extra_whitespaces": extra,
    }


def _spaces(definition: Definition) -> tuple[bool, bool]:
    """Finds out whether a space is put before a text, and whether repeated spaces are dropped."""
    prefix = extra = replaced = False
    for step in parts(definition.get("normalizer"), "normalizers"):
        kind, pattern = step["type"], step.get("pattern") or {}
        if kind == "Prepend" and step.get("prepend") in (SPACE, " "):
            prefix = True
        elif kind == "Replace" and pattern.get("String") == " " and step.get("content") == SPACE:
            replaced = True
        elif kind == "Replace" and pattern.get("Regex") in (r"\A +| +\z", " {2,}"):
            extra = True
        else:
            raise _refusal(f"the normaliser {kind} with these settings", "only the treatment of spaces")
    for step in parts(definition.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace" and step.get("replacement") == SPACE:
            replaced, prefix = True, prefix or step.get("prepend_scheme", "always") != "never"
        elif step["type"] != "Split" or SPACE not in str(step.get("pattern")) + " " + SPACE:
            raise _refusal(f"the pre-tokenising step {step['type']}", "only the treatment of spaces")
    if not replaced:
        raise _refusal("a tokenizer that keeps spaces as they are", f"SentencePiece writes them as {SPACE}")
    return prefix, extra
