"""Which tokens of a vocabulary may come next in JSON, by their bytes.

Tokens share beginnings, so they are walked as a tree. Inside a string nearly all tokens may come, and whether they may
does not depend on the schema: those are known at once; only those with quotes, escapes or cut characters are walked.
What was worked out for a state is kept: the same places come again for every text.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zhixing.generation.grammar.machine import Machine, Stack, State
from zhixing.tokenization.tokenizer import Tokenizer

KEPT = 4096
"""Masks that are kept."""


class TokenTree:
    """The tokens of a vocabulary by their bytes.

    Args:
        tokenizer: The vocabulary; special tokens are none of the text and left out.
        vocab_size: Of the model, which may have more rows than the tokenizer has tokens.

    Attributes:
        plain: The tokens that are whole characters of a string without escapes, (vocab).
        longest: The most characters of such a token.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.bytes_of: dict[int, bytes] = {}
        self.root: dict[int, Any] = {}
        self.others: dict[int, Any] = {}
        self.plain = torch.zeros(vocab_size, dtype=torch.bool)
        self.longest = 1
        for token in range(min(tokenizer.vocab_size, vocab_size)):
            if token in tokenizer.special_ids:
                continue
            data = tokenizer.token_bytes(token)
            if not data:
                continue
            self.bytes_of[token] = data
            _insert(self.root, data, token)
            if characters := _plain_characters(data):
                self.plain[token] = True
                self.longest = max(self.longest, characters)
            else:
                _insert(self.others, data, token)


TOKENS = -1
"""The key of a node under which the tokens stand that end there."""


def _insert(node: dict[int, Any], data: bytes, token: int) -> None:
    for byte in data:
        node = node.setdefault(byte, {})
    node.setdefault(TOKENS, []).append(token)


def _plain_characters(data: bytes) -> int:
    """Returns how many characters a token is that may stand in a string as it is; 0 when it is none such."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return 0
    return 0 if any(character in '"\\\x7f' or character < " " for character in text) else len(text)


class TokenFilter:
    """Says which tokens may come in a state.

    Args:
        machine: Follows the schema.
        tree: The vocabulary.
    """

    def __init__(self, machine: Machine, tree: TokenTree) -> None:
        self.machine, self.tree = machine, tree
        self._masks: dict[State, Tensor] = {}

    def allowed(self, state: State) -> Tensor:
        """Returns a mask of the tokens that may come, (vocab)."""
        key = frozenset(self._capped(stack) for stack in state)
        mask = self._masks.get(key)
        if mask is None:
            if len(self._masks) >= KEPT:
                self._masks.clear()
            mask = self._masks[key] = self._walked(key)
            self.machine.forget()
        return mask

    def _capped(self, stack: Stack) -> Stack:
        """Returns a stack that allows the same tokens: what is further off than any token reaches does not matter."""
        if not stack or stack[-1][0] != "string":
            return stack
        _, needed, left, pending = stack[-1]
        longest = self.tree.longest
        return (*stack[:-1], ("string", min(needed, longest), min(left, longest), pending))

    def _walked(self, state: State) -> Tensor:
        found: list[int] = []
        free = any(
            stack and stack[-1][0] == "string" and stack[-1][2] >= self.tree.longest and not stack[-1][3]
            for stack in state
        )
        todo: list[tuple[dict[int, Any], State]] = [(self.tree.others if free else self.tree.root, state)]
        while todo:
            node, at = todo.pop()
            for byte, child in node.items():
                if byte == TOKENS:
                    continue
                following = self.machine.advance(at, byte)
                if following:
                    found += child.get(TOKENS, ())
                    todo.append((child, following))
        mask = self.tree.plain.clone() if free else torch.zeros(self.tree.vocab_size, dtype=torch.bool)
        mask[found] = True
        return mask
