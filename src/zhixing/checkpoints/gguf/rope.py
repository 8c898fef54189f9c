"""Rotary positions in GGUF files: base and scaling from metadata and tensors, to the published fields and back.

Linear scaling and YaRN stand in the metadata. Llama 3's scaling is a tensor of divisors, one per frequency, that
follows from four numbers; LongRoPE is two such tensors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.checkpoints.gguf.architectures import Config, MetadataReader, Written
from zhixing.core.errors import BadInput

LLAMA3_TENSOR = "rope_freqs.weight"
LONG_TENSOR, SHORT_TENSOR = "rope_factors_long.weight", "rope_factors_short.weight"
TENSORS = r"rope_(freqs|factors_long|factors_short)\.weight"
"""The tensors that belong to the rotary positions, as a regular expression."""

LLAMA3_LENGTHS = (8192, 4096, 2048, 16384, 32768)
"""Original lengths that are tried for Llama 3's divisors, the published one first."""


def read_rope(reader: MetadataReader, rotated: int, theta: float = 10_000.0) -> dict[str, Any]:
    """Reads the rotary fields as `rope_parameters`.

    Args:
        reader: The metadata.
        rotated: Dimensions of a head that are rotated, which the file must agree with.
        theta: The base where the file gives none.

    Raises:
        BadInput: The scaling is not known.
    """
    reader.expect(reader.key("rope.dimension_count"), rotated)
    fields: dict[str, Any] = {"rope_type": "default", "rope_theta": reader.number("rope.freq_base", theta)}
    old = reader.number("rope.scale_linear", 1.0)  # before there were kinds
    kind = reader.take("rope.scaling.type", "linear" if old != 1 else "none")
    factor = reader.number("rope.scaling.factor", old)
    original = reader.take("rope.scaling.original_context_length")
    reader.take("rope.scaling.finetuned")
    if kind == "linear" and factor not in (0, 1):
        fields |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        fields |= {"rope_type": "yarn", "factor": factor, **_read_yarn(reader, factor)}
        if original is not None:
            fields["original_max_position_embeddings"] = original
    elif kind not in ("none", "linear", "longrope"):
        reader.refuse(reader.key("rope.scaling.type"), "is not supported here (only none, linear, yarn, longrope)")
    if LLAMA3_TENSOR in reader.tensors:
        if fields["rope_type"] != "default":
            raise BadInput(f"both {LLAMA3_TENSOR} and a scaling of kind {kind!r}", where=reader.where)
        fields |= _llama3(reader.values_of(LLAMA3_TENSOR), fields["rope_theta"], rotated, reader.where)
    if LONG_TENSOR in reader.tensors or SHORT_TENSOR in reader.tensors or kind == "longrope":
        fields |= _read_longrope(reader)
    return fields


def _read_yarn(reader: MetadataReader, factor: float) -> dict[str, Any]:
    grown = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
    fields = {"attention_factor": reader.number("rope.scaling.attn_factor", 1.0) * grown}
    for ours, theirs in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")):
        value = reader.take(f"rope.scaling.{ours}")
        if value is not None:
            fields[theirs] = reader.number(f"rope.scaling.{ours}", 0.0)
    for key in ("yarn_ext_factor", "yarn_attn_factor"):
        reader.expect(reader.key(f"rope.scaling.{key}"), 1.0)
    return fields


def _read_longrope(reader: MetadataReader) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": reader.values_of(SHORT_TENSOR).tolist(),
        "long_factor": reader.values_of(LONG_TENSOR).tolist(),
        "original_max_position_embeddings": reader.size("rope.scaling.original_context_length"),
    }
    if reader.take("rope.scaling.attn_factor") is not None:
        fields["attention_factor"] = reader.number("rope.scaling.attn_factor", 1.0)
    return fields


def llama3_divisors(fields: Config, rotated: int) -> NDArray[np.float32]:
    """Returns the divisor of every frequency (Grattafiori et al. 2024, as in `transformers`): (rotated / 2)."""
    theta, factor = fields["rope_theta"], fields["factor"]
    low, high = fields["low_freq_factor"], fields["high_freq_factor"]
    original = fields["original_max_position_embeddings"]
    wavelengths = 2 * math.pi * theta ** (np.arange(0, rotated, 2, dtype=np.float64) / rotated)
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    divisors = np.where(wavelengths > original / low, factor, between)
    return np.where(wavelengths < original / high, 1.0, divisors).astype(np.float32)


def _llama3(divisors: NDArray[np.float32], theta: float, rotated: int, where: str) -> dict[str, Any]:
    """Finds the four numbers that a tensor of divisors was made from."""
    if len(divisors) == rotated // 2 and np.isfinite(divisors).all() and (divisors >= 1).all():
        for original in LLAMA3_LENGTHS:
            fields = {
                "rope_type": "llama3", "rope_theta": theta, "factor": float(divisors.max()), "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": original,
            }  # fmt: skip
            if np.allclose(llama3_divisors(fields, rotated), divisors, rtol=1e-4):
                return fields
    raise BadInput(
        f"the divisors in {LLAMA3_TENSOR} are not those of Llama 3's scaling, and others are not supported", where=where
    )


def share_of(rotated: int, head_dim: int) -> float:
    """Returns the rotated share of a head, such that its product with `head_dim` rounds down to `rotated`."""
    share = rotated / head_dim
    return share if int(head_dim * share) == rotated else math.nextafter(share, 2.0)


def write_rope(config: Config, rotated: int) -> Written:
    """Writes the rotary fields of a published configuration: metadata, and the tensors that belong to them.

    Raises:
        BadInput: llama.cpp does not know the scaling.
    """
    fields = config["rope_parameters"]
    metadata: Config = {"rope.freq_base": float(fields["rope_theta"]), "rope.dimension_count": rotated}
    kind = fields["rope_type"]
    if kind == "default":
        return metadata, {}
    if kind == "llama3":
        return metadata, {LLAMA3_TENSOR: llama3_divisors(fields, rotated)}
    if kind == "linear":
        return metadata | {"rope.scaling.type": "linear", "rope.scaling.factor": float(fields["factor"])}, {}
    original = fields.get("original_max_position_embeddings")
    if kind == "longrope":
        metadata |= {
            "rope.scaling.original_context_length": int(original),
            "rope.scaling.attn_factor": float(fields["attention_factor"]),
        }
        tensors = {LONG_TENSOR: fields["long_factor"], SHORT_TENSOR: fields["short_factor"]}
        return metadata, {name: np.asarray(values, np.float32) for name, values in tensors.items()}
    if kind == "yarn" and fields.get("truncate", True):
        factor = float(fields["factor"])
        grown = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
        metadata |= {
            "rope.scaling.type": "yarn", "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": int(original),
        }  # fmt: skip
        share = fields["attention_factor"] / grown
        extra = {"attn_factor": (share, 1.0), "yarn_beta_fast": (fields["beta_fast"], 32.0),
                 "yarn_beta_slow": (fields["beta_slow"], 1.0)}  # fmt: skip
        for key, (value, usual) in extra.items():
            if not math.isclose(value, usual, rel_tol=1e-6):
                metadata[f"rope.scaling.{key}"] = float(value)
        return metadata, {}
    raise BadInput(f"GGUF has no rope scaling of kind {kind!r}", remedy="save this model as a folder instead")
