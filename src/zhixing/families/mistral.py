"""Mistral (Jiang et al. 2023): Llama's layout with grouped heads and a sliding window in every layer, or in none."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import common_fields, fixing, layout_names, read_common
from zhixing.models.config import TransformerConfig

FIXED = fixing(["window"], attention_bias=False, attention_output_bias=False, mlp_bias=False)


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=4096 * 32, kv_heads=8)
    window = reader.optional_size("sliding_window", 4096)
    kind = "full_attention" if window is None else "sliding_attention"
    kinds = reader.take("layer_types", [])
    if not isinstance(kinds, list) or any(other != kind for other in kinds):
        reader.refuse("layer_types", f"is not supported here (only {kind!r}, as the sliding_window says)")
    return TransformerConfig(**fields, **FIXED, window=window)


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), "sliding_window": config.window}


MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    examples="Mistral 7B v0.1, v0.2, v0.3, Zephyr",
    read_config=_read,
    write_config=_write,
    names=layout_names(),
    fixed=FIXED,
)
