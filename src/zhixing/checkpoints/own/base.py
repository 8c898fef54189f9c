"""What a kind of network of our own has to say about its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from zhixing.families.base import Weights
from zhixing.models.network import CausalNetwork


class OwnKind(Protocol):
    """One kind of network.

    Attributes:
        name: Its `model_type` in config.json.
        network: Its class.
    """

    name: str
    network: type[CausalNetwork]

    def read(self, values: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> CausalNetwork:
        """Reads the network from its folder.

        Args:
            values: The content of config.json; what is not understood is refused by name.
            folder: Where the weights are.
            dtype: Number type of the weights in memory.
        """

    def values(self, model: CausalNetwork) -> dict[str, Any]:
        """Returns the content of config.json."""

    def write(self, model: CausalNetwork, folder: Path, weights: Weights) -> None:
        """Writes model.safetensors; `weights` are the ones to write, by the network's own names."""
