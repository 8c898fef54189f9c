"""The Transformer, built from the parts that its configuration names.

Features: root-mean-square or layer norms before or behind the parts, parallel residuals, rotary (whole, partial,
scaled, per layer), learned, sinusoidal or relative positions, grouped-query attention, sliding windows, soft-capped
scores and logits, normalised queries and keys, cross-attention to another network's states, plain or gated
feed-forward, tied or separate head, key-value cache, attention limited to documents, batches without padding,
activation checkpointing. Parallelism, compilation and quantisation are applied to it from outside.
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.attention import Attention
from zhixing.models.cache import KVCache, LayerCache
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import CrossAttention, Source, read_source
from zhixing.models.dropout import Dropout
from zhixing.models.layers import Embedding, FeedForward, Linear, Norm
from zhixing.models.loss import IGNORED, cross_entropy_sum, soft_cap, token_losses
from zhixing.models.network import Cache, CausalNetwork
from zhixing.models.packing import Packing
from zhixing.models.positions import RelativeBias, sinusoids
from zhixing.models.ragged import Ragged
from zhixing.models.rotary import RotaryTable

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of some positions, (time, 1, rotary_dim / 2) or (batch, time, 1, rotary_dim / 2) each."""

SourceLayer = tuple[Tensor, Tensor, Tensor | None]
"""Keys, values and mask of what one layer's cross-attention reads; see `cross_attention.Source`."""


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + feed_forward(norm(x)), norms placed as configured.

    Where the network reads a source, x + cross_attention(norm(x)) stands between the two.

    Args:
        config: The network.
        layer: Which of its layers this is.
    """

    attention_norm: Norm | None
    attention_post_norm: Norm | None
    cross_norm: Norm | None
    cross_attention: CrossAttention | None
    cross_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None

    def __init__(self, config: TransformerConfig, layer: int = 0) -> None:
        super().__init__()
        before, behind = config.norm_placement != "post", config.norm_placement in ("post", "sandwich")
        self.parallel, self.in_stream = config.parallel_residual, config.norm_placement == "residual"
        reads = config.cross_width is not None
        self.attention_norm = Norm(config) if before else None
        self.attention = Attention(config, layer)
        self.attention_post_norm = Norm(config) if behind else None
        self.cross_norm = Norm(config) if before and reads else None
        self.cross_attention = CrossAttention(config) if reads else None
        self.cross_post_norm = Norm(config) if behind and reads else None
        self.mlp_norm = Norm(config) if before else None
        self.mlp = FeedForward(config)
        self.mlp_post_norm = Norm(config) if behind else None
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | Packing | None = None,
        cache: LayerCache | None = None,
        start: int = 0,
        source: SourceLayer | None = None,
        layout: Ragged | None = None,
        last: bool = False,
    ) -> Tensor:
        """Maps (batch, time, width) to the same shape, or to (batch, 1, width) where only the last position is wanted;
        see `Attention.forward` for the rest."""
        if self.in_stream:
            return self._norms_in_stream(x, rotation, mask, cache, start, source, layout)
        read = x if self.attention_norm is None else self.attention_norm(x)
        mixed = self.attention(read, rotation, mask, cache, start, layout)
        if last:
            x, mixed = x[:, -1:], mixed[:, -1:]
        if self.attention_post_norm is not None:
            mixed = self.attention_post_norm(mixed)
        stream = x + self.dropout(mixed)
        if self.cross_attention is not None and source is not None:
            mixed = self.cross_attention(
                stream if self.cross_norm is None else self.cross_norm(stream), *source, layout
            )
            stream = stream + self.dropout(mixed if self.cross_post_norm is None else self.cross_post_norm(mixed))
        read = x if self.parallel else stream
        hidden = self.mlp(read if self.mlp_norm is None else self.mlp_norm(read))
        if self.mlp_post_norm is not None:
            hidden = self.mlp_post_norm(hidden)
        y: Tensor = stream + self.dropout(hidden)
        return y

    def _norms_in_stream(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | Packing | None,
        cache: LayerCache | None,
        start: int,
        source: SourceLayer | None,
        layout: Ragged | None,
    ) -> Tensor:
        """The layer of Vaswani et al. (2017): norm(x + part(x)) for each of its parts."""
        assert self.attention_norm is not None
        assert self.mlp_norm is not None
        x = self.attention_norm(x + self.dropout(self.attention(x, rotation, mask, cache, start, layout)))
        if self.cross_attention is not None and self.cross_norm is not None and source is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attention(x, *source, layout)))
        y: Tensor = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return y


class Transformer(CausalNetwork):
    """A language model; with cross-attention, the decoder of a model that reads a text or an image first.

    Args:
        config: What to build.
    """

    positions: nn.Embedding | None
    rotary: RotaryTable | None
    local_rotary: RotaryTable | None
    relative: RelativeBias | None
    embedding_norm: Norm | None
    final_norm: Norm | None
    head: Linear | None
    head_bias: nn.Parameter | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if not config.causal:
            raise BadInput("this configuration is of an encoder", remedy="build it with zhixing.models.encoder")
        self._config = config
        self.embedding = Embedding(config.vocab_size, config.width)
        rows = config.context + config.position_offset
        self.positions = Embedding(rows, config.width) if config.position == "learned" else None
        self.relative = RelativeBias(config) if config.position == "relative" else None
        self.rotary = RotaryTable(config) if config.position == "rotary" else None
        local = config.position == "rotary" and config.local_rope_theta is not None
        self.local_rotary = RotaryTable(config, local=True) if local else None
        self.embedding_norm = Norm(config) if config.embedding_norm else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.final_norm = None if config.norm_placement == "residual" else Norm(config)
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.register_parameter("head_bias", bias)
        self.checkpoint_activations = 0
        self._rotates = [config.layer_rotates(layer) for layer in range(config.layers)]
        self._local = [config.layer_is_local(layer) for layer in range(config.layers)]
        # Up to such a length keys are rotated in one way and beyond it in another.
        scalings = (config.rope_scaling, config.local_rope_scaling)
        self._switches = [s.original_context for s in scalings if s is not None and s.kind == "longrope"]

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: normal with the configured deviation, biases zero, norms one.

        Output projections and a separate head start at zero when the configuration says so (Zhang et al. 2019, Fixup),
        else the projections at the deviation divided by sqrt(2 * layers) (Radford et al. 2019).
        """
        config = self.config
        for name, parameter in self.named_parameters():
            outputs = ("attention.output.weight", "mlp.down.weight")  # with those of cross-attention
            is_output = name.endswith(outputs) or name == "head.weight"
            if parameter.dim() < 2:
                neutral = 1.0 - config.norm_offset
                nn.init.constant_(parameter, neutral if "norm" in name and name.endswith("weight") else 0.0)
            elif is_output and config.zero_init_outputs:
                nn.init.zeros_(parameter)
            elif name in ("embedding.weight", "positions.weight"):
                # A shared table is the head too: with rows of deviation 1 the first logits would be huge.
                std = config.init_std or (0.02 if config.tied else 1.0)
                nn.init.normal_(parameter, std=std, generator=generator)
            else:
                std = config.init_std or parameter.shape[1] ** -0.5
                if is_output and name != "head.weight":
                    std /= math.sqrt(2 * config.layers)
                nn.init.normal_(parameter, std=std, generator=generator)

    @property
    def config(self) -> TransformerConfig:
        """What it was built from."""
        return self._config

    @property
    def output_matrix(self) -> Tensor:
        """The matrix that maps hidden states to logits, (vocab, width)."""
        return self.embedding.weight if self.head is None else self.head.weight

    def match_vocabulary(self) -> None:
        """Takes the size of the vocabulary from the embedding table, after rows were added to it."""
        rows = self.embedding.weight.shape[0]
        self._config = dataclasses.replace(self._config, vocab_size=rows)
        self.embedding.num_embeddings = rows
        if self.head is not None:
            self.head.out_features = self.head.weight.shape[0]

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> KVCache:
        """Makes an empty cache for `batch` sequences of up to `capacity` tokens."""
        c, weight = self.config, self.embedding.weight
        cache = KVCache(c.layers, batch, c.kv_heads, capacity, c.head_dim, weight.dtype, weight.device, padding)
        if self._switches:
            cache.tokens = torch.zeros(batch, capacity, dtype=torch.long, device=weight.device)
        return cache

    def read_source(self, states: Tensor, present: Tensor | None = None) -> Source:
        """Prepares another network's states for the cross-attention of every layer, once for all tokens.

        Args:
            states: (sources, longest, cross_width).
            present: True where there is a state, (sources, longest); None: everywhere.

        Returns:
            One row for each source: for `hidden_states`, or as the `source` of a cache.
        """
        layers = [cast(Block, block).cross_attention for block in self.blocks]
        return read_source([layer for layer in layers if layer is not None], states, present)

    def hidden_states(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        source: Source | None = None,
        layout: Ragged | None = None,
        last: bool = False,
    ) -> Tensor:
        """Runs all blocks and the final norm.

        Where the rotary frequencies depend on the length of the sequence, that is its length with these tokens. With
        `dynamic` scaling cached keys keep the rotation that they were made with, as in `transformers`. With `longrope`,
        the cached tokens are read again when a sequence outgrows the original context (as `transformers` does for
        Phi-3), so that the result is that of reading all at once.

        Args:
            tokens: (batch, time).
            segments: (batch, time), the number of the document that each token belongs to; attention stays within it.
            cache: Earlier keys and values; these tokens come after them.
            source: What each sequence reads besides itself, with cross-attention; None: what the cache has.
            layout: Sequences of unequal length without padding: `tokens` are (1, total), these sequences end to end.
            last: Only the last position is wanted; the last block may leave out the others.

        Returns:
            (batch, time, width), or with `last` some positions up to the last.
        """
        source = cache.source if source is None and cache is not None else source
        if (self.config.cross_width is None) != (source is None):
            raise ValueError("a source is what a network with cross-attention needs, and no other")
        if cache is not None and cache.tokens is not None:
            again = self._read_again(tokens, cache)
            if again is not None:
                return self.hidden_states(again, None, cache, source)[:, -tokens.shape[1] :]
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if layout is None:
            positions, mask, lengths = self._place(tokens, segments, cache)
        else:
            positions, mask, lengths = layout.positions, None, None
        x = self.embedding(tokens)
        if self.config.scale_embeddings:
            x = x * torch.tensor(self.config.width**0.5, dtype=x.dtype, device=x.device)  # rounded as Gemma's is
        if self.positions is not None:
            x = x + self.positions(positions + self.config.position_offset)
        elif self.config.position == "sinusoidal":
            x = x + sinusoids(positions.flatten(), x.shape[-1]).view(*positions.shape, -1).to(x.dtype)
        if self.relative is not None:
            assert not isinstance(mask, Packing)
            mask = self._with_distances(mask, max(layout.lengths) if layout is not None else end, start, x.dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        rotation = self.rotary(positions, end, lengths) if self.rotary is not None else None
        local = self.local_rotary(positions, end, lengths) if self.local_rotary is not None else None
        recomputed = self.training and 0 < self.checkpoint_activations <= tokens.numel()
        for index, block in enumerate(self.blocks):
            turn = (local if self._local[index] else rotation) if self._rotates[index] else None
            read = None if source is None else (source.keys[index], source.values[index], source.mask)
            if recomputed:
                parts = (x, turn, mask, None, 0, read, layout)
                x = cast(Tensor, checkpoint(block, *parts, use_reentrant=False))
            else:
                stored = cache.layers[index] if cache is not None else None
                x = block(x, turn, mask, stored, start, read, layout, last and index == len(self.blocks) - 1)
        if cache is not None:
            cache.length = end
        y: Tensor = x if self.final_norm is None else self.final_norm(x)
        return y if self.config.logit_scale is None else y * self.config.logit_scale

    def forward(self, tokens: Tensor, segments: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """Returns the logits, (batch, time, vocab)."""
        return self.logits(self.hidden_states(tokens, segments, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Maps hidden states, (..., width), to logits, (..., vocab)."""
        return soft_cap(ops.linear(hidden, self.output_matrix, self.head_bias), self.config.logit_softcap)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (batch, time), behind those in the cache; returns the logits of the next, (batch, vocab)."""
        assert isinstance(cache, KVCache)
        return self.logits(self.hidden_states(tokens, cache=cache, last=True)[:, -1])

    def loss_sum(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the summed cross-entropy of the targets in nats; divide by their number yourself."""
        hidden = self.hidden_states(tokens, segments)
        return cross_entropy_sum(hidden, self.output_matrix, targets, self.config.logit_softcap, bias=self.head_bias)

    def losses(self, tokens: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy of every position, (batch, time), 0 where IGNORED, without gradient."""
        with torch.no_grad():
            hidden = self.hidden_states(tokens, segments)
            kept = targets != IGNORED
            # Only the wanted positions go through the head, which is most of the work for a large vocabulary.
            wanted = token_losses(
                hidden[kept][None], self.output_matrix, targets[kept][None], self.config.logit_softcap, self.head_bias
            )
            return torch.zeros(targets.shape, dtype=wanted.dtype, device=wanted.device).masked_scatter_(kept, wanted)

    def _with_distances(self, mask: Tensor | None, end: int, start: int, dtype: torch.dtype) -> Tensor:
        """Returns the relative biases of the positions from `start` to `end`, minus infinity where nothing is seen.

        Args:
            mask: True where attention is allowed besides being causal, (batch or 1, 1, time, end).
            end: Positions that are seen at most.
            start: Positions that are in the cache.
            dtype: Of the scores.

        Returns:
            (batch or 1, heads, end - start, end).
        """
        assert self.relative is not None
        keys = torch.arange(end, device=self.device)
        queries = keys[start:]
        biases: Tensor = self.relative(queries, keys).to(dtype)
        allowed = (keys[None, :] <= queries[:, None])[None, None]
        return biases.masked_fill(~(allowed if mask is None else allowed & mask), float("-inf"))

    def _read_again(self, tokens: Tensor, cache: KVCache) -> Tensor | None:
        """Remembers the tokens; returns all of them when the cached ones must be read again, having emptied the cache.

        That is so when a sequence grows beyond a length at which the rotation of all its positions changes.
        """
        assert cache.tokens is not None
        start, end = cache.length, cache.length + tokens.shape[1]
        cache.tokens[:, start:end] = tokens
        before = torch.zeros(1, dtype=torch.long) if cache.padding is None else cache.padding.cpu()
        if not any(((start - before <= bound) & (end - before > bound)).any() for bound in self._switches) or not start:
            return None
        cache.length = 0
        return cache.tokens[:, :end]

    def switching_lengths(self, cache: KVCache) -> frozenset[int]:
        """Returns the lengths of the cache from which the next token makes the model read all tokens again."""
        before = [0] if cache.padding is None else cache.padding.tolist()
        return frozenset(bound + padding for bound in self._switches for padding in before)

    def _place(
        self, tokens: Tensor, segments: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | Packing | None, Tensor | None]:
        """Places tokens in their sequences.

        Returns:
            Each token's position, (time) or (batch, time); the mask where plain causality is not enough; and the length
            of each token's sequence, (batch, time) or (batch, 1), where it is not the same for all.
        """
        time, device = tokens.shape[1], tokens.device
        start = 0 if cache is None else cache.length
        index = torch.arange(start, start + time, device=device)  # (time)
        if segments is not None:
            packing = Packing(segments)
            # Distances are added to a mask of all pairs, and a compiled step must not depend on the lengths.
            dense = torch.compiler.is_compiling() or self.config.position == "relative"
            return packing.positions, packing.mask if dense else packing, packing.lengths
        if cache is None:
            return index, None, None
        keys = torch.arange(start + time, device=device)
        if cache.padding is not None:
            allowed = (keys[None, None, :] >= cache.padding[:, None, None]) & (keys[None, None] <= index[None, :, None])
            # A padding position sees itself, so that its softmax is defined; nothing reads the result.
            allowed = allowed | (keys[None, None] == index[None, :, None])
            lengths = (start + time - cache.padding).clamp_min(1)[:, None]  # (batch, 1)
            return (index[None, :] - cache.padding[:, None]).clamp_min(0), allowed[:, None], lengths
        if time == 1 or start == 0:
            return index, None, None
        return index, (keys[None, :] <= index[:, None])[None, None], None
