"""What stands around a text, or around two, when a model reads it: [CLS] before it, [SEP] behind it and between two.

The frame of a published tokenizer is read from its own template; one that a run trains for itself gets BERT's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from zhixing.core.errors import BadInput
from zhixing.tokenization.tokenizer import Tokenizer

ENCODER_TOKENS = ("[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]")
"""Special tokens of a tokenizer that is trained for an encoder; the first is the end of text."""


@dataclass(frozen=True)
class Frame:
    """Tokens around texts.

    Attributes:
        front: Before the text.
        back: Behind it.
        pair_front: Before the first of two.
        between: Between the two.
        pair_back: Behind the second.
        second_type: The segment of the second text and of what is behind it (1 in BERT, 0 in RoBERTa).
    """

    front: tuple[int, ...]
    back: tuple[int, ...]
    pair_front: tuple[int, ...]
    between: tuple[int, ...]
    pair_back: tuple[int, ...]
    second_type: int = 0

    def room(self, longest: int) -> int:
        """Returns the tokens of a text that fit between front and back."""
        return longest - len(self.front) - len(self.back)

    def pair_room(self, longest: int) -> int:
        """Returns the tokens that fit into both texts of a pair together."""
        return longest - len(self.pair_front) - len(self.between) - len(self.pair_back)

    def single(self, tokens: Sequence[int]) -> list[int]:
        """Puts the frame around a text."""
        return [*self.front, *tokens, *self.back]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Puts the frame around two texts; returns the tokens and the segment of each."""
        one = [*self.pair_front, *first, *self.between]
        other = [*second, *self.pair_back]
        return [*one, *other], [0] * len(one) + [self.second_type] * len(other)


def frame_of(tokenizer: Tokenizer) -> Frame:
    """Returns the frame that a tokenizer's template puts around texts.

    Raises:
        BadInput: The template puts tokens into the middle of a text.
    """
    front, back = _around(*tokenizer.framed(pair=False))
    ids, sequences, types = tokenizer.framed(pair=True)
    if 0 not in sequences or 1 not in sequences:
        raise BadInput("the tokenizer's template leaves out one of two texts")
    end = len(sequences) - sequences[::-1].index(0)
    begin = sequences.index(1)
    return Frame(
        front=front,
        back=back,
        pair_front=tuple(ids[: sequences.index(0)]),
        between=tuple(ids[end:begin]),
        pair_back=tuple(ids[len(sequences) - sequences[::-1].index(1) :]),
        second_type=types[begin],
    )


def _around(
    ids: Sequence[int], sequences: Sequence[int | None], types: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    text = [index for index, sequence in enumerate(sequences) if sequence is not None]
    if text != list(range(text[0], text[-1] + 1)):
        raise BadInput("the tokenizer's template puts tokens into the middle of a text")
    return tuple(ids[: text[0]]), tuple(ids[text[-1] + 1 :])


def framed_as_bert(tokenizer: Tokenizer) -> Tokenizer:
    """Returns a tokenizer that puts [CLS] before a text and [SEP] behind it and between two; as it is where it already
    frames texts, or lacks those tokens."""
    ids = tokenizer.special_tokens
    if tokenizer.definition.get("post_processor") is not None or not {"[CLS]", "[SEP]"} <= ids.keys():
        return tokenizer
    definition = copy.copy(tokenizer.definition)

    def token(name: str, type_id: int) -> dict[str, object]:
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def text(name: str, type_id: int) -> dict[str, object]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    single = [token("[CLS]", 0), text("A", 0), token("[SEP]", 0)]
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), token("[SEP]", 1)],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")},
    }
    roles = dict(tokenizer.roles)
    for role in ("bos_token", "eos_token"):
        roles.pop(role, None)
    roles |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return Tokenizer(definition, {**tokenizer.config, **roles})


def framed_with_end(tokenizer: Tokenizer, end: str, pad: str) -> Tokenizer:
    """Returns a tokenizer that puts an end token behind texts, as encoder-decoders expect; as it is where it already
    frames texts, or lacks that token.

    Args:
        tokenizer: One that a run has trained.
        end: The name of the end token.
        pad: The name of the token that fills up short texts, given that role where there is one.
    """
    ids = tokenizer.special_tokens
    if tokenizer.definition.get("post_processor") is not None or end not in ids:
        return tokenizer
    behind = {"SpecialToken": {"id": end, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    definition = copy.copy(tokenizer.definition)
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, behind],
        "pair": [first, behind, second, behind],
        "special_tokens": {end: {"id": end, "ids": [ids[end]], "tokens": [end]}},
    }
    roles = {role: name for role, name in tokenizer.roles.items() if role != "bos_token"} | {"eos_token": end}
    if pad in ids:
        roles["pad_token"] = pad
    return Tokenizer(definition, {**tokenizer.config, **roles})
