"""From a Transformer's modules to a plan: the flat list of operations that the core runs.

The modules stay the single source of truth: this walks them once and writes down what each computes, in the form that
`csrc/plan.h` describes. What cannot be said in a plan raises `Unsupported`, and the caller falls back to PyTorch.
Weights are only named here; they are packed by `native.weights`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import CrossAttention
from zhixing.models.layers import Linear, Norm
from zhixing.models.positions import RelativeBias, sinusoids
from zhixing.models.rotary import RotaryTable, scaled_frequencies
from zhixing.models.transformer import Block, Transformer
from zhixing.native.packing import COARSE, Floats, Kind
from zhixing.native.program import Turning

MAGIC, VERSION = 0x5A58504C, 2
NUMBERS, FACTORS = 16, 4
LARGEST_HEAD = 512

LONGEST = 8192
"""Positions up to which tables are made, where a network has no table of its own."""

BIAS_MARGIN = 32
"""Values behind the biases of every head; see csrc/plan.h."""

EXPRESSED = frozenset({
    "vocab_size", "width", "layers", "heads", "kv_heads", "head_dim", "mlp_width", "context", "norm", "norm_eps",
    "norm_weight", "norm_offset", "norm_placement", "parallel_residual", "embedding_norm", "scale_embeddings",
    "position", "rope_theta", "rope_scaling", "rope_reversed", "rotary_dim", "rotary_layers", "window", "window_layers",
    "local_rope_theta", "local_rope_scaling", "qk_norm", "qk_norm_scope", "attention_scale", "attention_softcap",
    "activation", "gated", "attention_bias", "attention_output_bias", "mlp_bias", "tied", "logit_softcap", "dropout",
    "attention_dropout", "init_std", "zero_init_outputs", "position_offset", "relative_buckets", "relative_distance",
    "cross_width", "head_bias", "logit_scale",
})  # fmt: skip
"""The configuration fields that a plan expresses. It steps aside when any other is not at its default, so that a new
feature of the Transformer is never silently left out here."""

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2, "relu": 3, "relu2": 4}


class Unsupported(Exception):
    """A network, or a part of it, that a plan cannot express; the text says which."""


class Op(IntEnum):
    """Operations; numbers and arguments are those of csrc/plan.h."""

    EMBED = 1
    INPUT = 2
    POSITION = 3
    NORM = 4
    QUANTISE = 5
    LINEAR = 6
    ROTATE = 7
    STORE = 8
    ATTEND = 9
    ACTIVATE = 10
    ADD = 11
    GATHER = 12
    SOFT_CAP = 13
    READ = 14
    REFINE = 15


ONLY_LIKELIEST, ONLY_WHOLE = 1, 2
"""When a product is computed, unless always; see csrc/plan.h."""


@dataclass(frozen=True, eq=False)
class MatrixSlot:
    """A matrix that a plan uses: where its weights come from, and how they will be packed.

    Attributes:
        weight: The weights.
        kind: How they are packed.
        rows: Results.
        cols: Columns.
        exact: The number of the matrix that this one approximates, from whose packed values it is made; else None.
    """

    weight: Tensor
    kind: Kind
    rows: int
    cols: int
    exact: int | None = None


@dataclass
class Plan:
    """A plan as it is written down.

    Attributes:
        matrices: The matrices, in the order in which a step reads them.
        vectors: Weights of norms, and biases.
        bounds: For a matrix that approximates another, the vector that takes its bounds.
        buffers: Widths of the rows of activations.
        layers: Key-value heads and head size of every layer with a cache.
        tables: What the tables of rotations are made of.
        operations: Rows of `NUMBERS` integers.
        factors: Rows of `FACTORS` numbers.
        output: The buffer that the caller gets.
    """

    matrices: list[MatrixSlot] = field(default_factory=list)
    vectors: list[Floats] = field(default_factory=list)
    bounds: dict[int, int] = field(default_factory=dict)
    buffers: list[int] = field(default_factory=list)
    layers: list[tuple[int, int]] = field(default_factory=list)
    tables: list[Turning] = field(default_factory=list)
    operations: list[list[int]] = field(default_factory=list)
    factors: list[list[float]] = field(default_factory=list)
    output: int = 0

    def buffer(self, width: int) -> int:
        """Adds a buffer and returns its number."""
        self.buffers.append(width)
        return len(self.buffers) - 1

    def vector(self, values: Tensor | None) -> int:
        """Adds a vector and returns its number; -1 for None."""
        if values is None:
            return -1
        self.vectors.append(np.ascontiguousarray(values.detach().float().numpy()))
        return len(self.vectors) - 1

    def matrix(self, slot: MatrixSlot) -> int:
        """Returns the number of a matrix, which is added unless it is there: tied weights are packed once."""
        for number, present in enumerate(self.matrices):
            if present.weight is slot.weight and present.exact is slot.exact is None:
                return number
        self.matrices.append(slot)
        return len(self.matrices) - 1

    def add(self, op: Op, *arguments: int, factors: Sequence[float] = ()) -> None:
        """Adds an operation."""
        numbers = [int(op), *(int(argument) for argument in arguments)]
        self.operations.append(numbers + [0] * (NUMBERS - len(numbers)))
        self.factors.append([*map(float, factors)] + [0.0] * (FACTORS - len(factors)))

    def norm(self, norm: Norm, to: int, source: int, *, at: int = 0, pieces: int = 1, onto: bool = False) -> None:
        """Adds a norm of `pieces` neighbouring stretches; in place when both buffers are the same."""
        weight = norm.weight
        if weight is not None and norm.offset:
            weight = weight.float() + norm.offset  # type: ignore[assignment]
        start = at if to == source else 0
        self.add(
            Op.NORM, to, start, source, at, pieces, norm.size, self.vector(weight), self.vector(norm.bias),
            norm.kind == "layer", onto, factors=[norm.eps],
        )  # fmt: skip

    def linear(
        self,
        to: int,
        source: int,
        parts: Sequence[tuple[MatrixSlot, int, Tensor | None]],
        *,
        onto: bool = False,
        when: int = 0,
    ) -> None:
        """Adds up to three products of one input: each with its matrix, its place in the result and its bias."""
        if any(slot.kind.quantised for slot, _, _ in parts):
            self.add(Op.QUANTISE, source, 0, parts[0][0].cols)
        arguments: list[int] = []
        for slot, place, bias in parts:
            arguments += [self.matrix(slot), place, self.vector(bias)]
        self.add(Op.LINEAR, to, source, 0, onto, len(parts), *arguments)
        self.operations[-1][-1] = when

    def head(self, to: int, source: int, slot: MatrixSlot, bias: Tensor | None, approximate: bool) -> None:
        """Adds the product that gives the logits.

        Args:
            to: The logits' buffer.
            source: What is read.
            slot: The matrix.
            bias: Its bias, or None.
            approximate: In steps that ask only for the likeliest token, it is found by way of a matrix in 4 bits.
        """
        if not approximate:
            self.linear(to, source, [(slot, 0, bias)])
            return
        exact = self.matrix(slot)
        coarse = MatrixSlot(slot.weight, COARSE, slot.rows, slot.cols, exact)
        self.linear(to, source, [(coarse, 0, bias)], when=ONLY_LIKELIEST)
        bounds = self.vector(torch.zeros(slot.rows))
        self.bounds[self.matrices.index(coarse)] = bounds
        self.linear(to, source, [(slot, 0, bias)], when=ONLY_WHOLE)
        self.add(Op.REFINE, to, source, exact, bounds, self.vector(bias))

    def encode(
        self, matrix_places: Sequence[int], vector_places: Sequence[int], max_tokens: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the plan as the core reads it, given where its weights are in memory."""
        numbers: list[int] = [
            MAGIC, VERSION, max_tokens, self.output, len(self.matrices), len(self.vectors), len(self.buffers),
            len(self.layers), len(self.tables), len(self.operations),
        ]  # fmt: skip
        for slot, place in zip(self.matrices, matrix_places, strict=True):
            numbers += [int(slot.kind), slot.rows, slot.cols, place]
        for vector, place in zip(self.vectors, vector_places, strict=True):
            numbers += [len(vector), place]
        numbers += self.buffers
        for heads, size in self.layers:
            numbers += [heads, size]
        numbers += [len(table.frequencies) for table in self.tables]
        for operation in self.operations:
            numbers += operation
        factors = [factor for row in self.factors for factor in row]
        return np.array(numbers, np.int64), np.array(factors, np.float64)


