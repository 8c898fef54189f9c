"""Opening a model to write with it: by the native core where that can be, else by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from zhixing.checkpoints.folder import ModelFolder
from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.seq2seq_folder import Seq2SeqFolder, load_seq2seq
from zhixing.core.device import choose_device
from zhixing.core.errors import BadInput, unknown_name
from zhixing.models import ops
from zhixing.models.network import CausalNetwork

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Opened:
    """A model that can write.

    Attributes:
        folder: What was read from the model folder.
        native: The network on the C++ core, which then writes; None when PyTorch does.
        note: A sentence that says what computes, if there is something to say.
        again: Opens the folder once more for PyTorch; None when it is opened so already.
    """

    folder: ModelFolder
    native: CausalNetwork | None = None
    note: str | None = None
    again: Callable[[], ModelFolder] | None = None

    @property
    def network(self) -> CausalNetwork:
        """What writes."""
        return self.native or self.folder.model


def open_for_writing(
    ref: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    compact: bool | None = None,
    engine: str = "auto",
    quantize: str | None = None,
) -> Opened:
    """Opens a model; see `zhixing.load` for the arguments.

    Raises:
        MissingResource: There is no such model, or no such device.
        BadInput: The model is damaged or not supported.
    """
    from zhixing.native.choice import check_engine, choose
    from zhixing.native.library import absence

    number_type = _number_type(dtype)
    where = choose_device(device)
    check_engine(engine, quantize)
    path = resolve(ref)

    def open_for_torch() -> ModelFolder:
        folder = open_model(path, number_type, compact)
        folder.model.to(where)
        if where.type == "cpu" and number_type == torch.float32:
            ops.select_matmul()
        return folder

    if engine == "torch" or (engine == "auto" and (where.type != "cpu" or number_type != torch.float32)):
        return Opened(open_for_torch())
    if engine == "auto" and quantize is None and (missing := absence()) is not None:
        return Opened(open_for_torch(), note=f"computed by PyTorch: {missing}")
    # The core packs a GGUF file's blocks as they are: nothing is expanded.
    folder = open_model(path, torch.float32, compact=True)
    if where.type != "cpu":
        raise BadInput(f"the native engine computes on the CPU, not on {where}", remedy="use --device cpu")
    choice = choose(folder.model, engine, quantize)
    if choice.network is not None:
        return Opened(folder, choice.network, choice.note, open_for_torch)
    return Opened(open_for_torch(), note=choice.note)


def open_seq2seq(
    path: Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    engine: str = "auto",
    quantize: str | None = None,
) -> Seq2SeqFolder:
    """Opens an encoder-decoder; see `zhixing.load` for the arguments.

    Raises:
        MissingResource: A file of the folder is missing, or there is no such device.
        BadInput: The model is damaged or not supported.
    """
    from zhixing.native.choice import check_engine, choose_seq2seq

    number_type, where = _number_type(dtype), choose_device(device)
    check_engine(engine, quantize)
    folder = load_seq2seq(path, number_type)
    folder.model.to(where)
    on_cpu = where.type == "cpu" and number_type == torch.float32
    if engine == "auto" and quantize is None and not on_cpu:
        return folder
    choice = choose_seq2seq(folder.model, engine, quantize)
    folder.details.append(choice.note)
    if choice.network is not None:
        folder.model = choice.network
    elif on_cpu:
        ops.select_matmul()
    return folder


def _number_type(name: str | torch.dtype) -> torch.dtype:
    if not isinstance(name, str):
        return name
    if name not in DTYPES:
        raise unknown_name("number type", name, DTYPES)
    return DTYPES[name]
