"""What writing a text gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model itself held one chosen token, before temperature and all other options but guidance.

    Attributes:
        token: The chosen token's id.
        logprob: Its log-probability, in nats.
        top: The likeliest tokens with theirs, best first, as many as were asked for.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer.

    Attributes:
        text: The answer, without the prompt, special tokens, and whatever stopped it.
        tokens: Every token the model wrote, also those that stopped it.
        finish_reason: "stop" (a stop text or an end token), "length" (max_tokens, or the model's context is full),
            "time" (max_seconds), "interrupted", or what a stopping rule of the user's own says.
        detail: The finish reason in a sentence.
        prompt_tokens: Tokens of the prompt.
        prompt: Which prompt of the batch this answers, counted from 0.
        sample: Which of its answers this is, counted from 0.
        seed: The seed in force; with it the same answer comes again.
        seconds: From the first token to the last.
        prompt_seconds: Time to read the prompts of the batch, up to the first token.
        notes: What else the user should know.
        logprobs: One entry per token, where asked for.
        score: What the answer was chosen by among others: of beam search, its log-probability (in nats) divided by its
            length to the power of `length_penalty`; of `best_of`, its mean log-probability or what the scorer gave.
    """

    text: str
    tokens: list[int]
    finish_reason: str
    detail: str
    prompt_tokens: int
    prompt: int
    sample: int
    seed: int
    seconds: float
    prompt_seconds: float
    notes: tuple[str, ...] = ()
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this answer per second, without the reading of the prompt; 0 when there was only one."""
        return (len(self.tokens) - 1) / self.seconds if len(self.tokens) > 1 and self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        values = asdict(self)
        return {**values, "notes": list(self.notes), "tokens_per_second": round(self.tokens_per_second, 2)}
