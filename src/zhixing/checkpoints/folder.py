"""A model folder: config.json, model.safetensors, tokenizer files, generation_config.json, README.md.

Reading checks everything before it is used; nothing in a folder ever selects code to run. What is not here: how a name
becomes a folder (`checkpoints.references`), and the training state of a run (`training.state`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.files import atomic_folder, os_fault, read_json
from zhixing.families import Family, family_for_config, family_named
from zhixing.families.base import Weights
from zhixing.models.config import TransformerConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass
class ModelFolder:
    """A model read from a folder or a file, with everything that belongs to it.

    Attributes:
        model: The network.
        tokenizer: Its tokenizer, or None.
        family: Its architecture.
        path: The folder, or the GGUF file.
        generation: How it writes unless told otherwise: the content of generation_config.json.
        details: How it was opened, in sentences for those who ask.
    """

    model: Transformer
    tokenizer: Tokenizer | None
    family: Family
    path: Path
    generation: dict[str, Any]
    details: list[str] = field(default_factory=list)


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


def fitting(model: Transformer, weights: Weights, where: str, source: str = "config.json") -> Weights:
    """Returns the weights that belong into a model, after checking that names and shapes match exactly.

    The model may be on the meta device: what config.json asks for is not allocated before it is known to be there.

    Args:
        model: Says what is expected.
        weights: What there is.
        where: The folder or file, for messages.
        source: What describes the model, for messages.
    """
    misfit = f"{source} and the weights are of different models, or the file is damaged: copy both again"
    expected = {name: tensor.shape for name, tensor in model.named_parameters()}
    if model.head is None and "head.weight" in weights:
        weights = {name: tensor for name, tensor in weights.items() if name != "head.weight"}
    if model.head is not None and "head.weight" not in weights and "embedding.weight" in weights:
        raise BadInput(
            f"the output head is missing, and {source} does not say that it is tied",
            where=where,
            remedy="if it shares the embedding's table, set tie_word_embeddings to true in config.json",
        )
    _complain("missing", expected.keys() - weights.keys(), where, misfit)
    _complain("unknown", weights.keys() - expected.keys(), where, misfit)
    for name, tensor in weights.items():
        if tensor.shape != expected[name]:
            raise BadInput(
                f"the tensor {name!r} has shape {tuple(tensor.shape)}, {source} asks for {tuple(expected[name])}",
                where=where,
                remedy=misfit,
            )
    return weights


def _complain(what: str, names: Iterable[str], where: str, remedy: str) -> None:
    listed = sorted(names)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        raise BadInput(f"{what} tensors: {', '.join(listed[:3])}{more}", where=where, remedy=remedy)


def read_config(folder: Path) -> tuple[Family, TransformerConfig]:
    """Reads config.json and returns the family and our configuration."""
    if not folder.is_dir():
        raise MissingResource("no such model folder", where=str(folder), remedy="`zhixing runs` lists your own models")
    path = folder / "config.json"
    if not path.exists():
        hint = "a run's model is in its model/ folder" if (folder / "recipe.yaml").exists() else None
        raise MissingResource("not a model folder: it has no config.json", where=str(folder), remedy=hint)
    values = read_json(path)
    if not isinstance(values, dict):
        raise BadInput("config.json is not a mapping", where=str(path))
    family = family_for_config(values, str(path))
    return family, family.config_from(values, str(path))


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> ModelFolder:
    """Opens a model folder.

    Args:
        folder: The folder.
        dtype: Number type of the weights in memory.

    Raises:
        MissingResource: A file is missing.
        BadInput: A file is damaged, or the parts do not fit together.
    """
    family, config = read_config(folder)
    files = weight_files(folder)
    published: Weights = {}
    for file in files:
        published.update(read_weights(file))
    with torch.device("meta"):
        skeleton = Transformer(config)
    weights = fitting(skeleton, family.weights_from(published, config, str(folder)), str(folder))
    model = skeleton.to_empty(device="cpu").to(dtype)
    model.load_state_dict(weights, strict=True, assign=False)
    tokenizer = None
    if any((folder / name).exists() for name in ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")):
        tokenizer = Tokenizer.load(folder)
        if tokenizer.vocab_size > config.vocab_size:
            raise BadInput(
                f"the tokenizer has {tokenizer.vocab_size} tokens but the model only {config.vocab_size}",
                where=str(folder),
                remedy="the tokenizer belongs to another model: put the right tokenizer.json here",
            )
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.exists() else {}
    if not isinstance(generation, dict):
        raise BadInput("generation_config.json is not a mapping", where=str(generation_file))
    return ModelFolder(model.eval(), tokenizer, family, folder, generation)


def save_folder(
    folder: Path,
    model: Transformer,
    tokenizer: Tokenizer | None,
    family: str,
    card: str = "",
    weights: Weights | None = None,
) -> None:
    """Writes a model folder that `transformers` opens unchanged; the folder appears whole or not at all.

    Args:
        folder: Where to; replaced if it exists.
        model: The network.
        tokenizer: Its tokenizer, or None.
        family: The published layout to write.
        card: Text of README.md, the model card.
        weights: Weights to write instead of the model's own (an average of them, for example).
    """
    layout = family_named(family)
    values = layout.config_to(model.config)
    state = weights if weights is not None else dict(model.named_parameters())
    ends = tokenizer.end_of_text_id if tokenizer else None
    for key, value in (("bos_token_id", ends), ("eos_token_id", ends), ("pad_token_id", ends)):
        values[key] = value
    values["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")
    generation = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "eos_token_id": ends, "pad_token_id": ends}
    generation = {key: value for key, value in generation.items() if value is not None}
    with atomic_folder(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        (temporary / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")
        tensors = {name: tensor.detach() for name, tensor in state.items()}
        write_tensors(temporary / "model.safetensors", layout.weights_to(tensors, model.config), {"format": "pt"})
