"""The parity gate: the same chats through several forms of one model must be the same tokens and the same answers.

What is good in training and bad after an export is nearly always a chat template that drifted, or tokens that another
tokenizer makes of the same text. So each form renders the chats by what it carries itself, and answers them greedily;
where the answers part, the size of the difference in logits tells rounding from a fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from zhixing.core.errors import ZhixingError
from zhixing.evaluation.greedy import greedy_answer
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer

Chat = Sequence[Mapping[str, Any]]

CHATS: tuple[Chat, ...] = (
    ({"role": "user", "content": "What is the capital of France?"},),
    ({"role": "user", "content": "用一句话介绍长城。"},),
    (
        {"role": "system", "content": "You answer briefly."},
        {"role": "user", "content": "  Two  spaces, a tab\tand\n\nlines: 1,234.5 €"},
        {"role": "assistant", "content": "好的 👍"},
        {"role": "user", "content": "Write <|im_end|> and </s> as they stand."},
    ),
)
"""Chats that have broken exports before: another script, blanks, a system prompt, text that imitates tokens."""

ANSWER = 24
"""Tokens that are answered."""

TOLERANCES = {
    "f32": 1e-3, "bf16": 0.5, "f16": 0.05, "q8_0": 1.0, "q4_0": 4.0, "q4_k": 4.0, "engine": 0.05,
}  # fmt: skip
"""How far apart two candidates may be in the reference's logits where another number format chooses the other one."""


class ParityFault(ZhixingError):
    """An exported model does not do what the model does that it was made of."""

    exit_code = 1


@dataclass(frozen=True)
class View:
    """One form of a model.

    Attributes:
        name: What to call it.
        network: What writes.
        tokenizer: Its own, as this form carries it.
        tolerance: See `TOLERANCES`.
    """

    name: str
    network: CausalNetwork
    tokenizer: Tokenizer
    tolerance: float


@dataclass(frozen=True)
class Difference:
    """Where a view parts from the reference.

    Attributes:
        view: Its name.
        chat: The number of the chat, from 1.
        what: In a sentence.
        size: Between the logits of both candidates, as the reference has them; None where tokens differ already.
        fault: Whether rounding does not explain it.
    """

    view: str
    chat: int
    what: str
    size: float | None
    fault: bool


@dataclass
class Parity:
    """What the gate found.

    Attributes:
        views: Names of the forms, the reference first.
        chats: How many chats went through.
        tokens: How many tokens they were rendered to.
        answered: How many tokens were answered and compared.
        differences: Where forms part.
    """

    views: list[str]
    chats: int = 0
    tokens: int = 0
    answered: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def faults(self) -> list[Difference]:
        """The differences that rounding does not explain."""
        return [difference for difference in self.differences if difference.fault]

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        return {**asdict(self), "passed": not self.faults}

    def lines(self) -> list[str]:
        """Returns all of it for people."""
        first, *others = self.views
        found = [f"{self.chats} chats, {self.tokens} tokens, {self.answered} tokens answered greedily: {first} against"
                 f" {', '.join(others)}"]  # fmt: skip
        found += [f"{one.view}, chat {one.chat}: {one.what}" for one in self.differences]
        found.append("parity: " + (f"FAILED ({len(self.faults)} faults)" if self.faults else "passed"))
        return found


def render(tokenizer: Tokenizer, chat: Chat) -> list[int]:
    """Returns the tokens of a chat up to where the answer begins, by what the tokenizer carries."""
    if tokenizer.chat_templates is None:
        return tokenizer.encode("\n".join(str(message["content"]) for message in chat), special=True)
    return ChatFormat(tokenizer).encode([dict(message) for message in chat], add_generation_prompt=True).tokens


def training_view(tokenizer: Tokenizer, chat: Chat) -> list[int]:
    """Returns the same tokens as training sees them: what comes before the answer in a whole conversation."""
    if tokenizer.chat_templates is None:
        return render(tokenizer, chat)
    whole = [*(dict(message) for message in chat), {"role": "assistant", "content": "好"}]
    encoded = ChatFormat(tokenizer).encode(whole, assistant_mask=True)
    assert encoded.assistant is not None
    last = len(encoded.assistant) - 1
    while last >= 0 and not encoded.assistant[last]:
        last -= 1
    while last >= 0 and encoded.assistant[last]:
        last -= 1
    return encoded.tokens[: last + 1]


def check_parity(views: Sequence[View], chats: Sequence[Chat] = CHATS, count: int = ANSWER) -> Parity:
    """Holds all views against the first.

    Args:
        views: The reference (the model as it was trained) and the others.
        chats: What goes through.
        count: Tokens to answer.
    """
    reference, *others = views
    found = Parity([view.name for view in views], len(chats))
    for number, chat in enumerate(chats, 1):
        tokens = render(reference.tokenizer, chat)
        found.tokens += len(tokens)
        as_trained = training_view(reference.tokenizer, chat)
        if as_trained != tokens:
            found.differences.append(_token_difference("training", number, tokens, as_trained, reference.tokenizer))
        written, logits = greedy_answer(reference.network, tokens, count)
        found.answered += len(written)
        for view in others:
            theirs = render(view.tokenizer, chat)
            if theirs != tokens:
                found.differences.append(_token_difference(view.name, number, tokens, theirs, reference.tokenizer))
                continue
            difference = _answer_difference(view, number, tokens, written, logits, reference.tokenizer)
            if difference is not None:
                found.differences.append(difference)
    return found


def _token_difference(
    view: str, chat: int, ours: Sequence[int], theirs: Sequence[int], tokenizer: Tokenizer
) -> Difference:
    shorter = min(len(ours), len(theirs))
    place = next((at for at in range(shorter) if ours[at] != theirs[at]), shorter)
    shown = [tokenizer.decode(part[place : place + 4]) for part in (ours, theirs)]
    what = f"token {place} of the rendered chat differs: {shown[0]!r} became {shown[1]!r}"
    return Difference(view, chat, what, None, True)


def _answer_difference(
    view: View, chat: int, tokens: Sequence[int], written: Sequence[int], logits: Sequence[Tensor], tokenizer: Tokenizer
) -> Difference | None:
    """Compares a view's answer with the reference's, up to where they part: beyond, the texts are different ones."""
    theirs, _ = greedy_answer(view.network, tokens, len(written))
    for place, (ours, other) in enumerate(zip(written, theirs, strict=True)):
        if ours == other:
            continue
        size = float(logits[place][ours] - logits[place][other])
        fault = size > view.tolerance
        why = "more than rounding explains" if fault else "within this format's rounding"
        what = (
            f"the answers part at token {place}: {tokenizer.decode([ours])!r} and {tokenizer.decode([other])!r}, whose"
            f" logits are {size:.4f} apart, {why} ({view.tolerance:g})"
        )
        return Difference(view.name, chat, what, size, fault)
    return None
