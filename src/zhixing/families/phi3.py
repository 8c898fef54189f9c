"""Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama's network with fused projections, an optional window in all layers,
and LongRoPE for its long versions.
"""

from __future__ import annotations

from typing import Any

from zhixing.core.errors import BadInput
from zhixing.families.base import ConfigReader, Family, Weights, join_rows, split_rows
from zhixing.families.common import common_fields, fixing, layout_names, read_common, require_whole_heads
from zhixing.families.rope import longrope_attention_factor, part_rotated, read_rope, rope_fields, rotated_part
from zhixing.models.config import TransformerConfig

FIXED = fixing(["window", "rotary_dim"], attention_bias=False, attention_output_bias=False, mlp_bias=False)
OLD_NAMES = {"su": "longrope", "yarn": "longrope"}
"""What LongRoPE was called in the first releases."""


def _read(reader: ConfigReader) -> TransformerConfig:
    for field, only in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False),
                        ("interpolate_factor", 1), ("full_attn_mod", 1)):  # fmt: skip
        reader.expect(field, only)
    fields = read_common(reader, context=4096, norm_eps=1e-5, rope=False)
    original = reader.size("original_max_position_embeddings", 4096)
    fields |= read_rope(reader, fields["context"], original=original, old_names=OLD_NAMES)
    scaling = fields["rope_scaling"]
    if scaling is not None and scaling.kind != "longrope":
        raise BadInput(f"the family 'phi3' has no rope scaling of type {scaling.kind!r}", where=reader.where)
    reader.take("embd_pdrop")  # the published network does not use it
    return TransformerConfig(
        **fields, **FIXED, window=reader.optional_size("sliding_window", None),
        rotary_dim=rotated_part(reader, fields["head_dim"], 1.0), dropout=reader.number("resid_pdrop", 0.0),
    )  # fmt: skip


def _write(config: TransformerConfig) -> dict[str, Any]:
    require_whole_heads(config, "phi3")
    fields = {**common_fields(config, rope=False), **rope_fields(config, partial=True)}
    del fields["head_dim"]
    scaling = config.rope_scaling
    if scaling is not None:
        if scaling.kind != "longrope":
            raise BadInput(f"the family 'phi3' has no rope scaling of type {scaling.kind!r}")
        # Older readers want exactly these three fields, and derive the attention factor from the two lengths.
        old = {"type": "longrope", **{key: fields["rope_scaling"][key] for key in ("short_factor", "long_factor")}}
        derived = longrope_attention_factor(config.context / scaling.original_context, scaling.original_context)
        if scaling.attention_factor != derived:
            old["attention_factor"] = scaling.attention_factor
        fields["rope_scaling"] = old
    return {
        **fields,
        "partial_rotary_factor": part_rotated(config),
        "original_max_position_embeddings": config.context if scaling is None else scaling.original_context,
        "sliding_window": config.window,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
    }


QKV = ("q_proj", "k_proj", "v_proj")
GATE_UP = ("gate_proj", "up_proj")


def _split(published: Weights, config: TransformerConfig) -> Weights:
    wide, narrow = config.heads * config.head_dim, config.kv_heads * config.head_dim
    weights = split_rows(published, "qkv_proj", dict(zip(QKV, (wide, narrow, narrow), strict=True)))
    return split_rows(weights, "gate_up_proj", dict.fromkeys(GATE_UP, config.mlp_width))


def _fuse(named: Weights, config: TransformerConfig) -> Weights:
    return join_rows(join_rows(named, "qkv_proj", QKV), "gate_up_proj", GATE_UP)


PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    examples="Phi-3 mini and medium, Phi-3.5 mini, Phi-4, Phi-4 mini",
    read_config=_read,
    write_config=_write,
    names=layout_names(),
    fixed=FIXED,
    defaults={"norm_eps": 1e-5},
    split=_split,
    fuse=_fuse,
)
