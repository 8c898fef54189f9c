"""What a model has read stays read: the key-value cache of a conversation, kept from one answer to the next.

A conversation is rendered anew for every answer, and most of its tokens are those of the time before. They are compared
one by one; what is alike is not read again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zhixing.generation.generate import Generator
from zhixing.generation.rows import NetworkRows, Rows
from zhixing.models.cache import KVCache
from zhixing.models.network import CausalNetwork
from zhixing.native.network import NativeCache

SPARE = 256
"""Tokens of room beyond those asked for, so that the next turns fit into the same memory."""


class Memory:
    """The tokens that a network has read last, with their keys and values.

    Args:
        model: The network. Networks without a key-value cache are read anew each time.
        owned: The model's weights may be laid out anew in memory.

    Attributes:
        known: The tokens that were read, the newest answer's included.
        reused: How many tokens of the last prompt had been read already.
    """

    def __init__(self, model: CausalNetwork, owned: bool = False) -> None:
        self.model, self.owned = model, owned
        self.known: list[int] = []
        self.reused = 0
        self.lock = threading.Lock()
        """Held by whoever writes with this memory: it serves one answer at a time."""
        self._cache: KVCache | NativeCache | None = None

    def clear(self) -> None:
        """Forgets everything; the next prompt is read from its beginning."""
        self.known, self._cache, self.reused = [], None, 0

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """Reads one prompt, from where it differs from what was read before; see `rows.Reader`."""
        if len(prompts) != 1:
            return NetworkRows(self.model, prompts, room, self.owned)
        prompt = list(prompts[0])
        kept = self._common(prompt)
        wanted = min(len(prompt) + room + SPARE, max(self.model.config.context, len(prompt) + room))
        cache = self._cache
        if cache is None or not self._rewind(cache, kept, len(prompt)):
            fresh = self.model.new_cache(1, wanted)
            if not isinstance(fresh, KVCache | NativeCache):
                return NetworkRows(self.model, prompts, room, self.owned)
            cache, kept = fresh, 0
        if cache.capacity < len(prompt) + room:
            cache.grow(wanted)
        self._cache, self.known, self.reused = cache, prompt[:kept], kept
        rows = _RememberedRows(self, cache, prompt[kept:])
        self.known = prompt
        return rows

    def _common(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens of a prompt need not be read; the last one must be, for what it predicts."""
        read = len(self.known) if self._cache is None else min(len(self.known), self._cache.length)
        limit = min(read, len(prompt) - 1)
        return next((place for place in range(limit) if self.known[place] != prompt[place]), limit)

    def _rewind(self, cache: KVCache | NativeCache, length: int, prompt: int) -> bool:
        """Cuts a cache back; False when what is left of it is not what reading this prompt at once would give."""
        config = self.model.config
        for scaling in (getattr(config, "rope_scaling", None), getattr(config, "local_rope_scaling", None)):
            # Where the frequencies depend on the length of the text, the keys of a longer one are others.
            kind = getattr(scaling, "kind", None)
            longest = max(cache.length, prompt) if kind == "dynamic" else cache.length if kind == "longrope" else 0
            if scaling is not None and longest > scaling.original_context:
                return False
        cache.length = length
        return True


class _RememberedRows(NetworkRows):
    """One row whose tokens are remembered.

    Args:
        memory: Where.
        cache: What was read before.
        tokens: What is read now, at least one.
    """

    def __init__(self, memory: Memory, cache: KVCache | NativeCache, tokens: Sequence[int]) -> None:
        super().__init__(memory.model, [tokens], 0, memory.owned, cache)
        self._memory = memory

    def feed(self, tokens: Tensor) -> None:
        """See `Rows`."""
        super().feed(tokens)
        self._memory.known.extend(tokens.tolist())

    def keep(self, rows: Tensor) -> None:
        """See `Rows`. Several rows have no common memory: it is given up."""
        if rows.tolist() != [0]:
            self._memory.clear()
            self._memory = Memory(self._model)  # what is fed from now on is nobody's
        super().keep(rows)


class RememberingGenerator(Generator):
    """A generator that reads prompts with a memory.

    Args:
        memory: What was read before.
        *arguments: As for `Generator`, without the network.
        **options: Likewise.
    """

    def __init__(self, memory: Memory, *arguments: Any, **options: Any) -> None:
        super().__init__(memory.model, *arguments, owned=memory.owned, **options)
        self.memory = memory

    def read(self, prompts: Sequence[Sequence[int]], room: int) -> Rows:
        """See `Generator.read`."""
        return self.memory.read(prompts, room)
