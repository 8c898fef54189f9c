"""adapter_config.json: what of it is understood, and how ours is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.models.adapters import LowRankSpec

HARMLESS = frozenset({
    "auto_mapping", "inference_mode", "init_lora_weights", "layers_pattern", "loftq_config", "megatron_config",
    "megatron_core", "qalora_group_size", "revision", "runtime_config", "eva_config", "corda_config", "lora_ga_config",
    "ephemeral_gpu_offload", "peft_version", "exclude_modules", "ensure_weight_tying", "prompt_tuning_init",
    "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "num_attention_heads", "num_layers",
    "num_transformer_submodules", "token_dim",
})  # fmt: skip
"""Fields that say how an adapter was made, or repeat what its tensors say."""

LORA = frozenset({
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "rank_pattern", "alpha_pattern",
    "fan_in_fan_out", "layers_to_transform",
})  # fmt: skip
PLAIN_NAME = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json says.

    Attributes:
        kind: "lora" or "prompt".
        base: What it calls the model that it belongs to; None where it says nothing.
        spec: Rank, alpha and so on, where maps do not differ.
        ranks: Ranks that differ, by the ending of a published name.
        alphas: Alphas likewise.
        replaced: Endings of the names of modules that the adapter replaces as a whole.
        tokens: Learned vectors in front of a text (prompt tuning).
    """

    kind: str
    base: str | None
    spec: LowRankSpec = field(default_factory=LowRankSpec)
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    tokens: int = 0

    def spec_of(self, name: str) -> LowRankSpec:
        """Returns what the adapter on a published map looks like."""
        rank, alpha = _by_ending(self.ranks, name), _by_ending(self.alphas, name)
        spec = self.spec
        return LowRankSpec(
            spec.rank if rank is None else int(rank), spec.alpha if alpha is None else float(alpha),
            spec.dropout, spec.rank_stabilised, spec.decomposed,
        )  # fmt: skip


def _by_ending(table: Mapping[str, float], name: str) -> float | None:
    return next((value for ending, value in table.items() if name == ending or name.endswith(f".{ending}")), None)


def read_config(values: Any, where: str) -> AdapterConfig:
    """Reads the content of adapter_config.json.

    Raises:
        BadInput: It is of a kind, or asks for something, that would not be computed here.
    """
    if not isinstance(values, dict):
        raise BadInput("adapter_config.json is not a mapping", where=where)
    kind = str(values.get("peft_type"))
    base = values.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise BadInput(f"base_model_name_or_path is {base!r}, not a name", where=where)
    if kind not in ("LORA", "PROMPT_TUNING"):
        raise BadInput(
            f"adapters of the kind {kind!r} are not supported (LORA and PROMPT_TUNING are)",
            where=where,
            remedy="merge it into its base with the library that made it",
        )
    if values.get("task_type") not in (None, "CAUSAL_LM"):
        raise BadInput(f"the adapter's task is {values['task_type']!r}, not CAUSAL_LM", where=where)
    known = {"peft_type", "task_type", "base_model_name_or_path", "bias", "modules_to_save", "num_virtual_tokens"}
    for key, value in values.items():
        absent = value is None or value is False or value in ([], {}, "", "none")
        if not absent and key not in known | LORA | HARMLESS:
            raise BadInput(
                f"unknown adapter field {key!r} = {value!r}",
                where=where,
                remedy="it may change the result, so the adapter is refused rather than run wrongly",
            )
    if values.get("bias", "none") != "none":
        raise BadInput(f"adapters that train biases (bias = {values['bias']!r}) are not supported", where=where)
    if kind == "PROMPT_TUNING":
        return AdapterConfig("prompt", base, tokens=int(_number(values, "num_virtual_tokens", 0, where)))
    spec = LowRankSpec(
        int(_number(values, "r", 8, where)), _number(values, "lora_alpha", 8, where),
        _number(values, "lora_dropout", 0.0, where), bool(values.get("use_rslora")), bool(values.get("use_dora")),
    )  # fmt: skip
    ranks = {name: int(rank) for name, rank in _pattern(values, "rank_pattern", where).items()}
    replaced = values.get("modules_to_save") or []
    if not isinstance(replaced, list):
        raise BadInput("modules_to_save is not a list", where=where)
    return AdapterConfig("lora", base, spec, ranks, _pattern(values, "alpha_pattern", where), tuple(map(str, replaced)))


def _number(values: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput(f"the field {key!r} must be a number, got {value!r}", where=where)
    return value


def _pattern(values: Mapping[str, Any], key: str, where: str) -> dict[str, float]:
    """Reads a table by endings of names; PEFT allows regular expressions, which nobody's file should run here."""
    table = values.get(key) or {}
    if not isinstance(table, dict):
        raise BadInput(f"the field {key!r} must be a mapping, got {table!r}", where=where)
    found = {}
    for name in table:
        plain = name.removeprefix("^").removesuffix("$").replace("\\.", ".")
        if not PLAIN_NAME.fullmatch(plain):
            raise BadInput(f"{key} has the pattern {name!r}; only plain names are read", where=where)
        found[plain] = _number(table, name, 0, where)
    return found


def lora_values(
    base: str, spec: LowRankSpec, targets: list[str], ranks: Mapping[str, int], alphas: Mapping[str, float],
    transposed: bool, replaced: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Returns the content of adapter_config.json for low-rank adapters."""
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": None,
        "inference_mode": True, "r": spec.rank, "lora_alpha": _whole(spec.alpha), "lora_dropout": spec.dropout,
        "use_rslora": spec.rank_stabilised, "use_dora": spec.decomposed, "target_modules": targets,
        "rank_pattern": dict(ranks), "alpha_pattern": {name: _whole(alpha) for name, alpha in alphas.items()},
        "bias": "none", "fan_in_fan_out": transposed, "init_lora_weights": True, "modules_to_save": replaced or None,
    }  # fmt: skip


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def prompt_values(base: str, tokens: int, width: int, heads: int, layers: int) -> dict[str, Any]:
    """Returns the content of adapter_config.json for prompt tuning."""
    return {
        "peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": None,
        "inference_mode": True, "num_virtual_tokens": tokens, "token_dim": width, "num_transformer_submodules": 1,
        "num_attention_heads": heads, "num_layers": layers, "prompt_tuning_init": "RANDOM",
    }  # fmt: skip
