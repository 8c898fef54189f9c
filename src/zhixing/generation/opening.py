"""Opening a model to write with it: by the native core where that can be, else by PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zhixing.checkpoints.companions import companions_of
from zhixing.checkpoints.references import resolve
from zhixing.core.device import choose_device, is_surely_cpu
from zhixing.core.errors import BadInput, unknown_name
from zhixing.native import saved
from zhixing.native.choice import check_engine, choose, core_note
from zhixing.native.decoder import NativeDecoder
from zhixing.native.library import absence
from zhixing.native.runtime import Runtime

if TYPE_CHECKING:
    import torch

    from zhixing.checkpoints.folder import ModelFolder
    from zhixing.checkpoints.seq2seq_folder import Seq2SeqFolder
    from zhixing.models.network import CausalNetwork, NetworkConfig
    from zhixing.tokenization.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class Opened:
    """A model that can write.

    Attributes:
        path: The folder, or the GGUF file.
        config: The network's configuration.
        tokenizer: Its tokenizer, or None.
        generation: The content of its generation_config.json.
        modules: Opens the network's PyTorch modules, or returns those that are open.
        decoder: The network on the C++ core, which then writes; None when PyTorch does.
        details: How it was opened, in sentences for those who ask.
        notes: What the user should know, in sentences.
    """

    path: Path
    config: NetworkConfig
    tokenizer: Tokenizer | None
    generation: dict[str, Any]
    modules: Callable[[], CausalNetwork]
    decoder: NativeDecoder | None = None
    details: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def by_torch(cls, folder: ModelFolder, note: str | None = None) -> Opened:
        """Takes what was read for PyTorch, with a sentence that says why it computes."""
        details = [*folder.details, *([note] if note else ())]
        model = folder.model
        return cls(
            folder.path, model.config, folder.tokenizer, folder.generation, lambda: model, None, details, folder.notes
        )

    @cached_property
    def network(self) -> CausalNetwork:
        """What writes."""
        if self.decoder is None:
            return self.modules()
        from zhixing.native.network import NativeNetwork

        return NativeNetwork(self.decoder)


def open_for_writing(
    ref: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    compact: bool | None = None,
    engine: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
    head: str | None = None,
) -> Opened:
    """Opens a model; see `zhixing.load` for the arguments.

    Raises:
        MissingResource: There is no such model, or no such device.
        BadInput: The model is damaged or not supported.
    """
    path = resolve(ref)
    options: dict[str, Any] = {"dtype": dtype, "device": device, "compact": compact}
    core: dict[str, Any] = {"quantize": quantize, "kv_cache": kv_cache, "head": head}
    if (found := open_saved(path, **options, engine=engine, **core)) is not None:
        return found
    number_type, where = _number_type(dtype), choose_device(device)
    if engine == "torch" or (engine == "auto" and (where.type != "cpu" or str(number_type) != "torch.float32")):
        return Opened.by_torch(_open_for_torch(path, **options))
    if engine == "auto" and not any(core.values()) and (missing := absence()) is not None:
        return Opened.by_torch(_open_for_torch(path, **options), f"computed by PyTorch: {missing}")
    from zhixing.checkpoints.opening import open_model

    # The core packs a GGUF file's blocks as they are: nothing is expanded.
    folder = open_model(path, compact=True)
    if where.type != "cpu":
        raise BadInput(f"the native engine computes on the CPU, not on {where}", remedy="use --device cpu")
    choice = choose(folder.model, engine, **core)
    if choice.decoder is None:
        return Opened.by_torch(_open_for_torch(path, **options), choice.note)
    saved.keep(path, quantize, choice.decoder, folder.notes, head)
    return Opened(
        path, folder.model.config, folder.tokenizer, folder.generation,
        lambda: _open_for_torch(path, **options).model, choice.decoder, [choice.note], folder.notes,
    )  # fmt: skip


def open_saved(
    path: Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    compact: bool | None = None,
    engine: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
    head: str | None = None,
) -> Opened | None:
    """Opens what an earlier opening left packed, without importing PyTorch; None when there is nothing that serves.

    Args:
        path: A model folder or a GGUF file.
        dtype: As for `zhixing.load`, like all others.
        device: Where to compute.
        compact: For PyTorch, should it be needed after all.
        engine: What writes.
        quantize: How matrices are packed.
        kv_cache: How keys and values are kept.
        head: How greedy tokens are found.

    Raises:
        BadInput: An option is unknown, or the tokenizer is damaged.
        MissingResource: There is not enough memory.
    """
    check_engine(engine, quantize, kv_cache, head)
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise unknown_name("number type", dtype, DTYPES)
    by_core = (
        engine == "native"
        or (quantize or kv_cache or head) is not None
        or str(dtype).removeprefix("torch.") == "float32"
    )
    if engine == "torch" or not by_core or absence() is not None:
        return None
    if not is_surely_cpu(device) and choose_device(device).type != "cpu":
        return None
    kept = saved.find(path, quantize, head)
    if kept is None:
        return None
    beside = companions_of(path, kept.config.vocab_size)
    decoder = NativeDecoder(kept.config, Runtime(kept.program, kv_cache=kv_cache))
    options: dict[str, Any] = {"dtype": dtype, "device": device, "compact": compact}
    return Opened(
        path, kept.config, beside.tokenizer, beside.generation, lambda: _open_for_torch(path, **options).model, decoder,
        [f"packed weights taken from {saved.place_of(path, quantize, head)}", core_note(decoder)], list(kept.notes),
    )  # fmt: skip


def _open_for_torch(path: Path, dtype: str | torch.dtype, device: str, compact: bool | None) -> ModelFolder:
    """Opens a model's modules, where they are to compute."""
    from zhixing.checkpoints.opening import open_model

    number_type, where = _number_type(dtype), choose_device(device)
    folder = open_model(path, number_type, compact)
    folder.model.to(where)
    _tune(where, number_type)
    return folder


def _tune(where: torch.device, number_type: torch.dtype) -> None:
    """Chooses the faster way to multiply, where there is a choice."""
    from zhixing.models import ops

    if where.type == "cpu" and str(number_type) == "torch.float32":
        ops.select_matmul()


def open_seq2seq(
    path: Path,
    *,
    dtype: str | torch.dtype = "float32",
    device: str = "auto",
    engine: str = "auto",
    quantize: str | None = None,
    kv_cache: str | None = None,
) -> Seq2SeqFolder:
    """Opens an encoder-decoder; see `zhixing.load` for the arguments.

    Raises:
        MissingResource: A file of the folder is missing, or there is no such device.
        BadInput: The model is damaged or not supported.
    """
    from zhixing.checkpoints.seq2seq_folder import load_seq2seq
    from zhixing.native.choice import choose_seq2seq

    number_type, where = _number_type(dtype), choose_device(device)
    check_engine(engine, quantize, kv_cache)
    folder = load_seq2seq(path, number_type)
    folder.model.to(where)
    on_cpu = where.type == "cpu" and str(number_type) == "torch.float32"
    if engine == "auto" and (quantize or kv_cache) is None and not on_cpu:
        return folder
    choice = choose_seq2seq(folder.model, engine, quantize, kv_cache)
    folder.details.append(choice.note)
    if choice.network is not None:
        folder.model = choice.network
    else:
        _tune(where, number_type)
    return folder


def _number_type(name: str | torch.dtype) -> torch.dtype:
    import torch

    if not isinstance(name, str):
        return name
    if name not in DTYPES:
        raise unknown_name("number type", name, DTYPES)
    number_type: torch.dtype = getattr(torch, name)
    return number_type
