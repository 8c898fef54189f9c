"""NanoChat (Karpathy 2025): weightless norms, QK-norm after the rotation, squared ReLU, soft-capped logits."""

from __future__ import annotations

from typing import Any

from zhixing.families.base import ConfigReader, Family, Names
from zhixing.families.llama import BLOCK_NAMES, OUTER_NAMES, common_fields, common_sizes
from zhixing.models.config import TransformerConfig

FIXED: dict[str, Any] = {
    "norm": "rms", "norm_weight": False, "embedding_norm": True, "position": "rotary", "rope_reversed": True,
    "qk_norm": "after_rotary", "activation": "relu2", "gated": False,
    "attention_bias": False, "attention_output_bias": False, "mlp_bias": False,
}  # fmt: skip


def _read(reader: ConfigReader) -> TransformerConfig:
    reader.expect("hidden_act", "relu2")
    reader.expect("attention_bias", False)
    # An explicit null switches the cap off; an absent field means the published default.
    switched_off = reader.values.get("final_logit_softcapping", 15.0) is None
    cap = None if switched_off else reader.number("final_logit_softcapping", 15.0)
    return TransformerConfig(
        **common_sizes(reader), **FIXED, rope_theta=reader.rope_theta(10_000.0), logit_softcap=cap,
        tied=reader.flag("tie_word_embeddings", False),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    cap = {"final_logit_softcapping": config.logit_softcap}
    return {**common_fields(config), "hidden_act": "relu2", "attention_bias": False, **cap}


RENAMED = {"mlp.up_proj": "mlp.fc1", "mlp.down_proj": "mlp.fc2"}


def _names() -> Names:
    pairs = []
    for ours, theirs in [*BLOCK_NAMES, *OUTER_NAMES]:
        if "norm" in ours or "gate" in ours:
            continue
        for old, new in RENAMED.items():
            theirs = theirs.replace(old, new)
        pairs.append((ours, theirs))
    return Names(pairs)


NANOCHAT = Family(
    name="nanochat",
    architecture="NanoChatForCausalLM",
    read_config=_read,
    write_config=_write,
    names=_names(),
    fixed=FIXED,
)
