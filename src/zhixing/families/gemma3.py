"""Gemma 3, text (Kamath et al. 2025): Gemma 2 with normalised queries and keys instead of capped scores, and five
windowed layers, which have a rotary base of their own, to each full one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import LINEAR, QK_NORMS, fixing, layout_names, read_windows
from zhixing.families.gemma2 import GEMMA, OPEN, SANDWICH, gemma_fields, read_gemma
from zhixing.families.rope import published_context, read_rope, rope_fields, scaling_fields
from zhixing.models.config import TransformerConfig

FIXED = fixing([*OPEN, "local_rope_theta", "local_rope_scaling"], **GEMMA, qk_norm="before_rotary")
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def _read_rope(reader: ConfigReader, context: int) -> dict[str, Any]:
    """Reads both bases: from `rope_theta` and `rope_local_base_freq`, or from `rope_parameters` per kind of layer."""
    nested = reader.mapping("rope_parameters")
    if any(key not in (GLOBAL, LOCAL) or not isinstance(nested[key] or {}, Mapping) for key in nested):
        reader.refuse("rope_parameters", f"is not supported here (only mappings for {GLOBAL} and {LOCAL})")
    whole = read_rope(reader, context, 1_000_000.0, new=nested.get(GLOBAL) or {})
    local = read_rope(reader, context, old={}, new=nested.get(LOCAL) or {}, keys=["rope_local_base_freq"])
    return {**whole, "local_rope_theta": local["rope_theta"], "local_rope_scaling": local["rope_scaling"]}


def _rope_fields(config: TransformerConfig) -> dict[str, Any]:
    fields = rope_fields(config)
    local, scaling = config.local_rope_theta, config.local_rope_scaling
    if local is None:  # as elsewhere
        local, scaling = config.rope_theta, config.rope_scaling
    windowed = {**scaling_fields(scaling, published_context(config)), "rope_theta": local}
    nested = {GLOBAL: fields["rope_parameters"], LOCAL: windowed}
    return {**fields, "rope_local_base_freq": local, "rope_parameters": nested}


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_gemma(reader, context=131_072, rope=False)
    fields |= _read_rope(reader, fields["context"])
    reader.expect("attn_logit_softcapping", None)  # a field of Gemma 2 that has no effect in Gemma 3
    layers, window = fields["layers"], reader.optional_size("sliding_window", 4096)
    period = reader.size("sliding_window_pattern", reader.size("_sliding_window_pattern", 6))
    usual = [(layer + 1) % period != 0 for layer in range(layers)]
    return TransformerConfig(
        **fields, **FIXED, **read_windows(reader, layers, window, usual),
        logit_softcap=reader.optional_number("final_logit_softcapping", None),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    fields = {**gemma_fields(config, "gemma3_text", rope=False), **_rope_fields(config)}
    flags = [kind == LOCAL for kind in fields["layer_types"]]
    for period in range(1, config.layers + 2):  # for readers that do not know `layer_types`
        if flags == [(layer + 1) % period != 0 for layer in range(config.layers)]:
            fields["sliding_window_pattern"] = period
            break
    return fields


GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    examples="Gemma 3 270M, 1B; the text part of the others",
    read_config=_read,
    write_config=_write,
    names=layout_names(norms=SANDWICH, linear={**LINEAR, **QK_NORMS}),
    fixed=FIXED,
    defaults={"activation": "gelu_tanh", "tied": True, "rope_theta": 1_000_000.0, "local_rope_theta": 10_000.0},
)
