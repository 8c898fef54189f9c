"""Which published linear map holds which of ours, row by row.

Published layouts fuse what we keep apart (`c_attn`, `qkv_proj`, `gate_up_proj`), reorder rows, or store a matrix
transposed. Where a row of ours ends up is found by sending row numbers through the family's own translation, so that
no family needs to say anything about adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zhixing.families import Family
from zhixing.models.config import TransformerConfig
from zhixing.models.layers import Linear


@dataclass(frozen=True)
class PublishedMap:
    """One linear map as it is published.

    Attributes:
        name: Without ".weight".
        rows: Its number of rows.
        parts: Our maps that it holds, each with the place of its rows: rows of ours, in order -> rows of this one.
        transposed: Stored as (in, out), as GPT-2 does.
    """

    name: str
    rows: int
    parts: dict[str, Tensor]
    transposed: bool


def published_maps(family: Family, config: TransformerConfig, maps: Mapping[str, Linear]) -> dict[str, PublishedMap]:
    """Returns every published map that holds some of ours, by its name.

    Args:
        family: The published architecture.
        config: The network.
        maps: Our linear maps by name.
    """
    names, starts, total = list(maps), {}, 0
    probes: dict[str, Tensor] = {}
    for name in names:
        starts[name] = total
        rows = maps[name].out_features
        probes[f"{name}.weight"] = torch.arange(total, total + rows, dtype=torch.float64)[:, None]
        total += rows
    owner = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([maps[name].out_features for name in names]))
    found: dict[str, PublishedMap] = {}
    for published, codes in family.weights_to(probes, config).items():
        transposed = codes.shape[0] == 1 and codes.numel() > 1
        numbers = codes.flatten().long()
        parts: dict[str, Tensor] = {}
        for index in sorted(set(owner[numbers].tolist())):
            mine = (owner[numbers] == index).nonzero()[:, 0]
            order = torch.empty_like(mine)
            order[numbers[mine] - starts[names[index]]] = mine
            parts[names[index]] = order
        name = published.removesuffix(".weight")
        ordered = {part: parts[part] for part in names if part in parts}
        found[name] = PublishedMap(name, len(numbers), ordered, transposed)
    return found
