"""The key-value cache: what attention has already computed for the tokens before the present one."""

from __future__ import annotations

import torch
from torch import Tensor

from zhixing.models.cross_attention import Source

COMPARED_ROWS = 256
"""Sequences up to which it is noted how much they have in common."""


class LayerCache:
    """Keys and values of one layer, in one block of memory that is filled from the front.

    Args:
        batch: Sequences.
        kv_heads: Key and value heads.
        capacity: Tokens that fit.
        head_dim: Size of one head.
        dtype: Number type.
        device: Where the memory is.
    """

    def __init__(
        self, batch: int, kv_heads: int, capacity: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (batch, kv_heads, capacity, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

    def update(self, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Stores new keys and values, (batch, kv_heads, time, head_dim), at `start`; returns all up to their end."""
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """The caches of all layers, and how many tokens they hold.

    Args:
        layers: Number of layers.
        batch: Sequences that are written side by side.
        kv_heads: Key and value heads.
        capacity: Tokens that fit.
        head_dim: Size of one head.
        dtype: Number type.
        device: Where the memory is.
        padding: For prompts padded on the left: how many positions of each sequence are padding, (batch).

    Attributes:
        tokens: What was read so far, (batch, capacity), kept by models that must read it again when a sequence grows
            beyond a bound (see `Transformer.hidden_states`); None for all others.
        source: What the sequences read besides themselves, where the network has cross-attention.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        padding: Tensor | None = None,
    ) -> None:
        self.capacity = capacity
        self.length = 0
        self.padding = padding
        self.tokens: Tensor | None = None
        self.source: Source | None = None
        self.batch = batch
        self._common: Tensor | None = None  # (batch, batch): up to where two rows hold the same, if that is known
        where = torch.device(device)
        self.layers = [LayerCache(batch, kv_heads, capacity, head_dim, dtype, where) for _ in range(layers)]

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side: several samples share one reading of the prompt."""
        for layer in self.layers:
            layer.keys = layer.keys.repeat_interleave(times, dim=0)
            layer.values = layer.values.repeat_interleave(times, dim=0)
        if self.padding is not None:
            self.padding = self.padding.repeat_interleave(times, dim=0)
        if self.tokens is not None:
            self.tokens = self.tokens.repeat_interleave(times, dim=0)
        copies = torch.arange(self.batch).repeat_interleave(times)
        if self.source is not None:
            self.source = self.source.rows(copies.to(self.source.owners.device))
        self._regroup(copies)

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        if self.padding is not None:
            self.padding = self.padding[rows]
        if self.tokens is not None:
            self.tokens = self.tokens[rows]
        if self.source is not None:
            self.source = self.source.rows(rows)
        self._regroup(rows.cpu())

    def grow(self, capacity: int) -> None:
        """Makes room for more tokens; those that are there are kept. Make a new step afterwards."""
        for layer in self.layers:
            layer.keys, layer.values = (self._grown(block, capacity) for block in (layer.keys, layer.values))
        if self.tokens is not None:
            tokens = self.tokens.new_zeros(self.tokens.shape[0], capacity)
            tokens[:, : self.length] = self.tokens[:, : self.length]
            self.tokens = tokens
        self.capacity = capacity

    def _grown(self, block: Tensor, capacity: int) -> Tensor:
        batch, heads, _, size = block.shape
        grown = block.new_empty(batch, heads, capacity, size)
        grown[:, :, : self.length] = block[:, :, : self.length]
        return grown

    def can_reorder(self, rows: Tensor) -> bool:
        """Tells whether `reorder` can do what `keep` would do: as many rows, each with the padding and the source that
        it had."""
        padding = self.padding
        if self.source is not None and not torch.equal(self.source.owners[rows], self.source.owners):
            return False
        return len(rows) == self.batch and (padding is None or torch.equal(padding[rows], padding))

    def reorder(self, rows: Tensor) -> None:
        """Gives every sequence the tokens of another one in place: row i becomes what row rows[i] was, rows (batch).

        For beams: whatever reads this memory goes on reading it, so that no new step has to be made, and only what the
        rows do not have in common is copied.
        """
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        if len(moved) == 0:
            return
        sources = rows[moved]
        since = 0 if self._common is None else int(self._common[moved.cpu(), sources.cpu()].min())
        for layer in self.layers:
            for block in (layer.keys, layer.values):
                block[moved, :, since : self.length] = block[sources, :, since : self.length]
        if self.tokens is not None:
            self.tokens[moved] = self.tokens[sources]
        self._regroup(rows.cpu())

    def _regroup(self, rows: Tensor) -> None:
        """Notes what the rows have in common when each has become what another one was."""
        old, self.batch, self._common = self._common, len(rows), None
        if len(rows) <= COMPARED_ROWS:
            same = rows[:, None] == rows[None, :]
            before = 0 if old is None else old[rows[:, None], rows[None, :]]
            self._common = torch.where(same, self.length, before)
