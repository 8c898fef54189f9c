"""The blocks of a paged key-value cache: who uses them, and what they remember (Kwon et al. 2023).

A full block can be found again by what it holds and what came before it: its key is the identity of the block before it
and its own tokens, compared one by one. Blocks that nobody uses any more keep what they hold until their place is
needed; the one that was left longest ago goes first, and of one sequence the last blocks go before the first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

Key = tuple[int, tuple[int, ...]]
START = 0
"""The identity of what comes before a sequence's first block."""


class Blocks:
    """All blocks of a cache.

    Args:
        count: How many there are.
        size: Tokens in a block.
        remembers: Whether full blocks are kept for others with the same beginning.
    """

    def __init__(self, count: int, size: int, remembers: bool = True) -> None:
        self.count, self.size, self.remembers = count, size, remembers
        self._users = [0] * count
        self._identity = [START] * count  # of full blocks
        self._key: list[Key | None] = [None] * count
        self._known: dict[Key, int] = {}
        self._empty = list(range(count - 1, -1, -1))
        self._left: OrderedDict[int, None] = OrderedDict()  # remembered, used by nobody; the oldest first
        self._identities = START

    @property
    def free(self) -> int:
        """Blocks that can be taken."""
        return len(self._empty) + len(self._left)

    def needed(self, tokens: int) -> int:
        """Returns the number of blocks for so many tokens."""
        return -(-tokens // self.size)

    def match(self, tokens: Sequence[int]) -> list[int]:
        """Returns the remembered blocks that a sequence begins with, and adds a user to each.

        The last token is never among them: somebody must read it to know what follows.
        """
        found: list[int] = []
        identity = START
        for first in range(0, (len(tokens) - 1) // self.size * self.size, self.size):
            block = self._known.get((identity, tuple(tokens[first : first + self.size])))
            if block is None:
                break
            found.append(block)
            identity = self._identity[block]
        for block in found:
            if self._users[block] == 0:
                del self._left[block]
            self._users[block] += 1
        return found

    def take(self) -> int | None:
        """Returns a block for one user, or None when there is none."""
        if self._empty:
            block = self._empty.pop()
        elif self._left:
            block, _ = self._left.popitem(last=False)
            self._forget(block)
        else:
            return None
        self._users[block] = 1
        return block

    def fill(self, blocks: Sequence[int], place: int, tokens: Sequence[int]) -> None:
        """Notes that a sequence's block at a place is full, with these tokens."""
        if not self.remembers:
            return
        block = blocks[place]
        key = (self._identity[blocks[place - 1]] if place else START, tuple(tokens))
        known = self._known.get(key)
        if known is not None:
            # Another sequence wrote the same beside this one: what follows either of them follows both.
            self._identity[block] = self._identity[known]
            return
        self._identities += 1
        self._identity[block], self._key[block], self._known[key] = self._identities, key, block

    def release(self, blocks: Sequence[int]) -> None:
        """Takes a user from each of a sequence's blocks."""
        for block in reversed(blocks):  # the last one is left first, so it goes first
            self._users[block] -= 1
            if self._users[block] > 0:
                continue
            if self._key[block] is not None:
                self._left[block] = None
            else:
                self._empty.append(block)

    def clear(self) -> None:
        """Forgets what nobody uses."""
        for block in self._left:
            self._forget(block)
            self._empty.append(block)
        self._left.clear()

    def _forget(self, block: int) -> None:
        key, self._key[block] = self._key[block], None
        if key is not None:
            del self._known[key]
