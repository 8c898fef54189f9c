"""The key-value cache: what attention has already computed for the tokens before the present one."""

from __future__ import annotations

import torch
from torch import Tensor


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

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]
        if self.padding is not None:
            self.padding = self.padding[rows]
        if self.tokens is not None:
            self.tokens = self.tokens[rows]

    def can_reorder(self, rows: Tensor) -> bool:
        """Tells whether `reorder` can do what `keep` would do: as many rows, each with the padding that it had."""
        padding = self.padding
        return len(rows) == len(self.layers[0].keys) and (padding is None or torch.equal(padding[rows], padding))

    def reorder(self, rows: Tensor, since: int = 0) -> None:
        """Gives every sequence the tokens of another one in place: row i becomes what row rows[i] was, rows (batch).

        For beams: whatever reads this memory goes on reading it, so that no new step has to be made. Before position
        `since` the rows must be the same already.
        """
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero().squeeze(1)
        if len(moved) == 0:
            return
        sources = rows[moved]
        for layer in self.layers:
            for block in (layer.keys, layer.values):
                block[moved, :, since : self.length] = block[sources, :, since : self.length]
        if self.tokens is not None:
            self.tokens[moved] = self.tokens[sources]
