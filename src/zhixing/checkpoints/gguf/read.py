"""Opening a GGUF file as a model: header, configuration, weights, tokenizer, settings for writing."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from zhixing.checkpoints.companions import companions_in
from zhixing.checkpoints.folder import ModelFolder, fitting
from zhixing.checkpoints.gguf.architectures import Architecture, Config
from zhixing.checkpoints.gguf.header import GGUFFile, TensorInfo, Texts, open_model_file
from zhixing.checkpoints.gguf.older_layouts import architecture_named
from zhixing.core.device import check_memory, free_memory_bytes
from zhixing.core.errors import BadInput
from zhixing.core.progress import human_bytes
from zhixing.families import Family, family_for_config
from zhixing.families.base import Weights
from zhixing.models.block_kinds import READ
from zhixing.models.blocks import expand
from zhixing.models.config import TransformerConfig
from zhixing.models.quantized import BlockMatrix, Part
from zhixing.models.transformer import Transformer

RELEASED_EVERY = 1 << 26
"""Bytes of the file after which those that were expanded are given back to the system."""

COMFORTABLE_SHARE = 0.5
"""A model is expanded when its weights then take at most this share of the free memory."""


def read_architecture(file: GGUFFile) -> tuple[Architecture, Config]:
    """Returns a file's architecture and the published configuration of its model.

    Raises:
        BadInput: The architecture is not known, or its metadata cannot be used.
    """
    where = str(file.path)
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise BadInput(f"a GGUF file of type {kind!r}, not a model", where=where, remedy="give the model's own file")
    architecture = architecture_named(file.metadata.get("general.architecture"), where)
    return architecture, architecture.config_from(file)


@torch.inference_mode(False)
def load_gguf(path: Path, dtype: torch.dtype = torch.float32, compact: bool | None = None) -> ModelFolder:
    """Opens a GGUF file.

    Args:
        path: The file.
        dtype: Number type of the weights in memory; of the values that are computed with, for a compact model.
        compact: True keeps the weights in the file's blocks, mapped, and expands them as they are used: slow and small.
            False expands them at once: fast and large. None expands when that takes at most half of the free memory.

    Returns:
        The model; `details` says which of the two was chosen, and why.

    Raises:
        MissingResource: It is not there.
        BadInput: It is damaged, or holds what is not supported.
    """
    file = open_model_file(path)
    architecture, values = read_architecture(file)
    family = family_for_config(values, str(path))
    config = family.config_from(values, str(path))
    with torch.device("meta"):
        skeleton = Transformer(config)
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Texts) and len(tokens) != config.vocab_size:
        raise BadInput(
            f"the tokenizer has {len(tokens)} tokens, but token_embd.weight has {config.vocab_size} rows",
            where=str(path),
            remedy="the file is damaged, or put together from two models",
        )
    weights = read_weights(file, architecture, family, values, config, dtype)
    weights = fitting(skeleton, weights, str(path), source="its metadata")
    compact, note = _choose(weights, dtype, compact, str(path))
    with _Places({} if compact else weights, dtype) as places:
        beside = companions_in(file)  # meanwhile the system finds the memory
        model = _placed(skeleton, weights, dtype, places, file)
    return ModelFolder(model.eval(), beside.tokenizer, family, path, beside.generation, [note], beside.notes)


def read_weights(
    file: GGUFFile,
    architecture: Architecture,
    family: Family,
    values: Config,
    config: TransformerConfig,
    dtype: torch.dtype,
) -> Weights:
    """Returns a file's weights under our names, as yet in their blocks."""
    where = str(file.path)
    ignored = re.compile(architecture.ignored)
    tensors = {name: _tensor(file, info, dtype) for name, info in file.tensors.items() if not ignored.fullmatch(name)}
    return family.weights_from(architecture.weights_from(tensors, values, where), config, where)


def _tensor(file: GGUFFile, info: TensorInfo, dtype: torch.dtype) -> Tensor:
    if info.kind not in READ:
        raise BadInput(
            f"the tensor {info.name!r} is stored as {info.kind.name}, which is not read",
            where=str(file.path),
            remedy=f"take a file in one of {', '.join(kind.name for kind in READ)}",
        )
    with warnings.catch_warnings():  # PyTorch has no read-only tensors; nothing here writes to these
        warnings.simplefilter("ignore", UserWarning)
        content = torch.from_numpy(file.bytes_of(info))
    if len(info.shape) == 1:
        return expand(info.kind, content[None], torch.empty((1, *info.shape), dtype=torch.float32))[0]
    rows = content.view(-1, info.kind.row_bytes(info.shape[-1]))
    return BlockMatrix([Part(info.kind, rows)], info.shape, dtype)


def _choose(weights: Weights, dtype: torch.dtype, compact: bool | None, where: str) -> tuple[bool, str]:
    """Decides whether weights stay in their blocks; returns it with a sentence that says so."""
    expanded = sum(tensor.numel() for tensor in weights.values()) * dtype.itemsize
    stored = sum(
        tensor.stored_bytes if isinstance(tensor, BlockMatrix) else tensor.nbytes for tensor in weights.values()
    )
    sizes = f"{human_bytes(stored)} in the file, {human_bytes(expanded)} in {str(dtype).removeprefix('torch.')}"
    reason = "as asked"
    if compact is None:
        free = free_memory_bytes()
        compact = expanded > COMFORTABLE_SHARE * free
        reason = f"{human_bytes(free)} of memory free"
    elif not compact:
        check_memory(expanded, "this model, expanded,", where=where, remedy="keep it packed: compact=True, --compact")
    done = "stay in their blocks and are expanded as they are used" if compact else "were expanded"
    return compact, f"weights {done}: {sizes}; {reason}"


class _Places:
    """Memory for expanded weights, touched in a thread of its own, in the weights' order.

    Fresh memory costs more than the arithmetic that fills it, because the system clears every page on first touch. The
    thread does that while Python is busy with the tokenizer.

    Args:
        weights: What will be expanded.
        dtype: Into which number type.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._places: dict[str, Future[Tensor]] = {
            name: self._thread.submit(_touched, tensor.shape, dtype)
            for name, tensor in weights.items()
            if isinstance(tensor, BlockMatrix)
        }

    def take(self, name: str) -> Tensor | None:
        """Returns the place of a weight; None where there is none, because the weight stays as it is."""
        found = self._places.pop(name, None)
        return None if found is None else found.result()

    def __enter__(self) -> _Places:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def _touched(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        place = torch.empty(tuple(shape), dtype=dtype)
    ctypes.memset(place.data_ptr(), 0, place.nbytes)  # leaves Python to others meanwhile
    return place


def _placed(
    skeleton: Transformer, weights: Weights, dtype: torch.dtype, places: _Places, file: GGUFFile
) -> Transformer:
    """Puts weights into a model without memory: expanded where there is a place for them, else as they are."""
    modules: dict[str, nn.Module] = dict(skeleton.named_modules())
    read = 0
    for name, tensor in weights.items():
        owner, _, last = name.rpartition(".")
        value = tensor if isinstance(tensor, BlockMatrix) else tensor.to(dtype)
        if isinstance(tensor, BlockMatrix) and (place := places.take(name)) is not None:
            value = tensor.expand_into(place)
            read += tensor.stored_bytes
            if read > RELEASED_EVERY:  # what was expanded need not stay in memory too
                file.release()
                read = 0
        modules[owner].register_parameter(last, nn.Parameter(value, requires_grad=not isinstance(value, BlockMatrix)))
    return skeleton
