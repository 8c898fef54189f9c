"""Writing a model as a GGUF file that llama.cpp opens: metadata, tokenizer, and weights packed piece by piece.

The file is written tensor by tensor beside its place and then renamed: memory stays near one tensor's size, and an
interrupted run leaves nothing. Formats and architectures are in `models.block_packing` and `layouts`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from zhixing.checkpoints.companions import SAMPLING
from zhixing.checkpoints.folder import ModelFolder
from zhixing.checkpoints.gguf.header import DEFAULT_ALIGNMENT, LONGEST_NAME, MAGIC
from zhixing.checkpoints.gguf.older_layouts import architecture_for
from zhixing.checkpoints.gguf.vocabulary_out import tokenizer_metadata
from zhixing.core.device import peak_memory_bytes
from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.files import os_fault, sync_folder
from zhixing.models import block_kinds as kinds
from zhixing.models.block_kinds import Kind
from zhixing.models.block_packing import pack
from zhixing.models.quantized import BlockMatrix
from zhixing.models.transformer import Transformer

KINDS: dict[str, tuple[Kind, int]] = {
    "f32": (kinds.F32, 0), "f16": (kinds.F16, 1), "bf16": (kinds.BF16, 32), "q8_0": (kinds.Q8_0, 7),
    "q4_0": (kinds.Q4_0, 2), "q4_k": (kinds.Q4_K, 14),
}  # fmt: skip
"""Formats that can be written, by name, with llama.cpp's number for a file that is mostly of it."""

ROWS_AT_ONCE = 1 << 22
"""Values of a tensor that are packed and written together."""


@dataclass(frozen=True)
class WrittenFile:
    """What was written.

    Attributes:
        path: The file.
        size: Its bytes.
        seconds: How long it took.
        peak_memory: Largest resident memory of the process so far, in bytes.
        kinds: How many tensors are stored in each format.
        notes: What the user should know.
    """

    path: Path
    size: int
    seconds: float
    peak_memory: int
    kinds: dict[str, int]
    notes: list[str] = field(default_factory=list)


def write_gguf(
    path: Path, folder: ModelFolder, kind: str = "q8_0", name: str | None = None, licence: str | None = None
) -> WrittenFile:
    """Writes a model as one GGUF file.

    Matrices are stored in the given format, vectors and position tables in float32. With four bits, the matrix that
    gives the logits keeps eight, because its errors are the ones that choose tokens. Weights that are packed in the
    same format already keep their bytes.

    Args:
        path: Where to; replaced if it exists.
        folder: The model, with its tokenizer and settings.
        kind: One of `KINDS`, in any case.
        name: What the file calls the model; the name of its folder or file when not given.
        licence: Under which terms it may be used, where that is known.

    Raises:
        BadInput: There is no such format, or GGUF cannot express the model or its tokenizer.
        MissingResource: The place cannot be written.
    """
    started = time.monotonic()
    kind = kind.lower()
    if kind not in KINDS:
        raise unknown_name("GGUF format", kind, KINDS)
    model, family = folder.model, folder.family
    if not isinstance(model, Transformer) or family is None:
        raise BadInput(f"GGUF holds Transformers only, this is a {type(model).__name__}", where=str(folder.path))
    architecture = architecture_for(family.name)
    config = family.config_to(model.config)
    own, extra = architecture.write(config)
    state = {key: tensor.detach() for key, tensor in model.named_parameters()}
    weights = architecture.weights_to(family.weights_to(state, model.config), config)
    default, number = KINDS[kind]
    notes: list[str] = []
    plan = {key: _kind_for(key, tensor, default, weights) for key, tensor in weights.items()}
    wider = [key for key, chosen in plan.items() if weights[key].dim() > 1 and chosen != default]
    narrow = [key for key in wider if weights[key].shape[-1] % default.values]
    if narrow:
        notes.append(
            f"{len(narrow)} matrices have rows that {default.name} cannot hold ({weights[narrow[0]].shape[-1]} values,"
            f" blocks of {default.values}): stored as {plan[narrow[0]].name}"
        )
    metadata: dict[str, Any] = {
        "general.architecture": architecture.name,
        "general.type": "model",
        "general.name": name or (folder.path.parent.name if folder.path.name == "model" else folder.path.stem),
        "general.file_type": number,
        "general.quantization_version": 2,
        **({"general.license": licence} if licence else {}),
        **{f"{architecture.name}.{key}": value for key, value in own.items()},
        **_sampling(folder),
    }
    window = model.config.window
    if window is not None and not model.config.window_layers and window < model.config.context:
        notes.append(
            f"llama.cpp computes such models without their window of {window} tokens: beyond it, texts differ there"
        )
    if folder.tokenizer is None:
        metadata["tokenizer.ggml.model"] = "none"
        notes.append("the model has no tokenizer; llama.cpp can only be given token ids")
    else:
        ends = folder.generation.get("eos_token_id")
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        metadata |= tokenizer_metadata(folder.tokenizer, model.config.vocab_size, ends)
    tensors = {**{key: torch.from_numpy(values) for key, values in extra.items()}, **weights}
    plan |= dict.fromkeys(extra, kinds.F32)
    size = _write(path, metadata, tensors, plan)
    counted = Counter(plan[key].name for key in tensors)
    return WrittenFile(path, size, time.monotonic() - started, peak_memory_bytes(), dict(counted), notes)


