"""The logits processor that holds answers to a JSON schema."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zhixing.core.errors import BadInput
from zhixing.generation.grammar.machine import Machine, State
from zhixing.generation.grammar.schema import Schema
from zhixing.generation.grammar.tokens import TokenFilter, TokenTree
from zhixing.generation.sampling import Context


class JsonConstraint:
    """Allows only tokens that lead to JSON which fits a schema, and the end only where the JSON is whole.

    Args:
        schema: The compiled schema.
        tree: The model's vocabulary.
        ends: The tokens that end an answer.
    """

    def __init__(self, schema: Schema, tree: TokenTree, ends: Sequence[int]) -> None:
        self.machine = Machine(schema)
        self.tree = tree
        self._filter = TokenFilter(self.machine, tree)
        self._ends = torch.tensor(sorted(set(ends)), dtype=torch.long)
        self._states: dict[tuple[int, ...], State] = {}

    def __call__(self, logits: Tensor, context: Context) -> Tensor:
        """See `LogitsProcessor`."""
        states: dict[tuple[int, ...], State] = {}
        allowed = torch.empty(logits.shape, dtype=torch.bool)
        for row, tokens in enumerate(context.tokens[:, context.prompt :].tolist()):
            written = tuple(tokens)
            state = states.get(written)
            if state is None:
                state = states[written] = self._behind(written)
            allowed[row] = self._filter.allowed(state)
            if () in state:
                allowed[row, self._ends] = True
        self._states = states
        return logits.masked_fill(~allowed.to(logits.device), float("-inf"))

    def _behind(self, written: tuple[int, ...]) -> State:
        """Returns the state behind an answer's tokens."""
        before = self._states.get(written[:-1]) if written else None
        if before is not None:
            return self._read(before, written[-1])
        state = self.machine.start
        for token in written:
            state = self._read(state, token)
        return state

    def _read(self, state: State, token: int) -> State:
        if token in self._ends:
            return frozenset({()})
        state = self.machine.read(state, self.tree.bytes_of.get(token, b"\0"))
        if not state:
            raise BadInput("another option chose a token that the schema does not allow", remedy="leave it out")
        return state

    def completed(self, text: str) -> tuple[str, bool]:
        """Returns an answer that broke off with the shortest end that makes it fit, and whether one was needed.

        Args:
            text: What was written; half a character at its end is left out.
        """
        text = text.rstrip("\ufffd")
        state = self.machine.read(self.machine.start, text.encode("utf-8"))
        if not state:
            raise BadInput("the answer does not fit its schema")
        ending = b"" if () in state else self.machine.ending(state)
        return text + ending.decode("utf-8"), bool(ending)
