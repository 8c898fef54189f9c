"""How likely a model holds many continuations, each of a context of its own, and whether it would write them itself.

This is for benchmarks: thousands of requests at once. Requests with the same input are computed once (of single-token
continuations, all alternatives are); several longer continuations of one context read it once; all others are laid end
to end in groups of similar length, so that nothing is computed for padding; and only the positions that are asked for
go through the head. For choosing among labels behind one prompt after another, see `generation.likelihood`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.network import UNBOUNDED, CausalNetwork
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent import RecurrentNetwork
from zhixing.models.transformer import Transformer

BATCH_TOKENS = 4096
"""Tokens computed together."""
HEAD_ROWS = 512
"""Positions that go through the head together."""
SHARED_TOKENS = 24
"""From so many common tokens on, a context is read once for all of its continuations."""

Tokens = Sequence[int]


class Continuation(NamedTuple):
    """What was found out about one continuation.

    Attributes:
        log_probability: Of all its tokens, in nats.
        greedy: Whether each of them is the likeliest at its place.
    """

    log_probability: float
    greedy: bool


class ContinuationScorer:
    """Scores continuations with one model.

    Args:
        model: The network, in evaluation mode.
        longest: Tokens that it reads at most; the model's context when not given.

    Attributes:
        truncated: How many requests had to lose the beginning of their context.
    """

    def __init__(self, model: CausalNetwork, longest: int | None = None) -> None:
        self.model = model
        self.longest = longest or model.config.context
        self.truncated = 0

    @torch.inference_mode()
    def __call__(
        self, requests: Sequence[tuple[Tokens, Tokens]], advance: Callable[[int], None] | None = None
    ) -> list[Continuation]:
        """Scores requests.

        Args:
            requests: (context, continuation), neither empty.
            advance: Is called with the number of requests that were done.

        Raises:
            BadInput: One is empty, or a continuation alone is longer than the model reads.
        """
        results: list[Continuation | None] = [None] * len(requests)
        for group in _groups(self._inputs(requests)):
            for one, rows in zip(group, self._targets(group), strict=True):
                for place, tokens in one.asked:
                    results[place] = _result(rows, tokens)
            if advance is not None:
                advance(sum(len(one.asked) for one in group))
        return [cast(Continuation, result) for result in results]

    def _inputs(self, requests: Sequence[tuple[Tokens, Tokens]]) -> list[_Input]:
        """Puts requests with the same input together."""
        found: dict[tuple[int, ...], _Input] = {}
        for place, (context, continuation) in enumerate(requests):
            if not context or not continuation:
                raise BadInput("a context and its continuation have at least one token each")
            if self.longest != UNBOUNDED and len(continuation) > self.longest:
                raise BadInput(
                    f"a continuation of {len(continuation)} tokens is more than the model reads ({self.longest})"
                )
            whole = [*context, *continuation]
            if self.longest != UNBOUNDED and len(whole) > self.longest + 1:
                self.truncated += 1
                whole = whole[-(self.longest + 1) :]
            key = tuple(whole[:-1])
            one = found.setdefault(key, _Input(key, len(whole) - len(continuation), []))
            if len(whole) - len(continuation) < one.context:  # the same input with more of it asked for
                one = found[key] = one._replace(context=len(whole) - len(continuation))
            one.asked.append((place, tuple(continuation)))
        return list(found.values())

    def _targets(self, group: Sequence[_Input]) -> list[Tensor]:
        """Returns, for every input, the logits of the tokens behind its context and what follows, (targets, vocab)."""
        if isinstance(self.model, Transformer):
            shared = len(group) > 1 and _fixed_rotation(self.model) and _common(group) >= SHARED_TOKENS
            hidden = self._shared(self.model, group) if shared else self._ragged(self.model, group)
            return self._heads(hidden, self.model.logits)
        if isinstance(self.model, RecurrentNetwork):
            network = self.model
            return self._heads(self._padded(network, group), lambda states: ops.linear(states, network.output_matrix))
        return [self._step_by_step(one) for one in group]

    def _ragged(self, model: Transformer, group: Sequence[_Input]) -> list[Tensor]:
        layout = Ragged.of([one.tokens for one in group], device=model.device)
        states = model.hidden_states(layout.tokens[None], layout=layout)[0]
        begins = layout.starts.tolist()
        return [
            states[begin + one.context - 1 : begin + len(one.tokens)] for begin, one in zip(begins, group, strict=True)
        ]

    def _shared(self, model: Transformer, group: Sequence[_Input]) -> list[Tensor]:
        """Reads what all inputs begin with once, then the rest of each behind it."""
        common = _common(group)
        rests = [list(one.tokens[common:]) for one in group]
        widest = max(map(len, rests))
        cache = model.new_cache(1, common + widest)
        first = torch.tensor([group[0].tokens[:common]], device=model.device)
        before = model.hidden_states(first, cache=cache)[0]
        cache.repeat(len(group))
        padded = torch.tensor([rest + [0] * (widest - len(rest)) for rest in rests], device=model.device)
        behind = model.hidden_states(padded, cache=cache)
        return [
            torch.cat([before[one.context - 1 :], behind[row, : len(rest)]])
            if one.context - 1 < common
            else behind[row, one.context - 1 - common : len(rest)]
            for row, (one, rest) in enumerate(zip(group, rests, strict=True))
        ]

    def _padded(self, model: RecurrentNetwork, group: Sequence[_Input]) -> list[Tensor]:
        widest = max(len(one.tokens) for one in group)
        rows = [list(one.tokens) + [0] * (widest - len(one.tokens)) for one in group]
        states = model.hidden_states(torch.tensor(rows, device=model.device))
        return [states[row, one.context - 1 : len(one.tokens)] for row, one in enumerate(group)]

    def _heads(self, hidden: Sequence[Tensor], head: Callable[[Tensor], Tensor]) -> list[Tensor]:
        flat = torch.cat(list(hidden))
        logits = torch.cat([head(flat[at : at + HEAD_ROWS]).float() for at in range(0, len(flat), HEAD_ROWS)])
        return list(torch.split(logits, [len(one) for one in hidden]))

    def _step_by_step(self, one: _Input) -> Tensor:
        """For networks that give the logits of the last token only."""
        cache = self.model.new_cache(1, len(one.tokens))
        tokens = torch.tensor([one.tokens], device=self.model.device)
        logits = [self.model.next_logits(tokens[:, : one.context], cache)]
        logits += [self.model.next_logits(tokens[:, k : k + 1], cache) for k in range(one.context, len(one.tokens))]
        return torch.cat(logits).float()


class _Input(NamedTuple):
    """Tokens to read once.

    Attributes:
        tokens: All of them.
        context: How many belong to the shortest context: targets begin behind them.
        asked: (number of the request, its continuation); a continuation ends one token behind the input.
    """

    tokens: tuple[int, ...]
    context: int
    asked: list[tuple[int, tuple[int, ...]]]


def _result(rows: Tensor, continuation: tuple[int, ...]) -> Continuation:
    rows = rows[len(rows) - len(continuation) :]
    wanted = torch.tensor(continuation, device=rows.device)
    logs = torch.log_softmax(rows, dim=-1).gather(1, wanted[:, None])
    return Continuation(float(logs.double().sum()), bool((rows.argmax(dim=-1) == wanted).all()))


def _groups(inputs: Sequence[_Input]) -> Iterator[list[_Input]]:
    """Groups inputs: those with the same context together, the rest by length."""
    by_context: dict[tuple[int, ...], list[_Input]] = {}
    for one in inputs:
        by_context.setdefault(one.tokens[: one.context], []).append(one)
    alone: list[_Input] = []
    for context, group in by_context.items():
        if (
            len(group) > 1
            and len(context) > SHARED_TOKENS
            and sum(len(one.tokens) for one in group) <= 4 * BATCH_TOKENS
        ):
            yield group
        else:
            alone += group
    alone.sort(key=lambda one: -len(one.tokens))
    batch: list[_Input] = []
    held = 0
    for one in alone:
        if batch and held + len(one.tokens) > BATCH_TOKENS:
            yield batch
            batch, held = [], 0
        batch.append(one)
        held += len(one.tokens)
    if batch:
        yield batch


def _fixed_rotation(model: Transformer) -> bool:
    """Tells whether what was read keeps its meaning however long the sequence becomes."""
    scalings = (model.config.rope_scaling, model.config.local_rope_scaling)
    return all(scaling is None or scaling.kind not in ("dynamic", "longrope") for scaling in scalings)


def _common(group: Sequence[_Input]) -> int:
    """Returns how many tokens all inputs begin with; every input keeps one more at least."""
    shortest = min(len(one.tokens) for one in group) - 1
    first = group[0].tokens
    for place in range(shortest):
        if any(one.tokens[place] != first[place] for one in group):
            return place
    return max(0, shortest)
