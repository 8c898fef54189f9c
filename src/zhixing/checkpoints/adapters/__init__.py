"""Adapter folders in PEFT's layout: adapter_config.json and adapter_model.safetensors beside the name of their base.

`layout` maps our linear maps onto the published ones (some of which hold several of ours), `config` reads and writes
adapter_config.json, `folder` the whole. What an adapter computes is in `models.adapters`.
"""

from zhixing.checkpoints.adapters.folder import (
    ADAPTER_CONFIG,
    base_reference,
    is_adapter,
    is_prompt,
    load_adapter,
    made_from,
    open_adapter,
    save_adapter,
)
from zhixing.checkpoints.adapters.merging import merge_adapters

__all__ = [
    "ADAPTER_CONFIG",
    "base_reference",
    "is_adapter",
    "is_prompt",
    "load_adapter",
    "made_from",
    "merge_adapters",
    "open_adapter",
    "save_adapter",
]
