"""What a model begins from: a text or token ids, checked against the vocabulary and the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zhixing.core.errors import BadInput

if TYPE_CHECKING:
    from zhixing.models.network import NetworkConfig
    from zhixing.tokenization.tokenizer import Tokenizer

Prompt = str | Sequence[int]
"""A text, or the ids of its tokens."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    Attributes:
        tokens: What the text goes on from.
        notes: What the user should know about it.
        source: What an encoder reads first; none where there is no encoder.
    """

    tokens: list[int]
    notes: tuple[str, ...] = ()
    source: tuple[int, ...] = ()


def encode_prompt(
    prompt: Prompt, tokenizer: Tokenizer | None, config: NetworkConfig, where: str | None = None
) -> EncodedPrompt:
    """Turns a prompt into token ids.

    A text is encoded with what the tokenizer's own template puts around it (a begin token, for example). An empty one
    starts from the begin token, else from the end-of-text token, behind which training put new documents, else from a
    line end.

    Args:
        prompt: A text, or token ids.
        tokenizer: The model's; None allows token ids only.
        config: The model's.
        where: Which prompt this is, for messages.

    Raises:
        BadInput: It is too long for the context, an id is outside of the vocabulary, or there is nothing to start from.
    """
    notes: tuple[str, ...] = ()
    if not isinstance(prompt, str):
        tokens = [int(token) for token in prompt]
    elif tokenizer is None:
        raise BadInput("this model has no tokenizer, so it cannot read a text", where=where, remedy="give token ids")
    else:
        tokens = tokenizer.encode(prompt, special=True)
    if not tokens:
        tokens, notes = _start(tokenizer, where)
    for token in tokens:
        if not 0 <= token < config.vocab_size:
            raise BadInput(f"token id {token} is outside of the vocabulary of {config.vocab_size}", where=where)
    if len(tokens) >= config.context:
        raise BadInput(
            f"the prompt has {len(tokens)} tokens; the model's context is {config.context}, prompt and answer together",
            where=where,
            remedy=f"shorten the prompt to at most {config.context - 1} tokens, or use a model with a longer context",
        )
    return EncodedPrompt(tokens, notes)


def _start(tokenizer: Tokenizer | None, where: str | None) -> tuple[list[int], tuple[str, ...]]:
    """Returns the token that an empty prompt starts from, and a sentence that says so."""
    remedy = "give a prompt of at least one character"
    if tokenizer is None:
        raise BadInput("the prompt is empty", where=where, remedy="give at least one token id")
    begin = tokenizer.begin_id if tokenizer.begin_id is not None else tokenizer.end_of_text_id
    if begin is not None:
        return [begin], (f"the prompt is empty: started from {tokenizer.piece(begin)}",)
    try:
        line_end = tokenizer.encode("\n")
    except BadInput:  # a character tokenizer that never saw one
        line_end = []
    if not line_end or tokenizer.unknown_id in line_end:
        cause = "the prompt is empty, and the tokenizer has neither a begin token nor a line end to start from"
        raise BadInput(cause, where=where, remedy=remedy)
    return line_end, ("the prompt is empty: started from a line end",)
