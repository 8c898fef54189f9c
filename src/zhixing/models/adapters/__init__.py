"""Adapters: few new weights beside frozen ones, put onto a network from outside.

`low_rank` holds LoRA, rsLoRA and DoRA and the map that they are added to, `attach` puts them onto a network, switches
and merges them, `prompt` holds learned tokens in front of a text, `frozen` freezes and packs what is not trained. What
is not here: how adapters are stored (`checkpoints.adapters`), and which of them a recipe trains (`training.tuning`).
"""

from zhixing.models.adapters.attach import (
    activate,
    adapted,
    adapter_names,
    attach,
    deactivated,
    detach,
    linear_maps,
    merge,
)
from zhixing.models.adapters.frozen import freeze, pack_frozen, train_last_layers
from zhixing.models.adapters.low_rank import AdaptedLinear, LowRank, LowRankSpec
from zhixing.models.adapters.prompt import PromptedEmbedding, attach_prompt, prompted

__all__ = [
    "AdaptedLinear",
    "LowRank",
    "LowRankSpec",
    "PromptedEmbedding",
    "activate",
    "adapted",
    "adapter_names",
    "attach",
    "attach_prompt",
    "deactivated",
    "detach",
    "freeze",
    "linear_maps",
    "merge",
    "pack_frozen",
    "prompted",
    "train_last_layers",
]
