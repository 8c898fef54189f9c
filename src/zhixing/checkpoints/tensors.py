"""Tensors in safetensors files: read after checking, written with faults in one line, matched with what is expected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import os_fault, read_json
from zhixing.families.base import Weights

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def read_tensors(path: Path) -> Weights:
    """Reads every tensor of a safetensors file, after the library has checked offsets and sizes against the file.

    Raises:
        MissingResource: The file is not there.
        BadInput: It is truncated or corrupt.
    """
    if not path.is_file():
        raise MissingResource("no such file", where=str(path), remedy="it was removed, or not copied: copy it again")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise BadInput(
            f"not a whole safetensors file ({error})", where=str(path), remedy="the file is damaged: copy it again"
        ) from error
    except OSError as error:
        raise os_fault(error, path, "reading weights") from error
    return weights


def write_tensors(path: Path, tensors: Weights, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file; a full disk or a missing permission becomes one clear message."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata=metadata)
    except SafetensorError as error:  # the library wraps the system's error in its own
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            code = int(number[1])
            raise os_fault(OSError(code, os.strerror(code)), path, "writing weights") from error
        raise MissingResource(f"cannot write weights ({error})", where=str(path)) from error


def read_weights(path: Path) -> Weights:
    """Reads a model's safetensors file; besides what `read_tensors` refuses, number types that models do not use."""
    weights = read_tensors(path)
    for name, tensor in weights.items():
        if tensor.dtype not in DTYPES:
            raise BadInput(
                f"the tensor {name!r} has the unsupported type {tensor.dtype}",
                where=str(path),
                remedy="weights are float32, float16 or bfloat16; quantised models are not read from safetensors",
            )
    return weights


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder, following the index where the weights are in several."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        table = read_json(index)
        names = table.get("weight_map") if isinstance(table, dict) else None
        if not isinstance(names, dict) or not names:
            raise BadInput("the index has no 'weight_map'", where=str(index))
        files = sorted({str(name) for name in names.values()})
        for name in files:
            if Path(name).name != name:
                raise BadInput(f"the index names a file outside the folder: {name!r}", where=str(index))
            if not (folder / name).exists():
                raise MissingResource(f"the shard {name!r} is missing", where=str(folder))
        return [folder / name for name in files]
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    old = sorted([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    if old:
        raise BadInput(
            f"{old[0].name} holds pickled weights, which can run code; they are never loaded",
            where=str(folder),
            remedy="save the model with safetensors (transformers: model.save_pretrained(folder)) and load that",
        )
    raise MissingResource("no model.safetensors in this folder", where=str(folder), remedy="copy the weights there")


def check_match(expected: Mapping[str, torch.Size], weights: Weights, where: str, source: str = "config.json") -> None:
    """Checks that names and shapes are exactly those expected.

    Args:
        expected: The shape of every tensor, by name.
        weights: What there is.
        where: The folder or file, for messages.
        source: What describes the model, for messages.

    Raises:
        BadInput: A tensor is missing, unknown, or of another shape.
    """
    misfit = f"{source} and the weights are of different models, or the file is damaged: copy both again"
    _complain("missing", expected.keys() - weights.keys(), where, misfit)
    _complain("unknown", weights.keys() - expected.keys(), where, misfit)
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise BadInput(
                f"the tensor {name!r} has shape {tuple(tensor.shape)}, {source} asks for {tuple(expected[name])}",
                where=where,
                remedy=misfit,
            )


def _complain(what: str, names: Iterable[str], where: str, remedy: str) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise BadInput(f"{what} tensors: {', '.join(listed[:3])}{more}", where=where, remedy=remedy)