Slots = Callable[[Tensor], MatrixSlot]
"""Decides how each matrix is packed."""


def turning(table: RotaryTable) -> Turning:
    """Returns what a table whose frequencies do not depend on the length is made of."""
    frequencies = scaled_frequencies(table.theta, table.dim, table.scaling)
    factor = table.attention_factor
    return Turning(np.ascontiguousarray(frequencies.float().numpy()), factor, factor * table.sign)


def reach_of(config: TransformerConfig) -> int:
    """Returns the positions that a plan's tables have: the context, where that is not too long.

    Raises:
        Unsupported: The context is bounded, but longer than tables are made.
    """
    if config.context > LONGEST and config.position != "relative":
        raise Unsupported(f"{config.position} positions in a context of {config.context} tokens")
    return min(config.context, LONGEST)


def position_table(positions: nn.Embedding | None, config: TransformerConfig) -> Tensor | None:
    """Returns what is added at every position, (context, width); None where nothing is."""
    if positions is not None:
        return positions.weight[config.position_offset :] if config.position_offset else positions.weight
    if config.position == "sinusoidal":
        return sinusoids(torch.arange(reach_of(config)), config.width)
    return None


def distance_biases(relative: RelativeBias, positions: int) -> Tensor:
    """Returns what is added to the scores by distance: of every head 2 * positions + `BIAS_MARGIN` values, flat."""
    distances = torch.arange(2 * positions + BIAS_MARGIN) - (positions - 1)
    return relative.table.weight.detach()[relative.buckets(distances)].T.flatten()


