"""Conversations, and what can be seen as one: the model learns what the assistant says, and nothing else.

A pair is a question with its answer, a labelled text a question whose answer is the label; of a plain text every token
is learned. Whatever the model's chat template is, `tokenization.chat_turns` finds which of its tokens the assistant
writes, calls of tools and the token that ends a turn included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import Chat, Labelled, Pair, Shape, Text
from zhixing.data.shapes.records import Misfit
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective
from zhixing.training.objectives.packed import TOKENS, PackedBatch, example_of, pack

PLAIN_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""The chat template of a model that was published without one."""


class ChatTurns(RecordObjective):
    """Minimises -log p(token | what comes before) over the assistant's tokens."""

    name: ClassVar[str] = "chat"
    summary: ClassVar[str] = "answer as the assistant of the records does (supervised fine-tuning)"
    shapes: ClassVar[tuple[Shape, ...]] = ("chat", "pair", "labelled", "text")
    network: ClassVar[NetworkKind] = "causal"
    sample: ClassVar[Mapping[str, Any]] = {
        "messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    }
    fields: ClassVar[Mapping[str, str]] = TOKENS

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer and its chat template; a model without one gets a plain one, and is published with it."""
        super().attach(tokenizer, longest)
        if tokenizer.chat_templates is None:
            if tokenizer.end_of_text_id is None:
                raise BadInput(
                    "the tokenizer has no token that ends a text, so that no answer could end",
                    remedy="choose a model with one, or train a tokenizer with one",
                )
            tokenizer.config["chat_template"] = PLAIN_TEMPLATE
        self.format = ChatFormat(tokenizer)

    def encode(self, record: Chat | Pair | Labelled | Text) -> Encoded:
        """Makes one example of a record."""
        if isinstance(record, Text):
            end = self.tokenizer.end_of_text_id
            tokens = [*self.tokenizer.encode(record.text), *([] if end is None else [end])]
            wanted = [True] * len(tokens)
        else:
            messages, tools = conversation(record)
            try:
                encoded = self.format.encode(messages, assistant_mask=True, tools=list(tools) or None)
            except BadInput as error:
                place = f"{error.where}: " if error.where else ""
                raise Misfit(f"{place}{error.cause}", error.remedy or "leave the record out") from error
            assert encoded.assistant is not None
            tokens, wanted = encoded.tokens, encoded.assistant
        example = example_of(tokens[: self.longest], wanted[: self.longest])
        return Encoded(() if example is None else (example,), max(0, len(tokens) - self.longest))

    def to_device(self, raw: RawBatch, device: torch.device) -> PackedBatch:
        """Lays the conversations end to end."""
        return pack(raw.examples, device, self.prefix)

    def loss_sum(self, model: CausalNetwork, batch: PackedBatch) -> Tensor:
        """Returns the loss summed over the assistant's tokens."""
        return model.loss_sum(batch.tokens, batch.targets, batch.segments)

    def show(self, prediction: Any, reference: Any) -> tuple[str, str] | None:
        """Shows nothing: answers are not written while measuring."""
        return None


def conversation(record: Chat | Pair | Labelled) -> tuple[list[dict[str, Any]], Sequence[Mapping[str, Any]]]:
    """Returns a record as messages, in the form that chat templates take, and the tools that they may use."""
    if isinstance(record, Chat):
        return [message.to_json() for message in record.messages], record.tools
    if isinstance(record, Pair):
        asked, answer = record.source, record.target
    else:
        asked = record.text if record.second is None else f"{record.text}\n{record.second}"
        answer = record.label if isinstance(record.label, str) else ", ".join(record.label)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}], ()
