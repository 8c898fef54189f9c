"""OLMo 2 (OLMo team 2024): Llama's layout with norms behind the parts instead of before them, and queries and keys
normalised over all heads together.
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
    layout_names,
    read_attention_bias,
    read_common,
)
from zhixing.models.config import TransformerConfig

FIXED = fixing(norm_placement="post", qk_norm="before_rotary", qk_norm_scope="projection", mlp_bias=False)
NORMS = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}


def _read(reader: ConfigReader) -> TransformerConfig:
    return TransformerConfig(**read_common(reader, norm_eps=1e-5), **read_attention_bias(reader), **FIXED)


def _write(config: TransformerConfig) -> dict[str, Any]:
    fields = {**common_fields(config), **attention_bias_field(config, "olmo2")}
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind in ("linear", "dynamic"):
        # Version 4 of transformers wants these two fields and no other here; it knows no other scaling of OLMo 2.
        fields["rope_scaling"] = {"type": scaling.kind, "factor": scaling.factor}
    return fields


OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    examples="OLMo 2 1B, 7B, 13B, 32B",
    read_config=_read,
    write_config=_write,
    names=layout_names(norms=NORMS, linear={**LINEAR, **QK_NORMS}),
    fixed=FIXED,
)
