"""Rotary frequencies in published configurations: the old fields, the new ones, and every scaling.

Up to version 4, `transformers` wrote `rope_theta` and `rope_scaling`; from 5 on it writes `rope_parameters`. Both are
read; both are written, so that either version opens the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import ConfigReader
from zhixing.models.config import RopeScaling, TransformerConfig

LONGEST = 1 << 30
"""Above every context; a factor that leads beyond it is a mistake."""

COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
KEYS: dict[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    # The original length of dynamic scaling is max_position_embeddings; a field of that name is not looked at.
    "dynamic": frozenset({"factor", "original_max_position_embeddings"}),
    "yarn": frozenset(
        "factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim truncate"
        .split()
    ),
    "llama3": frozenset({"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}),
    "longrope": frozenset(
        {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}
    ),
}  # fmt: skip
"""Fields of every kind of scaling."""


def read_rope(
    reader: ConfigReader,
    context: int,
    theta: float = 10_000.0,
    original: int | None = None,
    *,
    old: Mapping[str, Any] | None = None,
    new: Mapping[str, Any] | None = None,
    keys: Sequence[str] = ("rope_theta",),
    old_names: Mapping[str, str] = {},
) -> dict[str, Any]:
    """Reads the base and the scaling of the rotary frequencies, in either published layout.

    Args:
        reader: The configuration.
        context: Its longest sequence.
        theta: The base where none is given.
        original: The original context where it stands outside the scaling's own fields.
        old: The mapping of the old layout; None means the field `rope_scaling`.
        new: The mapping of the new layout; None means the field `rope_parameters`.
        keys: Fields that hold the base in the old layout.
        old_names: Kinds of scaling that have been renamed.

    Returns:
        The fields `rope_theta`, `rope_scaling` and `context` of our configuration. With `dynamic` scaling the published
        length is the original one, and the context is so many times longer.
    """
    old = reader.mapping("rope_scaling") if old is None else old
    new = reader.mapping("rope_parameters") if new is None else new
    values = old or new
    kind, other = (old_names.get(_kind(source), _kind(source)) for source in (values, new))
    if old and new and kind in KEYS and kind != other:
        raise BadInput(
            f"'rope_scaling' ({kind}) and 'rope_parameters' ({other}) contradict each other", where=reader.where
        )
    given = [values.get("rope_theta", new.get("rope_theta")), *(reader.take(key) for key in keys)]
    bases = {reader.as_number("rope_theta", value) for value in given if value is not None}
    if len(bases) > 1:
        raise BadInput(f"'rope_theta' is given as {' and as '.join(map(str, sorted(bases)))}", where=reader.where)
    scaling = _read_scaling(reader, {**values, "rope_type": kind}, context, original)
    if scaling is not None and scaling.kind == "dynamic":
        context = int(min(max(scaling.factor, 1.0) * context, LONGEST))
    return {"rope_theta": bases.pop() if bases else theta, "rope_scaling": scaling, "context": context}


def rotated_part(reader: ConfigReader, head_dim: int, default: float, key: str = "partial_rotary_factor") -> int | None:
    """Reads how many dimensions of a head are rotated; None means all.

    Args:
        reader: The configuration.
        head_dim: Size of a head.
        default: Share of it where none is given.
        key: The field of the share outside of the rotary fields.
    """
    shares = {
        reader.as_number("partial_rotary_factor", value)
        for value in (
            reader.take(key), reader.take("partial_rotary_factor"),
            reader.mapping("rope_parameters").get("partial_rotary_factor"),
            reader.mapping("rope_scaling").get("partial_rotary_factor"),
        )
        if value is not None
    }  # fmt: skip
    if len(shares) > 1:
        raise BadInput(f"the rotated share of a head is given as {sorted(shares)}", where=reader.where)
    rotated = int(head_dim * (shares.pop() if shares else default))
    return None if rotated == head_dim else rotated


def part_rotated(config: TransformerConfig) -> float:
    """Writes it as a share: the product with `head_dim`, rounded down, gives the dimensions exactly."""
    rotated = config.rotary_dim or config.head_dim
    share = rotated / config.head_dim
    return share if int(config.head_dim * share) == rotated else math.nextafter(share, 2.0)


def _kind(values: Mapping[str, Any]) -> str:
    return str(values.get("rope_type") or values.get("type") or "default")


def _read_scaling(
    reader: ConfigReader, values: Mapping[str, Any], context: int, original: int | None = None
) -> RopeScaling | None:
    """Reads one mapping of rotary fields; None for unscaled frequencies.

    Raises:
        BadInput: The kind or a field of it is not known, or a value is of no use.
    """
    kind = _kind(values)
    if kind not in KEYS:
        raise BadInput(f"rope scaling of type {kind!r} is not supported (only {', '.join(KEYS)})", where=reader.where)
    unknown = sorted(key for key, value in values.items() if key not in KEYS[kind] | COMMON and value is not None)
    if unknown:
        raise BadInput(
            f"unknown field {unknown[0]!r} = {values[unknown[0]]!r} in the rope scaling of type {kind!r}",
            where=reader.where,
        )
    if kind == "default":
        return None

    def number(key: str, default: float | None = None) -> float:
        value = values.get(key)
        if value is None and default is None:
            raise BadInput(f"the rope scaling of type {kind!r} has no field {key!r}", where=reader.where)
        return reader.as_number(key, default if value is None else value)

    if kind == "linear":
        return RopeScaling("linear", number("factor"))
    if kind == "dynamic":
        return RopeScaling("dynamic", number("factor"), context)
    original = original or int(number("original_max_position_embeddings", context))
    reach = context / max(1, original)
    if kind == "llama3":
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return RopeScaling("llama3", number("factor"), original, low_freq_factor=low, high_freq_factor=high)
    factor = number("factor", reach)
    if kind == "longrope":
        grown = longrope_attention_factor(factor, original)
        short, long = _factors(reader, values, "short_factor"), _factors(reader, values, "long_factor")
        attention_factor = number("attention_factor", grown)
        return RopeScaling("longrope", 1.0, original, attention_factor, short_factors=short, long_factors=long)
    truncate = values.get("truncate")
    if truncate not in (None, True, False):
        raise BadInput(f"the rope scaling's truncate must be true or false, got {truncate!r}", where=reader.where)
    return RopeScaling(
        "yarn", factor, original, number("attention_factor", _yarn_attention_factor(factor, values, number)),
        beta_fast=number("beta_fast", 32.0) or 32.0, beta_slow=number("beta_slow", 1.0) or 1.0,
        truncate=truncate is not False,
    )  # fmt: skip


def _yarn_attention_factor(factor: float, values: Mapping[str, Any], number: Any) -> float:
    """The factor that follows from the others (Peng et al. 2023, section 3.4, and DeepSeek's two-sided form)."""

    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if values.get("mscale") and values.get("mscale_all_dim"):
        return grown(number("mscale")) / grown(number("mscale_all_dim"))
    return grown(1.0)


def longrope_attention_factor(factor: float, original: int) -> float:
    """The factor that follows from the two lengths (Ding et al. 2024, as published with Phi-3)."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0


def _factors(reader: ConfigReader, values: Mapping[str, Any], key: str) -> tuple[float, ...]:
    factors = values.get(key)
    if not isinstance(factors, list):
        raise BadInput(f"the rope scaling's {key} must be a list of numbers, got {factors!r}", where=reader.where)
    return tuple(reader.as_number(key, value) for value in factors)


def published_context(config: TransformerConfig) -> int:
    """Returns what stands in `max_position_embeddings`: with `dynamic` scaling the original length."""
    scaling = config.rope_scaling
    return scaling.original_context if scaling is not None and scaling.kind == "dynamic" else config.context


def scaling_fields(scaling: RopeScaling | None, context: int) -> dict[str, Any]:
    """Writes the published fields of a scaling, `rope_type` among them.

    Raises:
        BadInput: The scaling is `dynamic` from another length than the published context.
    """
    if scaling is None:
        return {"rope_type": "default"}
    fields: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "dynamic" and scaling.original_context != context:
        raise BadInput(
            f"dynamic rope scaling starts from the published context ({context}), not from {scaling.original_context}"
        )
    if scaling.kind in ("yarn", "llama3", "longrope"):
        fields["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind in ("yarn", "longrope"):
        fields["attention_factor"] = scaling.attention_factor
    if scaling.kind == "llama3":
        fields |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        fields |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if not scaling.truncate:
            fields["truncate"] = False
    if scaling.kind == "longrope":
        del fields["factor"]  # only the attention factor would follow from it
        fields |= {"short_factor": list(scaling.short_factors), "long_factor": list(scaling.long_factors)}
    return fields


def rope_fields(config: TransformerConfig, partial: bool = False) -> dict[str, Any]:
    """Writes the rotary fields in both published layouts, with the rotated share of a head where a family has one."""
    fields = scaling_fields(config.rope_scaling, published_context(config))
    old = None if config.rope_scaling is None else {**fields, "type": fields["rope_type"]}
    new = {**fields, "rope_theta": config.rope_theta}
    if partial:
        new["partial_rotary_factor"] = part_rotated(config)
    return {"rope_theta": config.rope_theta, "rope_scaling": old, "rope_parameters": new}
