"""Qwen2 and 2.5 (Yang et al. 2024): Llama's layout with biases on queries, keys and values; windows in upper layers."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import common_fields, fixing, layer_types, layout_names, read_common, read_windows
from zhixing.models.config import TransformerConfig

FIXED = fixing(
    ["window", "window_layers"], attention_bias=True, attention_output_bias=False, mlp_bias=False
)  # fmt: skip


def read_upper_windows(reader: ConfigReader, layers: int) -> dict[str, Any]:
    """Reads windows, which are only in use when the file says so, and then from the layer `max_window_layers` on."""
    given = reader.optional_size("sliding_window", 4096)
    window = given if reader.flag("use_sliding_window", False) else None
    first = reader.take("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        reader.refuse("max_window_layers", "is not a whole number")
    return read_windows(reader, layers, window, [window is not None and layer >= first for layer in range(layers)])


def upper_window_fields(config: TransformerConfig) -> dict[str, Any]:
    """Writes them; `max_window_layers` is for readers that do not know `layer_types`."""
    kinds = layer_types(config)
    full = [layer for layer, kind in enumerate(kinds) if kind == "full_attention"]
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "max_window_layers": full[-1] + 1 if full else 0,
        "layer_types": kinds,
    }


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=32_768)
    return TransformerConfig(**fields, **read_upper_windows(reader, fields["layers"]), **FIXED)


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), **upper_window_fields(config)}


QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    examples="Qwen2, Qwen2.5, Qwen2.5-Coder, QwQ",
    read_config=_read,
    write_config=_write,
    names=layout_names(),
    fixed=FIXED,
)
