"""Architectures of GGUF files: their metadata and tensor names, to the published config.json and weight names and back.

A GGUF file describes its model in words of its own (docs/gguf.md of ggml-org/ggml; gguf-py/gguf/constants.py of
ggml-org/llama.cpp). Here they become what the same model's folder in the Hugging Face layout says, and the family in
`zhixing.families` does the rest. A metadata key of the architecture that nobody asks for is refused by name.
The tables of the single architectures are in `layouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.gguf.header import GGUFFile, TensorInfo, Texts
from zhixing.core.errors import BadInput
from zhixing.families.base import MOST_LAYERS, ConfigReader, Names, Weights
from zhixing.models.block_kinds import F32

Config = dict[str, Any]
"""The content of a published config.json, or the metadata of one architecture without its prefix."""

Written = tuple[Config, dict[str, NDArray[np.float32]]]
"""Metadata of one architecture without its prefix, and small tensors that belong to them."""


class MetadataReader(ConfigReader):
    """Reads the metadata of one architecture; what nobody asks for is refused by name.

    Args:
        file: The opened file.
        prefix: The architecture's name, with which its keys begin.
    """

    def __init__(self, file: GGUFFile, prefix: str) -> None:
        own = {key: _plain(value) for key, value in file.metadata.items() if key.startswith(f"{prefix}.")}
        super().__init__(own, str(file.path))
        self.prefix, self.file = prefix, file
        self.tensors = file.tensors

    def key(self, name: str) -> str:
        """Returns a key in full."""
        return f"{self.prefix}.{name}"

    def take(self, key: str, default: Any = None, *, required: bool = False) -> Any:
        """Returns the value of a key, given in full or without the prefix; see `ConfigReader.take`."""
        return super().take(key if key in self.values else self.key(key), default, required=required)

    def same_size(self, name: str, default: int | None = None) -> int:
        """Returns a size that may be written once for every layer, which must then be the same for all."""
        value = self.take(name, default)
        if isinstance(value, list):
            if not value or any(size != value[0] for size in value):
                raise BadInput(
                    f"{self.key(name)} differs from layer to layer, which is not supported", where=self.where
                )
            self.values = {**self.values, self.key(name): value[0]}
        return self.size(name, default)

    def number(self, key: str, default: float) -> float:
        """Returns a number; one that was written in 32 bits as the decimal number that was meant."""
        value = super().number(key, default)
        with np.errstate(over="ignore"):
            short = np.float32(value)
        return float(str(short)) if float(short) == value else value

    def tensor(self, name: str) -> TensorInfo:
        """Returns a tensor that the file must have."""
        if name not in self.tensors:
            raise BadInput(f"the tensor {name!r} is missing", where=self.where, remedy="the file is damaged")
        return self.tensors[name]

    def values_of(self, name: str) -> NDArray[np.float32]:
        """Returns the values of a small tensor that the file must have, in float32."""
        info = self.tensor(name)
        if info.kind != F32 or info.size > 1 << 20:
            raise BadInput(f"the tensor {name!r} is not a short list of float32 numbers", where=self.where)
        return self.file.bytes_of(info).view("<f4")


def _plain(value: Any) -> Any:
    """Returns a metadata value as ordinary Python data; long lists, which no architecture has, stay as they are."""
    if isinstance(value, Texts):
        return value[:MOST_LAYERS]
    if isinstance(value, np.ndarray):
        return value[:MOST_LAYERS].tolist()
    return value


def unchanged(weights: Weights, config: Config) -> Weights:
    """Leaves tensors as they are."""
    return weights


def both_kinds(parts: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the pairs of weight and bias names of pairs of parts, GGUF's and the published."""
    pairs = parts.items() if isinstance(parts, Mapping) else parts
    return [(f"{ours}.{kind}", f"{theirs}.{kind}") for ours, theirs in pairs for kind in ("weight", "bias")]


@dataclass(frozen=True)
class Architecture:
    """One architecture of GGUF.

    Attributes:
        name: What `general.architecture` says.
        families: The published model types that are written as it.
        read: Metadata to the published config.json.
        write: A published config.json to metadata.
        names: Tensor names: GGUF's, published.
        split: Turns the file's tensors into published ones, still under GGUF's names (undoing permutations).
        fuse: The inverse.
        ignored: Tensors that are no weights of the network, as a regular expression.
        head_needed: llama.cpp wants the output matrix even where it is the embedding table.
    """

    name: str
    families: tuple[str, ...]
    read: Callable[[MetadataReader], Config]
    write: Callable[[Config], Written]
    names: Names
    split: Callable[[Weights, Config], Weights] = unchanged
    fuse: Callable[[Weights, Config], Weights] = unchanged
    ignored: str = r"rope_(freqs|factors_long|factors_short)\.weight"
    head_needed: bool = False

    def config_from(self, file: GGUFFile) -> Config:
        """Returns the published config.json of a file's model.

        Raises:
            BadInput: The metadata lack something, contradict one another, or say what is not supported.
        """
        reader = MetadataReader(file, self.name)
        config = self.read(reader)
        vocabulary = reader.tensor("token_embd.weight").shape[0]
        if reader.size("vocab_size", vocabulary) != vocabulary:
            raise BadInput(
                f"{reader.key('vocab_size')} says {reader.values[reader.key('vocab_size')]}, but token_embd.weight has"
                f" {vocabulary} rows",
                where=reader.where,
                remedy="the file is damaged, or put together from two models",
            )
        reader.take("tensor_data_layout")  # says how llama.cpp has ordered the rows, which its name already says
        reader.finish()
        return {**config, "vocab_size": vocabulary}

    def weights_from(self, tensors: Weights, config: Config, where: str) -> Weights:
        """Translates a file's tensors to published names.

        Raises:
            BadInput: A tensor has no place in this architecture.
        """
        published: Weights = {}
        for name, tensor in self.split(tensors, config).items():
            translated = self.names.to_theirs(name)
            if translated is None:
                raise BadInput(
                    f"the tensor {name!r} has no place in the architecture {self.name!r}",
                    where=where,
                    remedy="it may change the result, so the model is refused rather than run wrongly",
                )
            published[translated] = tensor
        return published

    def weights_to(self, published: Weights, config: Config) -> Weights:
        """Translates published tensors to GGUF's names."""
        tensors: Weights = {}
        for name, tensor in published.items():
            translated = self.names.to_ours(name)
            if translated is None:
                raise BadInput(f"GGUF's architecture {self.name!r} has no place for the tensor {name!r}")
            tensors[translated] = tensor
        if self.head_needed:
            tensors.setdefault("output.weight", tensors["token_embd.weight"])
        return self.fuse(tensors, config)


def rotary_pairs(weight: Tensor, heads: int) -> Tensor:
    """Orders the rows of a query or key projection as llama.cpp wants them: the two halves of each head interleaved.

    llama.cpp rotates neighbours (2i, 2i + 1) where the published networks rotate (i, i + half).
    """
    return weight.view(heads, 2, -1, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


def rotary_halves(weight: Tensor, heads: int) -> Tensor:
    """The inverse of `rotary_pairs`."""
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
