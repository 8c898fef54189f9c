"""Qwen3 (Yang et al. 2025): Llama's layout with queries and keys normalised per head before the rotation."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
    LINEAR,
    QK_NORMS,
    attention_bias_field,
    common_fields,
    fixing,
    layout_names,
    read_attention_bias,
    read_common,
)
from zhixing.families.qwen2 import read_upper_windows, upper_window_fields
from zhixing.models.config import TransformerConfig

FIXED = fixing(["window", "window_layers"], qk_norm="before_rotary", mlp_bias=False)


def _read(reader: ConfigReader) -> TransformerConfig:
    fields = read_common(reader, context=32_768, head_dim=128)
    windows = read_upper_windows(reader, fields["layers"])
    return TransformerConfig(**fields, **read_attention_bias(reader), **windows, **FIXED)


def _write(config: TransformerConfig) -> dict[str, Any]:
    return {**common_fields(config), **attention_bias_field(config, "qwen3"), **upper_window_fields(config)}


QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    examples="Qwen3 0.6B to 32B",
    read_config=_read,
    write_config=_write,
    names=layout_names(linear={**LINEAR, **QK_NORMS}),
    fixed=FIXED,
)