def coarser(slot: MatrixSlot, config: TransformerConfig) -> None:
    """Checks that a head can be approximated.

    Raises:
        BadInput: Nothing would be gained, or the likeliest token not be sure.
    """
    if not slot.kind.quantised or slot.kind in (Kind.B4S, Kind.B4M, Kind.B4K, Kind.B4L):
        why = f"the head is kept as {slot.kind.label}: it is found by way of 4 bits from 5, 6 or 8"
    elif config.logit_softcap is not None:
        why = "the logits of this model are soft-capped, which may make neighbours equal"
    else:
        return
    raise BadInput(why, remedy="leave --head out")


def transformer_plan(
    model: Transformer, slots: Slots, source: Sequence[int] | None = None, coarse_head: bool = False
) -> Plan:
    """Writes down a Transformer that predicts the next token.

    Args:
        model: The network.
        slots: Decides how each matrix is packed.
        source: For a network with cross-attention: which layer of the source's cache each layer reads.
        coarse_head: Finds the likeliest token by way of a head in 4 bits; see `Plan.head`.

    Raises:
        BadInput: The head cannot be approximated.
        Unsupported: It has a feature that plans do not know.
    """
    config = model.config
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if item.name not in EXPRESSED and value != item.default:
            raise Unsupported(f"the native core does not know {item.name} = {value!r}")
    if (config.cross_width is None) != (source is None):
        raise Unsupported(f"the native core does not know cross_width = {config.cross_width!r} without a source")
    if config.head_dim > LARGEST_HEAD:
        raise Unsupported(f"heads of {config.head_dim} values are larger than the native core's {LARGEST_HEAD}")
    for table in (model.rotary, model.local_rotary):
        if table is not None and table.depends_on_length:
            raise Unsupported("rotary frequencies that depend on the length of the sequence")
    plan = Plan()
    width, embedding = config.width, slots(model.embedding.weight)
    x = plan.buffer(width)
    # The scale is rounded to the weights' type, as the module does.
    scale = float(np.float32(width**0.5)) if config.scale_embeddings else 1.0
    # Its number comes last, so that a tied table lies behind the blocks, where the head reads it.
    embed = len(plan.operations)
    plan.add(Op.EMBED, x, 0, factors=[scale])
    positions = position_table(model.positions, config)
    if positions is not None:
        plan.add(Op.POSITION, x, plan.matrix(slots(positions)))
    if model.embedding_norm is not None:
        plan.norm(model.embedding_norm, x, x)
    tables = {id(table): number for number, table in enumerate(t for t in (model.rotary, model.local_rotary) if t)}
    plan.tables = [turning(table) for table in (model.rotary, model.local_rotary) if table is not None]
    builder = _BlockWriter(plan, slots, model, x, source)
    for layer, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        rotary = model.local_rotary if config.layer_is_local(layer) else model.rotary
        turned = config.layer_rotates(layer) and rotary is not None
        builder.write(layer, block, tables[id(rotary)] if turned else None)
    wanted, logits = plan.buffer(width), plan.buffer(config.vocab_size)
    plan.output = logits
    plan.add(Op.GATHER, wanted, x)
    if model.final_norm is not None:
        plan.norm(model.final_norm, wanted, wanted)
    if config.logit_scale is not None:
        plan.add(Op.SOFT_CAP, wanted, factors=[config.logit_scale, 0.0])
    if coarse_head:
        coarser(slots(model.output_matrix), config)
    plan.head(logits, wanted, slots(model.output_matrix), model.head_bias, coarse_head)
    if config.logit_softcap is not None:
        plan.add(Op.SOFT_CAP, logits, factors=[1.0, config.logit_softcap])
    plan.operations[embed][2] = plan.matrix(embedding)
    return plan


