"""SentencePiece models (`.model`): read without the protobuf library and turned into a tokenizer definition.

Unigram, BPE and character models, with byte fallback, the precompiled normaliser and user-defined symbols. The ids
and the text are those of the sentencepiece library, with two exceptions that come from the engine: an unknown
character decodes to the unknown token's name (sentencepiece prints " ⁇ "), and where two merges of a BPE model give the
same piece, the order between them may differ.

Messages and field numbers: sentencepiece_model.proto of google/sentencepiece.
"""

from __future__ import annotations

import base64
import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput
from zhixing.tokenization.charsmap import check_charsmap
from zhixing.tokenization.decoding import BYTE_PIECE
from zhixing.tokenization.definition import Definition
from zhixing.tokenization.protobuf import read_fields, signed

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE, WORD, CHARACTER = 1, 2, 3, 4
MAX_PIECES = 4_000_000


@dataclass
class Piece:
    """One entry of the vocabulary."""

    text: str = ""
    score: float = 0.0
    type: int = NORMAL


@dataclass
class SentencePieceModel:
    """What a `.model` file says, as far as it bears on ids and text."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    suffix_spaces: bool = False
    special_ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True

    @property
    def roles(self) -> dict[str, str]:
        """The roles of the special pieces, by the keys of a tokenizer_config.json."""
        ids = {f"{name}_token": index for name, index in self.special_ids.items()}
        return {
            role: self.pieces[index].text
            for role, index in ids.items()
            if 0 <= index < len(self.pieces) and self.pieces[index].type in (CONTROL, UNKNOWN)
        }


def _text(value: Any) -> str:
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("a piece of the vocabulary is not UTF-8: the file is corrupt") from error


def _bytes(value: object, what: str) -> memoryview:
    if not isinstance(value, memoryview):
        raise BadInput(f"{what} is a number where content was expected: not a SentencePiece model")
    return value


def _number(value: object, what: str) -> int:
    if not isinstance(value, int):
        raise BadInput(f"{what} is not a whole number: not a SentencePiece model")
    return signed(value)


def _read_piece(content: memoryview) -> Piece:
    piece = Piece()
    for number, value in read_fields(content):
        if number == 1:
            piece.text = _text(_bytes(value, "a piece"))
        elif number == 2:
            if not isinstance(value, float) or not math.isfinite(value):
                raise BadInput("the score of a piece is not a number: not a SentencePiece model, or a corrupt one")
            piece.score = value
        elif number == 3:
            piece.type = _number(value, "the type of a piece")
    if not piece.text:
        raise BadInput("a piece of the vocabulary is empty: not a SentencePiece model, or a corrupt one")
    return piece


def read_model(content: bytes) -> SentencePieceModel:
    """Reads a `.model` file.

    Raises:
        BadInput: It is not one, or a broken one.
    """
    model = SentencePieceModel()
    for number, value in read_fields(memoryview(content)):
        if number == 1:
            model.pieces.append(_read_piece(_bytes(value, "a piece")))
            if len(model.pieces) > MAX_PIECES:
                raise BadInput(f"more than {MAX_PIECES} pieces: no real model has so many")
        elif number == 2:
            _read_trainer(_bytes(value, "the trainer's settings"), model)
        elif number == 3:
            _read_normalizer(_bytes(value, "the normaliser's settings"), model)
    if not model.pieces:
        raise BadInput("it holds no pieces: not a SentencePiece model")
    if len({piece.text for piece in model.pieces}) < len(model.pieces):
        raise BadInput("a piece occurs twice in the vocabulary: the file is corrupt")
    return model


def _read_trainer(content: memoryview, model: SentencePieceModel) -> None:
    for number, value in read_fields(content):
        if number == 3:
            model.model_type = _number(value, "the model type")
        elif number == 24:
            model.suffix_spaces = bool(value)
        elif number == 35:
            model.byte_fallback = bool(value)
        elif number in (40, 41, 42, 43):
            model.special_ids[("unk", "bos", "eos", "pad")[number - 40]] = _number(value, "the id of a special piece")


def _read_normalizer(content: memoryview, model: SentencePieceModel) -> None:
    for number, value in read_fields(content):
        if number == 2:
            model.charsmap = bytes(_bytes(value, "the character map"))
        elif number == 3:
            model.add_dummy_prefix = bool(value)
        elif number == 4:
            model.remove_extra_whitespaces = bool(value)
        elif number == 5:
            model.escape_whitespaces = bool(value)


def to_definition(model: SentencePieceModel) -> Definition:
    """Turns a SentencePiece model into a tokenizer definition.

    Raises:
        BadInput: It is of a kind that has no counterpart here.
    """
    if model.model_type not in (UNIGRAM, BPE, CHARACTER):
        raise BadInput(f"a SentencePiece model of type {model.model_type}; only Unigram, BPE and characters are known")
    if model.suffix_spaces:
        raise BadInput("a SentencePiece model that puts spaces behind words (treat_whitespace_as_suffix) is not known")
    if model.byte_fallback:
        spelled = {piece.text for piece in model.pieces if piece.type == BYTE}
        missing = [name for name in map("<0x{:02X}>".format, range(256)) if name not in spelled]
        if missing:
            raise BadInput(
                f"byte fallback needs the 256 byte pieces, but {missing[0]!r} is missing: the file is corrupt"
            )
    unknown = model.special_ids["unk"]
    if not 0 <= unknown < len(model.pieces):
        raise BadInput(f"the unknown piece has id {unknown}, outside the vocabulary of {len(model.pieces)}")
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": piece.text, **flags}
            for index, piece in enumerate(model.pieces)
            if piece.type in (CONTROL, UNKNOWN)
        ],
        "normalizer": _normalizer(model),
        "pre_tokenizer": _pre_tokenizer(model),
        "post_processor": None,
        "decoder": _decoder(model),
        "model": _unigram(model, unknown) if model.model_type == UNIGRAM else _bpe(model, unknown),
    }


def _name(piece: Piece, index: int) -> str:
    # An unused piece keeps its id, under a spelling made of noncharacters that no text holds.
    return f"\U0010fffe{index}\U0010ffff" if piece.type == UNUSED else piece.text


def _unigram(model: SentencePieceModel, unknown: int) -> dict[str, Any]:
    normal = [piece.score for piece in model.pieces if piece.type == NORMAL]
    best = max(normal, default=0.0)

    def score(piece: Piece) -> float:
        # As sentencepiece: a user-defined symbol wins over every other way to spell the same text.
        return len(piece.text.encode()) * best - 0.1 if piece.type == USER_DEFINED else piece.score

    vocabulary = [[_name(piece, index), score(piece)] for index, piece in enumerate(model.pieces)]
    return {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary, "byte_fallback": model.byte_fallback}


def _bpe(model: SentencePieceModel, unknown: int) -> dict[str, Any]:
    """SentencePiece keeps no merges: of two neighbours it merges those whose union has the best score."""
    texts = [piece.text for piece in model.pieces]
    vocabulary = {_name(piece, index): index for index, piece in enumerate(model.pieces)}
    merges: list[list[int]] = []
    if model.model_type == BPE:
        scores, types = [piece.score for piece in model.pieces], [piece.type for piece in model.pieces]
        merges = merge_pairs(texts, scores, types).tolist()
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": model.pieces[unknown].text,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": any(piece.type == USER_DEFINED for piece in model.pieces),
        "vocab": vocabulary,
        "merges": [[texts[left], texts[right]] for left, right in merges],
    }


def merge_pairs(texts: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> NDArray[np.int32]:
    """Derives the merges of a BPE model that keeps only scores.

    Args:
        texts: The pieces.
        scores: Their scores; the highest is merged first.
        types: Their types.

    Returns:
        (merges, 2): the ids of the two pieces to merge, the most urgent first; of equal scores, the lower ids first.
    """
    ids = {text: index for index, text in enumerate(texts) if types[index] in (NORMAL, USER_DEFINED)}
    find = ids.get
    lefts, rights, wholes = array("i"), array("i"), array("i")
    for index, text in enumerate(texts):
        if types[index] != NORMAL:
            continue
        for middle in range(1, len(text)):
            left = find(text[:middle])
            if left is not None:
                right = find(text[middle:])
                if right is not None:
                    lefts.append(left)
                    rights.append(right)
                    wholes.append(index)
    first, second, whole = (np.array(column, dtype=np.int32) for column in (lefts, rights, wholes))
    order = np.lexsort((second, first, -np.asarray(scores, dtype=np.float64)[whole]))
    return np.stack((first[order], second[order]), axis=1)


def _normalizer(model: SentencePieceModel) -> dict[str, Any] | None:
    space = SPACE if model.escape_whitespaces else " "
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        check_charsmap(model.charsmap)
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.remove_extra_whitespaces:
        steps.append({"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": " "})
    if space != " ":
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": space})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _pre_tokenizer(model: SentencePieceModel) -> dict[str, Any] | None:
    def split(pattern: str) -> dict[str, Any]:
        return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}

    steps = []
    defined = sorted((piece.text for piece in model.pieces if piece.type == USER_DEFINED), key=len, reverse=True)
    if defined and model.model_type != UNIGRAM:
        steps.append(split("|".join(re.escape(text) for text in defined)))
    if model.byte_fallback and model.model_type == UNIGRAM:
        # A text that quotes "<0x41>" must not be read as the byte 0x41.
        steps.append(split("<(?=0x[0-9A-F]{2}>)"))
    inner = any(SPACE in piece.text[1:] for piece in model.pieces)
    if model.escape_whitespaces and not inner:
        # No piece reaches over a word's start, so cutting there changes nothing but the speed.
        steps.append(split(f"{SPACE}[^{SPACE}]*|[^{SPACE}]+"))
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    if model.escape_whitespaces:
        steps.append({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})
    if any(BYTE_PIECE.fullmatch(piece.text) for piece in model.pieces if piece.type == BYTE):
        steps.append({"type": "ByteFallback"})
    steps.append({"type": "Fuse"})
    if model.add_dummy_prefix or model.remove_extra_whitespaces:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}
