"""NanoChat (Karpathy 2025): weightless norms, QK-norm after the rotation, squared ReLU, soft-capped logits."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family
from zhixing.families.common import (
    LINEAR,
    attention_bias_field,
    common_fields,
    fixing,
    layout_names,
    read_attention_bias,
    read_common,
)
from zhixing.models.config import TransformerConfig

FIXED = fixing(
    ["logit_softcap"],
    norm_weight=False, embedding_norm=True, rope_reversed=True, qk_norm="after_rotary", gated=False, mlp_bias=False,
)  # fmt: skip


def _read(reader: ConfigReader) -> TransformerConfig:
    return TransformerConfig(
        **read_common(reader, activation="relu2"), **read_attention_bias(reader), **FIXED,
        logit_softcap=reader.optional_number("final_logit_softcapping", 15.0),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    bias = attention_bias_field(config, "nanochat")
    return {**common_fields(config), **bias, "final_logit_softcapping": config.logit_softcap}


NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    examples="nanochat d20, d32",
    read_config=_read,
    write_config=_write,
    names=layout_names(norms={}, linear={**LINEAR, "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}),
    fixed=FIXED,
    defaults={"activation": "relu2", "logit_softcap": 15.0},
)
