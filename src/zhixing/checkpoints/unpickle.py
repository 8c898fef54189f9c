"""Old pickled weights to safetensors: the program that runs in a process of its own.

    python -m zhixing.checkpoints.unpickle pytorch_model.bin out.safetensors --tied

Nothing else in Zhixing reads pickles. This reads them with `weights_only=True`, which builds tensors and plain
containers and refuses to call anything else; and it gives up memory and processor time beforehand, so that a file
cannot take more than one of its size needs. The last line that it prints is JSON: what was done, or why not. Whoever
wants a conversion calls `convert`.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zhixing.checkpoints.tensors import NAMES, TensorWriter

SPARE_MEMORY = 512 << 20
"""Bytes beyond the file's own size that reading it may take."""
SPARE_SECONDS = 60
SLOWEST = 10_000_000
"""Bytes a second that even a slow disk reads."""
HEADS = ("lm_head.weight", "embed_out.weight", "cls.predictions.decoder.weight")
"""Output heads, which old files hold besides the table that they share with the input."""


def main() -> int:
    """Converts one file; returns the exit code."""
    source, target, tied = Path(sys.argv[1]), Path(sys.argv[2]), "--tied" in sys.argv[3:]
    try:
        result = _convert(source, target, tied)
    except Exception as error:
        if (cause := _cause(error)) is None:
            raise
        print(json.dumps({"cause": cause}))
        return 2
    print(json.dumps(result))
    return 0


def _convert(source: Path, target: Path, tied: bool) -> dict[str, Any]:
    with source.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # PyTorch's format since 1.6, which can be mapped instead of read
    size = source.stat().st_size
    _limit((2 if zipped else 3) * size + SPARE_MEMORY, SPARE_SECONDS + size // SLOWEST)
    content = torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    tensors, skipped = _tensors(content)
    dropped = _drop_shared_heads(tensors) if tied else []
    specs = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(target, specs, {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    return {"tensors": len(tensors), "skipped": skipped, "dropped": dropped}


def _limit(memory: int, seconds: int) -> None:
    """Bounds what this process may still take."""
    with contextlib.suppress(OSError, ValueError):  # a system that knows no such limits
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
    with contextlib.suppress(OSError, ValueError):
        spent = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + seconds,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class NoWeights(ValueError):
    """The file holds something else than a table of tensors."""


def _tensors(content: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors of a checkpoint by name, and the names of what is none."""
    for key in ("state_dict", "model_state_dict", "model"):  # as training programs wrap it
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise NoWeights(f"it holds a {type(content).__name__}, not a table of tensors")
    found = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not found:
        raise NoWeights("it holds no tensors")
    for name, tensor in found.items():
        if tensor.layout != torch.strided or tensor.dtype not in NAMES:
            raise NoWeights(f"the tensor {name!r} is of a kind that safetensors does not have ({tensor.dtype})")
    return {name: tensor.detach() for name, tensor in found.items()}, sorted(map(str, content.keys() - found.keys()))


def _drop_shared_heads(tensors: dict[str, Tensor]) -> list[str]:
    """Leaves out heads that are the same memory as another tensor."""
    place = {(t.data_ptr(), tuple(t.shape), t.stride()) for name, t in tensors.items() if name not in HEADS}
    dropped = [
        name
        for name in HEADS
        if (t := tensors.get(name)) is not None and (t.data_ptr(), tuple(t.shape), t.stride()) in place
    ]
    for name in dropped:
        del tensors[name]
    return dropped


def _cause(error: Exception) -> str | None:
    """Says why a file could not be converted; None when it is a fault of this program."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in text.lower():
        named = re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand|type)\S*:?)\s+([\w.]+\.[\w.]+)", text)
        if named:
            return f"it asks for {named[1]}, which could run code; only plain tensors are taken"
        return f"it is no file of plain tensors ({text.splitlines()[0][:160]})"
    if isinstance(error, NoWeights):
        return text
    if isinstance(error, MemoryError) or "memory" in text:
        return "it takes more memory than a file of its size can need"
    if isinstance(error, RuntimeError | EOFError | OSError | ValueError | KeyError | TypeError | IndexError):
        return f"it is damaged ({text.splitlines()[0][:160] if text else type(error).__name__})"
    return None


if __name__ == "__main__":
    sys.exit(main())
