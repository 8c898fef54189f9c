"""What is not trained: frozen, in whole or up to a layer, and packed into few bits (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

import re

import torch
from torch import nn

from zhixing.core.errors import BadInput
from zhixing.models import block_kinds as kinds
from zhixing.models.block_kinds import Kind
from zhixing.models.block_packing import pack
from zhixing.models.layers import Embedding, Linear
from zhixing.models.quantized import BlockMatrix, Part

PACKED: dict[str, tuple[Kind, Kind]] = {"int8": (kinds.Q8_0, kinds.Q8_0), "int4": (kinds.Q4_1, kinds.Q8_0)}
"""How the maps of the blocks, and the embedding and the head, are packed."""

LAYER = re.compile(r"blocks\.(\d+)\.")


def freeze(model: nn.Module) -> None:
    """Freezes all weights, those of adapters too."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def train_last_layers(model: nn.Module, count: int) -> None:
    """Freezes everything but the last blocks, the final norm, and a separate head.

    Raises:
        BadInput: There are not so many blocks.
    """
    layers = len(list(model.get_submodule("blocks").children()))
    if not 1 <= count <= layers:
        raise BadInput(f"the last {count} layers cannot be trained: the model has {layers}", remedy="lower the number")
    for name, parameter in model.named_parameters():
        found = LAYER.match(name)
        last = int(found[1]) >= layers - count if found else name.startswith(("final_norm.", "head."))
        parameter.requires_grad_(last)


@torch.no_grad()
def pack_frozen(model: nn.Module, bits: str) -> list[str]:
    """Packs the maps of the blocks, the embedding and the head; no copy in full precision stays.

    What is packed already (from a GGUF file) stays as it is.

    Args:
        model: The network, without adapters; it is frozen.
        bits: One of `PACKED`.

    Returns:
        The names of what could not be packed, because its rows are no whole number of blocks.
    """
    blocks, tables = PACKED[bits]
    left = []
    for name, module in model.named_modules():
        if not isinstance(module, Linear | Embedding):
            continue
        weight = module.weight
        kind = blocks if name.startswith("blocks.") else tables
        if isinstance(weight.data, BlockMatrix) or isinstance(weight, BlockMatrix):
            continue
        if weight.shape[1] % kind.values:
            left.append(name)
            continue
        packed = BlockMatrix([Part(kind, pack(kind, weight.data))], tuple(weight.shape), weight.dtype)
        module.weight = nn.Parameter(packed, requires_grad=False)
    freeze(model)
    return left
