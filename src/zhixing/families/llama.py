"""Llama (Touvron et al. 2023): RMS norms, rotary positions, grouped heads, SwiGLU; biases as an option."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
    attention_bias_field,
    common_fields,
    fixing,
    layout_names,
    read_attention_bias,
    read_common,
    require_divisible,
)
from zhixing.models.config import TransformerConfig

FIXED = fixing()


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("rope_interleaved", False)
    return TransformerConfig(
        **read_common(reader), **read_attention_bias(reader), **FIXED, mlp_bias=reader.flag("mlp_bias", False)
    )


def _write(config: TransformerConfig) -> dict[str, Any]:
    require_divisible(config, "llama")
    return {**common_fields(config), **attention_bias_field(config, "llama"), "mlp_bias": config.mlp_bias}


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    examples="SmolLM, SmolLM2, TinyLlama, Llama 2, 3, 3.1, 3.2, 3.3",
    read_config=_read,
    write_config=_write,
    names=layout_names(),
    fixed=FIXED,
)
