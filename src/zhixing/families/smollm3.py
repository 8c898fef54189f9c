"""SmolLM3 (Bakouch et al. 2025): Llama's layout with layers that have no positions, every fourth as published."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
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

FIXED = fixing(["rotary_layers", "window", "window_layers"])


def _read_rotary_layers(reader: ConfigReader, layers: int) -> list[bool]:
    """Reads `no_rope_layers`, where 1 means that the layer does rotate; absent, every n-th layer does not."""
    period = reader.size("no_rope_layer_interval", 4)
    given = reader.take("no_rope_layers", [int((layer + 1) % period != 0) for layer in range(layers)])
    if not isinstance(given, list) or len(given) < layers or any(value not in (0, 1) for value in given):
        reader.refuse("no_rope_layers", f"is not a list of {layers} times 0 or 1")
    return [value == 1 for value in given[:layers]]


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=32_768, kv_heads=4, theta=2_000_000.0, tied=True)
    layers = fields["layers"]
    rotates = _read_rotary_layers(reader, layers)
    given = reader.optional_size("sliding_window", None)
    window = given if reader.flag("use_sliding_window", False) else None
    reader.take("max_window_layers")  # inert: layer_types or the layers without positions say where windows are
    usual = [window is not None and not turns for turns in rotates]
    return TransformerConfig(
        **fields, **FIXED, **read_attention_bias(reader), **read_windows(reader, layers, window, usual),
        rotary_layers=() if all(rotates) else tuple(rotates), mlp_bias=reader.flag("mlp_bias", False),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {
        **common_fields(config),
        **attention_bias_field(config, "smollm3"),
        "mlp_bias": config.mlp_bias,
        "no_rope_layers": [int(config.layer_rotates(layer)) for layer in range(config.layers)],
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": layer_types(config),
    }


SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    examples="SmolLM3 3B",
    read_config=_read,
    write_config=_write,
    names=layout_names(),
    fixed=FIXED,
    defaults={"tied": True},
)
