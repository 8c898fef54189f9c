"""Conversations as token sequences that know which tokens are the answer: what objectives on decoders learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.data.shapes.records import Message, Misfit
from zhixing.models.loss import IGNORED
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer


class AnswerEncoder:
    """Encodes a conversation and the way it goes on.

    With a chat template the answer is all that the assistant says behind the prompt, with the tokens that end its
    turns. Without one, messages stand line after line, and the answer ends with the end of text.

    Args:
        tokenizer: Of the network.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._format = None if tokenizer.chat_templates is None else ChatFormat(tokenizer)

    def encode(self, prompt: Sequence[Message], answer: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Returns the tokens of all of it, and which of them belong to the answer.

        Raises:
            Misfit: The chat template does not take it, or the answer is empty.
        """
        try:
            tokens, mask = self._plain(prompt, answer) if self._format is None else self._chat(prompt, answer)
        except BadInput as error:
            raise Misfit(error.cause, error.remedy or "") from error
        if not any(mask):
            raise Misfit("the answer is empty", "write one, or leave the record out")
        return tokens, mask

    def _chat(self, prompt: Sequence[Message], answer: Sequence[Message]) -> tuple[list[int], list[bool]]:
        assert self._format is not None
        messages = [message.to_json() for message in (*prompt, *answer)]
        encoded = self._format.encode(messages, assistant_mask=True)
        assert encoded.assistant is not None
        return encoded.tokens, _without_runs(encoded.assistant, sum(one.role == "assistant" for one in prompt))

    def _plain(self, prompt: Sequence[Message], answer: Sequence[Message]) -> tuple[list[int], list[bool]]:
        before = self.tokenizer.encode("".join(f"{message.content}\n" for message in prompt), special=True)
        after = self.tokenizer.encode("\n".join(message.content for message in answer))
        end = self.tokenizer.end_of_text_id
        after += [] if end is None else [end]
        return [*before, *after], [False] * len(before) + [True] * len(after)


def _without_runs(mask: Sequence[bool], count: int) -> list[bool]:
    """Returns a mask without its first runs: the turns of the assistant's that belong to the prompt."""
    kept, runs, inside = [], 0, False
    for here in mask:
        runs += here and not inside
        inside = here
        kept.append(here and runs > count)
    return kept


def judged(encoder: AnswerEncoder, prompt: Sequence[Message], answer: Sequence[Message]) -> list[int]:
    """Returns a conversation's tokens as a reward model reads it: without ends of text behind it.

    Those are what `transformers` takes for padding, so that it would look for the last token before them.
    """
    tokens, _ = encoder.encode(prompt, answer)
    while len(tokens) > 1 and tokens[-1] == encoder.tokenizer.end_of_text_id:
        tokens = tokens[:-1]
    return tokens


def padded_answers(rows: Sequence[tuple[NDArray[Any], NDArray[Any]]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lays sequences side by side, filled up behind their ends, where a causal network does not see them.

    Args:
        rows: Tokens, and for each whether it is to be predicted.
        device: Where to.

    Returns:
        Tokens and targets, (rows, longest - 1) each; targets are IGNORED outside of what is to be predicted.
    """
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    for index, (line, mask) in enumerate(rows):
        values = torch.from_numpy(line.astype("int64"))
        tokens[index, : len(line)] = values
        targets[index, : len(line)] = torch.where(torch.from_numpy(mask > 0), values, IGNORED)
    return tokens[:, :-1].to(device), targets[:, 1:].to(device)
