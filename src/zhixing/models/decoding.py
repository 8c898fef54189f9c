"""One token after another, fast: the same network as `models.transformer`, arranged for steps of a single position.

A step of one token through the modules spends as much time on dispatch as on arithmetic. Here the projections that read
the same input are one matrix, the rotation of queries and keys is one operation, grouped heads read the cache where it
lies, and nothing is allocated that a step does not need. The formulas stay in `models.layers` and `models.attention`;
`tests/models/test_decoding.py` holds both to the same logits. What this does not know (another device or number type, a
configuration field that is newer) goes through the modules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.models.cache import KVCache
from zhixing.models.config import TransformerConfig
from zhixing.models.few_rows import Product, few_rows_map
from zhixing.models.layers import Linear, Norm, activate
from zhixing.models.loss import soft_cap
from zhixing.models.network import Cache, CausalNetwork
from zhixing.models.rotary import RotaryTable
from zhixing.models.transformer import Block, Transformer

KNOWN_FIELDS = frozenset({
    "vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "context", "norm", "norm_eps",
    "norm_weight", "norm_offset", "norm_placement", "parallel_residual", "embedding_norm", "scale_embeddings",
    "position", "rope_theta", "rope_scaling", "rope_reversed", "rotary_dim", "rotary_layers", "window", "window_layers",
    "local_rope_theta", "local_rope_scaling", "qk_norm", "qk_norm_scope", "attention_scale", "attention_softcap",
    "activation", "gated", "attention_bias", "attention_output_bias", "mlp_bias", "tied", "logit_softcap", "dropout",
    "attention_dropout", "init_std", "zero_init_outputs",
    "causal", "position_offset", "token_types", "embedding_width", "relative_buckets", "relative_distance",  # encoders
    "cross_width", "head_bias", "logit_scale",  # decoders behind them
})  # fmt: skip
"""The configuration fields that the fast step computes. With any other field it steps aside, so that a new feature of
the Transformer is never silently left out here."""


class Step(Protocol):
    """Feeds the next token of every sequence."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Maps the newest tokens, (batch), to the logits of the next ones, (batch, vocab), and extends the cache."""


def decode_step(model: CausalNetwork, cache: Cache, share: bool = False) -> Step:
    """Returns the fastest way to feed one token at a time that gives this model's logits.

    Args:
        model: The network, in evaluation mode. Its weights must not change while the step is used.
        cache: Filled with the prompt; the step appends to it. Make a new step after `cache.keep` or `cache.repeat`.
        share: Lay the model's own weights out anew (their values stay), so that fused matrices take no extra memory.
            For models that are only used, not for one in training.
    """
    if isinstance(model, Transformer) and isinstance(cache, KVCache) and is_fast(model):
        return _FastStep(model, cache, share)
    return _PlainStep(model, cache)


def is_fast(model: Transformer) -> bool:
    """Tells whether `decode_step` has a fast path for this model: float32 on a CPU, and every field known."""
    weight = model.embedding.weight
    config = model.config
    known = {field.name for field in dataclasses.fields(config)} <= KNOWN_FIELDS
    # The decoders of encoder-decoders go through the modules.
    known &= config.cross_width is None and config.norm_placement != "residual" and not config.position_offset
    known &= config.position in ("rotary", "learned", "none") and not config.head_bias and config.logit_scale is None
    return known and not model.training and weight.device.type == "cpu" and weight.dtype == torch.float32


class _PlainStep:
    """Through the modules."""

    def __init__(self, model: CausalNetwork, cache: Cache) -> None:
        self._model, self._cache = model, cache

    def __call__(self, tokens: Tensor) -> Tensor:
        return self._model.next_logits(tokens[:, None], self._cache)