class _BlockWriter:
    """Writes the operations of one block after the other, into shared buffers."""

    def __init__(
        self, plan: Plan, slots: Slots, model: Transformer, x: int, source: Sequence[int] | None = None
    ) -> None:
        config = model.config
        self.source = source
        biases = None if model.relative is None else distance_biases(model.relative, reach_of(config))
        self.biases = plan.vector(biases) + 1  # 0: none
        self.plan, self.slots, self.config, self.x = plan, slots, config, x
        self.wide, self.narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.read = plan.buffer(config.width)
        self.qkv = plan.buffer(self.wide + 2 * self.narrow)
        self.mixed = plan.buffer(self.wide)
        self.hidden = plan.buffer(config.mlp_width * (2 if config.gated else 1))
        self.active = plan.buffer(config.mlp_width)
        self.written = plan.buffer(config.width)
        self.second = plan.buffer(config.width) if config.parallel_residual else self.read

    def write(self, layer: int, block: Block, table: int | None) -> None:
        """Writes one block; `table` is the number of its table of rotations."""
        plan, x = self.plan, self.x
        source = x if block.in_stream else self._normed(block.attention_norm, self.read)
        # In a parallel block the feed-forward part reads the stream before attention is added to it.
        second = self._normed(block.mlp_norm, self.second) if block.parallel else x
        if block.parallel and second == x:
            raise Unsupported("parallel residuals without a norm before the feed-forward part")
        self._attend(layer, block, source, table)
        self._add(block.attention.output, block.attention_post_norm, self.mixed)
        self._norm_stream(block, block.attention_norm)
        if block.cross_attention is not None:
            self._read_source(layer, block, block.cross_attention)
        if not block.parallel and not block.in_stream:
            second = self._normed(block.mlp_norm, self.read)
        self._feed_forward(block, second)
        self._add(block.mlp.down, block.mlp_post_norm, self.active)
        self._norm_stream(block, block.mlp_norm)
        plan.layers.append((self.config.kv_heads, self.config.head_dim))

    def _normed(self, norm: Norm | None, to: int) -> int:
        """Writes a norm of the stream; returns the buffer to read, which is the stream where there is no norm."""
        if norm is None:
            return self.x
        self.plan.norm(norm, to, self.x)
        return to

    def _norm_stream(self, block: Block, norm: Norm | None) -> None:
        """Writes the norm behind an addition, in blocks that have their norms there."""
        if block.in_stream and norm is not None:
            self.plan.norm(norm, self.x, self.x)

    def _read_source(self, layer: int, block: Block, attention: CrossAttention) -> None:
        """Writes the look at the source, whose keys and values are in the cache of another plan."""
        plan, config = self.plan, self.config
        assert self.source is not None
        read = self.x if block.in_stream else self._normed(block.cross_norm, self.read)
        query = attention.query
        plan.linear(self.qkv, read, [(self.slots(query.weight), 0, query.bias)])
        plan.add(
            Op.READ, config.kv_heads, self.mixed, self.qkv, 0, config.heads, config.head_dim, self.source[layer],
            factors=[attention.scale],
        )  # fmt: skip
        self._add(attention.output, block.cross_post_norm, self.mixed)
        self._norm_stream(block, block.cross_norm)

    def _add(self, linear: Linear, norm: Norm | None, source: int) -> None:
        """Writes the projection that adds to the stream, normalised first where the block does that."""
        part = [(self.slots(linear.weight), 0, linear.bias)]
        if norm is None:
            self.plan.linear(self.x, source, part, onto=True)
            return
        self.plan.linear(self.written, source, part)
        self.plan.norm(norm, self.x, self.written, onto=True)

    def _attend(self, layer: int, block: Block, source: int, table: int | None) -> None:
        plan, config, attention, qkv = self.plan, self.config, block.attention, self.qkv
        places = (0, self.wide, self.wide + self.narrow)
        projections = (attention.query, attention.key, attention.value)
        plan.linear(
            qkv, source, [(self.slots(p.weight), at, p.bias) for p, at in zip(projections, places, strict=True)]
        )
        if config.qk_norm == "before_rotary":
            self._norm_heads(block)
        if table is not None:
            half = len(plan.tables[table].frequencies)
            plan.add(Op.ROTATE, qkv, 0, config.heads + config.kv_heads, config.head_dim, half, table)
        if config.qk_norm == "after_rotary":
            self._norm_heads(block)
        plan.add(Op.STORE, layer, qkv, places[1], qkv, places[2])
        plan.add(
            Op.ATTEND, layer, self.mixed, qkv, 0, config.heads, attention.window or 0, 1, self.biases,
            factors=[attention.scale, attention.softcap or 0.0],
        )  # fmt: skip

    def _norm_heads(self, block: Block) -> None:
        config, attention = self.config, block.attention
        assert attention.query_norm is not None
        assert attention.key_norm is not None
        together = attention.norm_together
        self.plan.norm(attention.query_norm, self.qkv, self.qkv, pieces=1 if together else config.heads)
        self.plan.norm(
            attention.key_norm, self.qkv, self.qkv, at=self.wide, pieces=1 if together else config.kv_heads
        )  # fmt: skip

    def _feed_forward(self, block: Block, source: int) -> None:
        plan, mlp, size = self.plan, block.mlp, self.config.mlp_width
        if mlp.gate is None:
            plan.linear(self.hidden, source, [(self.slots(mlp.up.weight), 0, mlp.up.bias)])
        else:
            parts = [
                (self.slots(mlp.gate.weight), 0, mlp.gate.bias),
                (self.slots(mlp.up.weight), size, mlp.up.bias),
            ]
            plan.linear(self.hidden, source, parts)
        up = size if mlp.gate is not None else -1
        plan.add(Op.ACTIVATE, self.active, self.hidden, 0, up, size, ACTIVATIONS[mlp.activation])
