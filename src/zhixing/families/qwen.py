"""Qwen2 and 2.5 (Yang et al. 2024): Llama's layout with biases on queries, keys and values. Qwen3 (Yang et al. 2025):
without them, but with queries and keys normalised per head before the rotation. Either with windows in upper layers.
"""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
    LINEAR,
    QK_NORMS,
    attention_bias_field,
    common_fields,
    fixing,
    layer_types,
    layout_names,
    read_attention_bias,
    read_common,
    read_windows,
)
from zhixing.models.config import TransformerConfig

WINDOWS = ["window", "window_layers"]
QWEN2_FIXED = fixing(WINDOWS, attention_bias=True, attention_output_bias=False, mlp_bias=False)
QWEN3_FIXED = fixing(WINDOWS, qk_norm="before_rotary", mlp_bias=False)


def _read_windows(reader: ConfigReader, layers: int) -> dict[str, Any]:
    """Windows are only in use when the file says so, and then from the layer `max_window_layers` on."""
    given = reader.optional_size("sliding_window", 4096)
    window = given if reader.flag("use_sliding_window", False) else None
    first = reader.take("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        reader.refuse("max_window_layers", "is not a whole number")
    return read_windows(reader, layers, window, [window is not None and layer >= first for layer in range(layers)])


def _window_fields(config: TransformerConfig) -> dict[str, Any]:
    kinds = layer_types(config)
    full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": full[-1] + 1 if full else 0,
        "layer_types": kinds,
    }


def _read_qwen2(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=32_768, kv_heads=None)
    return TransformerConfig(**fields, **_read_windows(reader, fields["layers"]), **QWEN2_FIXED)


def _write_qwen2(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), **_window_fields(config)}


def _read_qwen3(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=32_768, kv_heads=None, head_dim=128)
    biases = read_attention_bias(reader)
    return TransformerConfig(**fields, **biases, **_read_windows(reader, fields["layers"]), **QWEN3_FIXED)


def _write_qwen3(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), **attention_bias_field(config, "qwen3"), **_window_fields(config)}


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    examples="Qwen2, Qwen2.5, Qwen2.5-Coder, QwQ",
    read_config=_read_qwen2,
    write_config=_write_qwen2,
    names=layout_names(),
    fixed=QWEN2_FIXED,
)
QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    examples="Qwen3 0.6B to 32B",
    read_config=_read_qwen3,
    write_config=_write_qwen3,
    names=layout_names(linear={**LINEAR, **QK_NORMS}),
    fixed=QWEN3_FIXED,
)