class _FastNorm:
    """`layers.Norm` in four operations: x / sqrt(mean(x^2) + eps) = x * sqrt(n) / hypot(|x|, sqrt(n * eps))."""

    def __init__(self, norms: Sequence[Norm], repeats: Sequence[int] = (1,)) -> None:
        first = norms[0]
        self.size, self.eps = first.size, first.eps
        self.rms = first.kind == "rms"
        self.weight, self.bias = first.weight, first.bias
        if first.weight is not None and first.offset:
            self.weight = nn.Parameter(first.weight.detach() + first.offset)
        if self.rms or len(norms) > 1:
            rows = [
                (torch.ones(first.size) if norm.weight is None else norm.weight.detach() + norm.offset).expand(
                    count, -1
                )
                for norm, count in zip(norms, repeats, strict=True)
            ]
            self.scale = torch.cat(rows) * (first.size**0.5 if self.rms else 1.0)  # (heads or 1, size)
            shifts = [
                (torch.zeros(first.size) if norm.bias is None else norm.bias.detach()).expand(count, -1)
                for norm, count in zip(norms, repeats, strict=True)
            ]
            self.shift = torch.cat(shifts)
        self.joined = len(norms) > 1
        self.floor = torch.tensor((first.size * first.eps) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        if self.rms:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            return (x / torch.hypot(length, self.floor)).mul_(self.scale)
        if self.joined:
            return F.layer_norm(x, (self.size,), eps=self.eps).mul_(self.scale).add_(self.shift)
        return F.layer_norm(x, (self.size,), self.weight, self.bias, self.eps)


def _map(parts: Sequence[Linear], rows: int, share: bool) -> Product:
    return few_rows_map([part.weight for part in parts], [part.bias for part in parts], rows, share)


def _fast_norm(norm: Norm | None) -> _FastNorm | None:
    return None if norm is None else _FastNorm([norm])


class _FastBlock:
    """`transformer.Block` for one position: its weights, joined, and what is particular to its layer."""

    def __init__(self, block: Block, config: TransformerConfig, layer: int, rows: int, share: bool) -> None:
        attention, mlp = block.attention, block.mlp
        self.attention_norm, self.mlp_norm = _fast_norm(block.attention_norm), _fast_norm(block.mlp_norm)
        self.attention_post_norm = _fast_norm(block.attention_post_norm)
        self.mlp_post_norm = _fast_norm(block.mlp_post_norm)
        self.qkv = _map([attention.query, attention.key, attention.value], rows, share)
        self.output = _map([attention.output], rows, share)
        self.up = _map([mlp.up] if mlp.gate is None else [mlp.gate, mlp.up], rows, share)
        self.down = _map([mlp.down], rows, share)
        self.turn = (2 if config.layer_is_local(layer) else 1) if config.layer_rotates(layer) else 0
        self.window = config.layer_window(layer)
        self.qk_norm: _FastNorm | None = None
        self.query_norm: _FastNorm | None = None
        self.key_norm: _FastNorm | None = None
        if attention.query_norm is not None and attention.key_norm is not None:
            if attention.norm_together:
                self.query_norm, self.key_norm = _FastNorm([attention.query_norm]), _FastNorm([attention.key_norm])
            else:
                self.qk_norm = _FastNorm([attention.query_norm, attention.key_norm], [config.heads, config.kv_heads])


class _FastStep:
    def __init__(self, model: Transformer, cache: KVCache, share: bool) -> None:
        self._model, self._cache, self._config = model, cache, model.config
        self._batch = cache.layers[0].keys.shape[0]
        # Outside of inference mode, where a new layout of the weights would make them unfit for training.
        with torch.inference_mode(False), torch.no_grad():
            self._blocks = [
                _FastBlock(block, model.config, layer, self._batch, share)  # type: ignore[arg-type]
                for layer, block in enumerate(model.blocks)
            ]
            assert model.final_norm is not None
            self._final_norm = _FastNorm([model.final_norm])
            self._embedding_norm = _fast_norm(model.embedding_norm)
            head = model.embedding if model.head is None else model.head
            self._head = few_rows_map([head.weight], [None], self._batch, share)
        config = self._config
        self._scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self._rotary_dim = config.rotary_dim or config.head_dim
        self._partly_rotated = self._rotary_dim != config.head_dim
        self._embedding_scale = config.width**0.5 if config.scale_embeddings else None
        self._table = self._rotations(model.rotary) if model.rotary is not None else None
        self._local_table = self._rotations(model.local_rotary) if model.local_rotary is not None else None
        self._switches = model.switching_lengths(cache)
        self._mask: Tensor | None = None
        if cache.padding is not None:
            hidden = torch.arange(cache.capacity)[None] < cache.padding[:, None]  # (batch, capacity)
            self._mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None]

    def _rotations(self, rotary: RotaryTable) -> tuple[Tensor, Tensor]:
        """Tables for x * cos + roll(x, rotary_dim / 2) * sin, one row per position: (capacity, 1, rotary_dim) each.

        A token that is written at a position makes a sequence that ends there: its length is the position plus one.
        """
        positions = torch.arange(self._cache.capacity)
        cos, sin = rotary(positions, self._cache.capacity, positions + 1)  # (capacity, 1, rotary_dim / 2)
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)

    def __call__(self, tokens: Tensor) -> Tensor:
        config, model, start, padding = self._config, self._model, self._cache.length, self._cache.padding
        if self._cache.tokens is not None:
            if start in self._switches:  # all positions are rotated anew
                return model.next_logits(tokens[:, None], self._cache)
            self._cache.tokens[:, start] = tokens
        x = F.embedding(tokens, model.embedding.weight)  # (batch, width)
        if self._embedding_scale is not None:
            x = x * self._embedding_scale
        positions = slice(start, start + 1) if padding is None else start - padding
        if model.positions is not None:
            x = x + model.positions.weight[positions]
        if self._embedding_norm is not None:
            x = self._embedding_norm(x)
        table, local = self._table, self._local_table
        rotations = (
            None,
            (table[0][positions], table[1][positions]) if table is not None else None,
            (local[0][positions], local[1][positions]) if local is not None else None,
        )
        mask = self._mask[..., : start + 1] if self._mask is not None else None
        for index, block in enumerate(self._blocks):
            read = x if block.attention_norm is None else block.attention_norm(x)
            mixed = block.output(self._attend(index, block, read, rotations[block.turn], mask, start))
            if block.attention_post_norm is not None:
                mixed = block.attention_post_norm(mixed)
            stream = x + mixed
            read = x if config.parallel_residual else stream
            hidden = block.down(self._hidden(block.up(read if block.mlp_norm is None else block.mlp_norm(read))))
            if block.mlp_post_norm is not None:
                hidden = block.mlp_post_norm(hidden)
            x = stream + hidden
        self._cache.length = start + 1
        return soft_cap(self._head(self._final_norm(x)), config.logit_softcap)

    def _hidden(self, hidden: Tensor) -> Tensor:
        """Returns what the feed-forward's second map reads, from what the first gave: (batch, hidden)."""
        config = self._config
        if config.gated:
            gate, up = hidden.chunk(2, dim=1)
            return activate(gate, config.activation) * up
        return F.relu(hidden).square_() if config.activation == "relu2" else activate(hidden, config.activation)

    def _attend(
        self,
        index: int,
        block: _FastBlock,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
        start: int,
    ) -> Tensor:
        config, cache = self._config, self._cache.layers[index]
        heads, kv_heads, size = config.heads, config.kv_heads, config.head_dim
        qkv = block.qkv(x).view(self._batch, heads + 2 * kv_heads, size)
        qk, v = qkv.narrow(1, 0, heads + kv_heads), qkv.narrow(1, heads + kv_heads, kv_heads)
        if config.qk_norm == "before_rotary":
            qk = self._normalise(block, qk)
        if rotation is not None:
            cos, sin = rotation
            if self._partly_rotated:
                qk = self._rotate_part(qk, cos, sin)
            else:
                qk = torch.addcmul(qk * cos, qk.roll(size // 2, -1), sin)
        if config.qk_norm == "after_rotary":
            qk = self._normalise(block, qk)
        q, k = qk.narrow(1, 0, heads), qk.narrow(1, heads, kv_heads)
        cache.keys.select(2, start).copy_(k)
        cache.values.select(2, start).copy_(v)
        first, seen = 0, start + 1
        if block.window is not None and seen > block.window:
            first, seen = seen - block.window, block.window
            mask = mask[..., first:] if mask is not None else None
        keys, values = cache.keys.narrow(2, first, seen), cache.values.narrow(2, first, seen)
        # The query heads of a group stand where time usually does: they share keys and values without a copy of them.
        q = q.view(self._batch, kv_heads, heads // kv_heads, size) if kv_heads != heads else q.unsqueeze(2)
        cap = config.attention_softcap
        if cap is None:
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=self._scale)
        else:
            scores = torch.tanh(torch.matmul(q, keys.transpose(2, 3)) * (self._scale / cap)).mul_(cap)
            mixed = torch.softmax(scores if mask is None else scores.add_(mask), dim=-1) @ values
        return mixed.reshape(self._batch, heads * size)  # from (batch, kv_heads, group, head_dim)

    def _normalise(self, block: _FastBlock, qk: Tensor) -> Tensor:
        """Normalises queries and keys, (batch, heads + kv_heads, head_dim)."""
        if block.qk_norm is not None:
            return block.qk_norm(qk)
        assert block.query_norm is not None
        assert block.key_norm is not None
        q, k = torch.split(qk, [self._config.heads, self._config.kv_heads], dim=1)
        joined = torch.cat((block.query_norm(q.flatten(1)), block.key_norm(k.flatten(1))), dim=1)
        return joined.view(qk.shape)

    def _rotate_part(self, qk: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotates the leading dimensions of queries and keys, (batch, heads + kv_heads, head_dim)."""
        dim, size = self._rotary_dim, self._config.head_dim
        turned = qk.narrow(-1, 0, dim)
        turned = torch.addcmul(turned * cos, turned.roll(dim // 2, -1), sin)
        return torch.cat((turned, qk.narrow(-1, dim, size - dim)), dim=-1)
