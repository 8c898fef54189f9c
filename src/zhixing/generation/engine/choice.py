"""Which options the core chooses tokens by itself for; all others are followed on tensors (`sampled`)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from zhixing.generation.characters import WholeCharacters, whole_characters
from zhixing.generation.options import SHARPENING, SamplingOptions
from zhixing.native.choosing import Setting

if TYPE_CHECKING:
    from zhixing.tokenization.tokenizer import Tokenizer

NOT_ABOUT_CHOICE = frozenset({"max_tokens", "max_length", "max_seconds", "stop", "end_tokens", "seed", "n"})
"""Options that decide when an answer ends, or how many there are."""

CHOSEN = frozenset({"temperature", "top_k", "top_p", "min_p", "whole_characters"})
"""Options of a random choice that the core follows."""

OF_A_DRAW = frozenset({*SHARPENING, "whole_characters"})
"""Options that have no part where nothing is drawn."""


class CoreChoice(NamedTuple):
    """How the core chooses an answer's tokens.

    Attributes:
        setting: Temperature and filters.
        characters: What is excluded before that, where only whole characters may be drawn.
    """

    setting: Setting
    characters: WholeCharacters | None = None


def core_choice(options: SamplingOptions, tokenizer: Tokenizer | None) -> CoreChoice | None:
    """Returns how the core chooses an answer's tokens; None when any option is none of those that it follows."""
    free = NOT_ABOUT_CHOICE | (OF_A_DRAW if options.greedy else CHOSEN)
    for field in dataclasses.fields(options):
        if field.name not in free and getattr(options, field.name) != field.default:
            return None
    if options.greedy:
        return CoreChoice(Setting())
    characters = whole_characters(tokenizer) if options.whole_characters and tokenizer is not None else None
    return CoreChoice(Setting(options.temperature, options.top_k or 0, options.top_p, options.min_p), characters)