def _sampling(folder: ModelFolder) -> dict[str, float | int]:
    given = {f"general.sampling.{ours}": folder.generation.get(theirs) for ours, theirs in SAMPLING.items()}
    if folder.generation.get("do_sample") is False:
        return {}
    return {
        key: int(value) if key.endswith("top_k") else float(value)
        for key, value in given.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _kind_for(name: str, tensor: Tensor, default: Kind, weights: Mapping[str, Tensor]) -> Kind:
    """Chooses the format of one tensor."""
    if tensor.dim() == 1 or name == "position_embd.weight" or default == kinds.F32:
        return kinds.F32
    chosen = default
    gives_logits = name == "output.weight" or (name == "token_embd.weight" and "output.weight" not in weights)
    if gives_logits and default.values > 1:
        chosen = kinds.Q8_0
    if tensor.shape[-1] % chosen.values:
        chosen = kinds.Q8_0
    return kinds.F16 if tensor.shape[-1] % chosen.values else chosen


def _write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Tensor], plan: Mapping[str, Kind]) -> int:
    """Writes the file; returns its size."""
    head = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _text(key) + _value(key, value)
    offset = 0
    for name, tensor in tensors.items():
        if len(name.encode()) > LONGEST_NAME:
            raise BadInput(f"the tensor's name {name!r} is too long for GGUF")
        head += _text(name) + struct.pack("<I", tensor.dim())
        head += b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
        head += struct.pack("<IQ", plan[name].number, offset)
        offset += _padded(tensor.numel() // plan[name].values * plan[name].bytes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(head + b"\0" * (_padded(len(head)) - len(head)))
            for name, tensor in tensors.items():
                written = _write_tensor(file, tensor, plan[name])
                file.write(b"\0" * (_padded(written) - written))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise os_fault(error, path, "writing the model") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return size


def _write_tensor(file: BinaryIO, tensor: Tensor, kind: Kind) -> int:
    """Packs and writes a tensor some rows at a time; returns the bytes written."""
    if isinstance(tensor, BlockMatrix) and not tensor.transposed and all(part.kind == kind for part in tensor.parts):
        for part in tensor.parts:
            file.write(part.rows.contiguous().numpy().data)
        return tensor.stored_bytes
    rows = tensor[None] if tensor.dim() == 1 else tensor
    step = max(1, ROWS_AT_ONCE // rows.shape[-1])
    written = 0
    for start in range(0, len(rows), step):
        piece = rows[start : start + step]
        values = piece.expanded() if isinstance(piece, BlockMatrix) else piece
        if not bool(torch.isfinite(values).all()):
            raise BadInput("a weight is infinite or not a number: the model is broken, and is not written")
        if kind == kinds.F16 and values.abs().max() > 65504:
            raise BadInput("a weight is beyond the range of 16-bit numbers (F16)", remedy="write bf16 or q8_0 instead")
        content = pack(kind, values.contiguous())
        file.write(content.numpy().data)
        written += content.numel()
    return written


def _padded(size: int) -> int:
    return -(-size // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _text(value: str) -> bytes:
    content = value.encode("utf-8")
    return struct.pack("<Q", len(content)) + content


def _value(key: str, value: Any) -> bytes:
    """Encodes a metadata value with its type: sizes as unsigned, other numbers as float32, as llama.cpp expects."""
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if not value or isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    kind, dtype = (6, np.float32) if isinstance(value[0], float) else (5, np.int32)
    return struct.pack("<IIQ", 9, kind, len(value)) + np.asarray(value, dtype).tobytes()
