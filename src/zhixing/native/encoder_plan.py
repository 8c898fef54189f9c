"""From an encoder's modules to a plan: like `native.plan`, for networks whose positions see the whole sequence.

All layers share one layer of the cache: a sequence is read in one step, and what a layer stored is not looked at again.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from zhixing.models.config import TransformerConfig
from zhixing.models.encoder import Encoder, EncoderBlock
from zhixing.models.layers import Norm
from zhixing.native.plan import (
    ACTIVATIONS,
    LARGEST_HEAD,
    Op,
    Plan,
    Slots,
    Unsupported,
    distance_biases,
    position_table,
    reach_of,
)

EXPRESSED = frozenset({
    "vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "context", "causal", "norm",
    "norm_eps", "norm_weight", "norm_offset", "norm_placement", "embedding_norm", "scale_embeddings", "position",
    "position_offset", "token_types", "embedding_width", "attention_scale", "activation", "gated", "attention_bias",
    "attention_output_bias", "mlp_bias", "tied", "dropout", "attention_dropout", "init_std", "zero_init_outputs",
    "relative_buckets", "relative_distance",
})  # fmt: skip
"""The configuration fields that a plan of an encoder expresses; see `native.plan.EXPRESSED`."""


def encoder_plan(encoder: Encoder, slots: Slots) -> Plan:
    """Writes down an encoder; its output is a row of every token.

    Raises:
        Unsupported: It has a feature that plans do not know.
    """
    plan = Plan()
    x, norm = write_encoder(plan, encoder, slots)
    wanted, plan.output = plan.buffer(encoder.config.width), plan.buffer(encoder.config.width)
    plan.add(Op.GATHER, wanted, x)
    plan.norm(norm, plan.output, wanted)
    return plan


def write_encoder(plan: Plan, encoder: Encoder, slots: Slots) -> tuple[int, Norm]:
    """Writes an encoder down but for its last norm; returns the buffer of its vectors, and that norm.

    Raises:
        Unsupported: It has a feature that plans do not know.
    """
    config = encoder.config
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in EXPRESSED and value != item.default:
            raise Unsupported(f"the native core does not know {item.name} = {value!r} in an encoder")
    if encoder.projection is not None:
        raise Unsupported("the native core knows no factorised embeddings")
    if config.head_dim > LARGEST_HEAD:
        raise Unsupported(f"heads of {config.head_dim} values are larger than the native core's {LARGEST_HEAD}")
    reach = reach_of(config)
    x = plan.buffer(config.width)
    embedding = plan.matrix(slots(encoder.embedding.weight))
    plan.add(Op.EMBED, x, embedding, factors=[config.width**0.5 if config.scale_embeddings else 1.0])
    table = _position_table(encoder)
    if table is not None:
        plan.add(Op.POSITION, x, plan.matrix(slots(table)))
    if encoder.embedding_norm is not None:
        plan.norm(encoder.embedding_norm, x, x)
    plan.layers.append((config.kv_heads, config.head_dim))
    biases = None if encoder.relative is None else distance_biases(encoder.relative, reach)
    writer = _Writer(plan, slots, config, x, plan.vector(biases) + 1)
    blocks = [block for block in encoder.blocks if isinstance(block, EncoderBlock)]
    for number, block in enumerate(blocks):
        writer.write(block, last=number == len(blocks) - 1)
    return x, encoder.final_norm if encoder.final_norm is not None else blocks[-1].mlp_norm


def _position_table(encoder: Encoder) -> Tensor | None:
    """Returns what is added at every position, the first segment's vector included, (context, width)."""
    table = position_table(encoder.positions, encoder.config)
    if encoder.types is not None:
        if table is None:
            raise Unsupported("segments without positions")
        table = table.detach() + encoder.types.weight.detach()[0]
    return table


class _Writer:
    """Writes the operations of one block after the other, into shared buffers."""

    def __init__(self, plan: Plan, slots: Slots, config: TransformerConfig, x: int, biases: int) -> None:
        self.plan, self.slots, self.config, self.x, self.biases = plan, slots, config, x, biases
        self.wide, self.narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.read = plan.buffer(config.width)
        self.qkv = plan.buffer(self.wide + 2 * self.narrow)
        self.mixed = plan.buffer(self.wide)
        self.hidden = plan.buffer(config.mlp_width * (2 if config.gated else 1))
        self.active = plan.buffer(config.mlp_width)

    def write(self, block: EncoderBlock, last: bool) -> None:
        """Writes one block; the norm behind the last one is written with the output."""
        plan, x = self.plan, self.x
        source = x
        if block.before:
            plan.norm(block.attention_norm, self.read, x)
            source = self.read
        self._attend(block, source)
        output = block.attention.output
        plan.linear(x, self.mixed, [(self.slots(output.weight), 0, output.bias)], onto=True)
        if block.before:
            plan.norm(block.mlp_norm, self.read, x)
        else:
            plan.norm(block.attention_norm, x, x)
        self._feed_forward(block, source)
        down = block.mlp.down
        plan.linear(x, self.active, [(self.slots(down.weight), 0, down.bias)], onto=True)
        if not block.before and not last:
            plan.norm(block.mlp_norm, x, x)

    def _attend(self, block: EncoderBlock, source: int) -> None:
        plan, attention = self.plan, block.attention
        places = (0, self.wide, self.wide + self.narrow)
        projections = (attention.query, attention.key, attention.value)
        plan.linear(
            self.qkv, source, [(self.slots(p.weight), at, p.bias) for p, at in zip(projections, places, strict=True)]
        )
        plan.add(Op.STORE, 0, self.qkv, places[1], self.qkv, places[2])
        arguments = (0, self.mixed, self.qkv, 0, self.config.heads, 0, 0, self.biases)
        plan.add(Op.ATTEND, *arguments, factors=[attention.scale, 0.0])

    def _feed_forward(self, block: EncoderBlock, source: int) -> None:
        plan, mlp, size = self.plan, block.mlp, self.config.mlp_width
        parts = [(self.slots(mlp.up.weight), 0, mlp.up.bias)]
        if mlp.gate is not None:
            parts = [
                (self.slots(mlp.gate.weight), 0, mlp.gate.bias),
                (self.slots(mlp.up.weight), size, mlp.up.bias),
            ]
        plan.linear(self.hidden, source, parts)
        up = size if mlp.gate is not None else -1
        plan.add(Op.ACTIVATE, self.active, self.hidden, 0, up, size, ACTIVATIONS[mlp.activation])
