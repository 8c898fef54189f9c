"""The folder of a recurrent language model: the weights by our own names, which are torch's for its cells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from zhixing.checkpoints.tensor_files import open_weights
from zhixing.checkpoints.tensors import check_match, check_types, shape_of, stream, write_tensors
from zhixing.core.device import check_memory
from zhixing.families.base import MOST_LAYERS, ConfigReader, Weights
from zhixing.models.network import CausalNetwork
from zhixing.models.recurrent import CELLS, RecurrentConfig, RecurrentNetwork

Built = TypeVar("Built", bound=nn.Module)


def fill(model: Built, folder: Path, dtype: torch.dtype) -> Built:
    """Returns a network that was built without memory, with the weights of a folder by its own names.

    Raises:
        MissingResource: There are no weights, or there is too little memory.
        BadInput: They are not the weights of this network.
    """
    files, _ = open_weights(folder)
    check_types(files)
    shapes = {name: shape_of(entry) for file in files for name, entry in file.entries.items()}
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    check_match(expected, shapes, str(folder))
    check_memory(sum(shape.numel() for shape in expected.values()) * dtype.itemsize, "this model", where=str(folder))
    model = model.to_empty(device="cpu")
    parameters = dict(model.named_parameters())
    for file in files:
        for name, tensor in stream(file):
            parameters[name].data.copy_(tensor)
    return model


class RecurrentKind:
    """Recurrent language models: `model_type` "zhixing-rnn"."""

    name = "zhixing-rnn"
    network: type[CausalNetwork] = RecurrentNetwork

    def read(self, values: Mapping[str, Any], folder: Path, dtype: torch.dtype) -> RecurrentNetwork:
        """Reads config.json and the weights."""
        where = str(folder / "config.json")
        reader = ConfigReader(values, where)
        reader.expect("cell", *CELLS)
        config = RecurrentConfig(
            vocab_size=reader.size("vocab_size", most=1 << 24),
            cell=reader.take("cell", required=True),
            width=reader.size("width"),
            hidden=reader.size("hidden"),
            layers=reader.size("layers", most=MOST_LAYERS),
            tied=reader.flag("tied", False),
        )
        reader.finish()
        with torch.device("meta"):
            model = RecurrentNetwork(config).to(dtype)
        return fill(model, folder, dtype)

    def values(self, model: CausalNetwork) -> dict[str, Any]:
        """Returns the content of config.json."""
        assert isinstance(model, RecurrentNetwork)
        sizes = dataclasses.asdict(model.config)
        kept = ("cell", "vocab_size", "width", "hidden", "layers", "tied")
        return {"model_type": self.name, **{key: sizes[key] for key in kept}}

    def write(self, model: CausalNetwork, folder: Path, weights: Weights) -> None:
        """Writes the weights."""
        write_tensors(folder / "model.safetensors", weights, {"format": "pt"})


RECURRENT = RecurrentKind()
