"""Adapter folders: written, put onto a network, and opened as the model that base and adapter make together."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.checkpoints.adapters.config import AdapterConfig, lora_values, prompt_values, read_config
from zhixing.checkpoints.adapters.layout import PublishedMap, published_maps
from zhixing.checkpoints.folder import ModelFolder
from zhixing.checkpoints.tensors import read_tensors, write_tensors
from zhixing.core.errors import BadInput
from zhixing.core.files import atomic_folder, read_json
from zhixing.families import Family
from zhixing.models.adapters import (
    LowRankSpec,
    adapted,
    attach,
    attach_prompt,
    linear_maps,
    merge,
    prompted,
)
from zhixing.models.adapters.low_rank import LowRank
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
LORA_NAME = re.compile(r"(.+)\.lora_(A|B|magnitude_vector)(?:\.default)?(?:\.weight)?")
PROMPT = "prompt_embeddings"
MOST_DEEP = 4
"""Adapters on the model of an adapter on a model: so many deep at most."""


def is_adapter(path: Path) -> bool:
    """Tells whether a folder holds an adapter and no model."""
    return (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").is_file()


def is_prompt(folder: Path) -> bool:
    """Tells whether an adapter is a learned prompt (prompt tuning).

    Raises:
        BadInput: Its configuration is damaged.
    """
    return read_config(read_json(folder / ADAPTER_CONFIG), str(folder / ADAPTER_CONFIG)).kind == "prompt"


def replaced_modules(folder: Path) -> tuple[str, ...]:
    """Returns the endings of the modules that an adapter brings as a whole: tables with new tokens, say."""
    return read_config(read_json(folder / ADAPTER_CONFIG), str(folder / ADAPTER_CONFIG)).replaced


def base_reference(folder: Path) -> str:
    """Returns the reference of the model that an adapter belongs to.

    Raises:
        BadInput: It does not say.
    """
    config = read_config(read_json(folder / ADAPTER_CONFIG), str(folder / ADAPTER_CONFIG))
    if not config.base:
        raise BadInput(
            "the adapter does not name the model that it belongs to",
            where=str(folder / ADAPTER_CONFIG),
            remedy="merge it by hand: zhixing models merge BASE ADAPTER OUT",
        )
    return config.base


def made_from(path: Path) -> list[Path]:
    """Returns a model and, where it is an adapter, the models below it: what nothing new may be written over.

    Raises:
        MissingResource: A base is not there.
        BadInput: An adapter's configuration is damaged, or names no base.
    """
    from zhixing.checkpoints.references import resolve_base

    found = [path]
    while path.is_dir() and is_adapter(path) and len(found) <= MOST_DEEP:
        path = resolve_base(base_reference(path), path)
        found.append(path)
    return found


def save_adapter(
    folder: Path,
    model: Transformer,
    family: Family,
    base: str,
    *,
    name: str = "default",
    tokenizer: Tokenizer | None = None,
    card: str = "",
    replaced: dict[str, Tensor] | None = None,
) -> None:
    """Writes one adapter of a network; the folder appears whole or not at all, and opens in `peft`.

    Args:
        folder: Where to; replaced if it exists.
        model: The network that carries it.
        family: The published layout of its base.
        base: The reference of its base.
        name: Which adapter.
        tokenizer: The tokenizer that it was trained with, whose chat template may be its own.
        card: Text of README.md.
        replaced: Modules that the adapter replaces as a whole (an embedding with new rows), by our weight names.
    """
    learned = prompted(model)
    if learned is not None:
        c = model.config
        values = prompt_values(base, len(learned.vectors), c.width, c.heads, c.layers)
        tensors = {PROMPT: learned.vectors.detach()}
    else:
        parts = {path: module.low_rank(name) for path, module in adapted(model).items() if name in module.adapters}
        values, tensors = _published(model, family, base, parts, replaced or {})
    with atomic_folder(folder) as temporary:
        (temporary / ADAPTER_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        write_tensors(temporary / WEIGHTS, tensors, {"format": "pt"})
        if tokenizer is not None:
            tokenizer.save(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")


def _published(
    model: Transformer, family: Family, base: str, parts: dict[str, LowRank], replaced: dict[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Translates the parts of an adapter to PEFT's configuration and tensors."""
    if not parts:
        raise BadInput("this network carries no adapter of that name")
    maps = published_maps(family, model.config, linear_maps(model))
    spec = next(iter(parts.values())).spec
    tensors: dict[str, Tensor] = {}
    specs: dict[str, LowRankSpec] = {}
    for published in maps.values():
        mine = {path: parts[path] for path in published.parts if path in parts}
        if mine:
            specs[published.name] = _fused(published, mine, tensors)
    spec = replace(spec, rank=max(set(ranks := [s.rank for s in specs.values()]), key=ranks.count))
    spec = replace(spec, alpha=max(set(alphas := [s.alpha for s in specs.values()]), key=alphas.count))
    different_ranks = {name: each.rank for name, each in specs.items() if each.rank != spec.rank}
    different_alphas = {name: each.alpha for name, each in specs.items() if each.alpha != spec.alpha}
    whole = family.weights_to(dict(replaced), model.config) if replaced else {}
    tensors |= {PREFIX + name: tensor.detach() for name, tensor in whole.items()}
    modules = sorted({name.rpartition(".")[0].rpartition(".")[2] for name in whole})
    transposed = any(maps[name].transposed for name in specs)
    values = lora_values(
        base, spec, _targets(specs, maps), different_ranks, different_alphas, transposed, modules
    )  # fmt: skip
    return values, tensors


def _targets(specs: dict[str, LowRankSpec], maps: dict[str, PublishedMap]) -> list[str]:
    """Returns the last parts of the names, where they fit adapted maps only; else the whole names."""
    endings = {name.rpartition(".")[2] for name in specs}
    fitting = [name for name in maps if name.rpartition(".")[2] in endings]
    return sorted(endings) if len(fitting) == len(specs) else sorted(specs)


def _fused(published: PublishedMap, parts: dict[str, LowRank], tensors: dict[str, Tensor]) -> LowRankSpec:
    """Writes the parts on one published map: side by side in the rank, each reaching its own rows only.

    Where all share the first matrix, as after reading a fused map, they need no more rank than each of them.
    """
    lows = list(parts.values())
    first = lows[0]
    shared = all(low.down.shape == first.down.shape and torch.equal(low.down, first.down) for low in lows)
    downs = [first.down] if shared else [low.down for low in lows]
    rank = sum(len(down) for down in downs)
    scale = first.spec.scale
    up = torch.zeros(published.rows, rank, dtype=first.up.dtype)
    column = 0
    for path, low in parts.items():
        width = low.spec.rank
        up[published.parts[path], column : column + width] = low.up.detach() * (low.spec.scale / scale)
        column += 0 if shared else width
    key = f"{PREFIX}{published.name}."
    tensors[f"{key}lora_A.weight"] = torch.cat([down.detach() for down in downs])
    tensors[f"{key}lora_B.weight"] = up
    if first.magnitude is not None:
        if len(parts) < len(published.parts):
            raise BadInput(f"PEFT cannot express DoRA on a part of {published.name!r}", remedy="adapt all of its parts")
        lengths = torch.empty(published.rows)
        for path, low in parts.items():
            assert low.magnitude is not None
            lengths[published.parts[path]] = low.magnitude.detach().float()
        tensors[f"{key}lora_magnitude_vector"] = lengths
    alpha = scale * (rank**0.5 if first.spec.rank_stabilised else rank)
    return replace(first.spec, rank=rank, alpha=round(alpha, 9))


def load_adapter(model: Transformer, family: Family, folder: str | Path, name: str = "default") -> list[str]:
    """Puts the adapter of a folder onto a network, as the one that acts.

    Args:
        model: The network of its base.
        family: The base's published layout.
        folder: The adapter.
        name: What to call it.

    Returns:
        What the user should know, in sentences.

    Raises:
        MissingResource: A file is missing.
        BadInput: It is damaged, of another model, or of a kind that is not supported.
    """
    folder = Path(folder)
    where = str(folder / WEIGHTS)
    config = read_config(read_json(folder / ADAPTER_CONFIG), str(folder / ADAPTER_CONFIG))
    tensors = {key: tensor.float() for key, tensor in read_tensors(folder / WEIGHTS).items()}
    if config.kind == "prompt":
        if set(tensors) != {PROMPT} or tensors[PROMPT].dim() != 2:
            raise BadInput(f"a prompt adapter holds {PROMPT!r} alone, this one {sorted(tensors)[:3]}", where=where)
        attach_prompt(model, tensors[PROMPT])
        return []
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = LORA_NAME.fullmatch(key.removeprefix(PREFIX))
        if found:
            grouped[found[1]][found[2]] = tensor
        elif any(part in key.split(".") for part in config.replaced):
            whole[key.removeprefix(PREFIX).replace(".modules_to_save.default", "")] = tensor
        else:
            raise BadInput(f"the tensor {key!r} is none that an adapter has", where=where)
    maps = published_maps(family, model.config, linear_maps(model))
    specs: dict[str, LowRankSpec] = {}
    pieces: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    for published, mine in grouped.items():
        if published not in maps:
            raise BadInput(
                f"the adapter changes {published!r}, which is no linear map in the blocks of this base", where=where
            )
        _parts(maps[published], mine, config, where, specs, pieces)
    _check_shapes(model, pieces, where)
    lows = attach(model, specs, name)
    with torch.no_grad():
        for path, (down, up, magnitude) in pieces.items():
            lows[path].down.copy_(down)
            lows[path].up.copy_(up)
            if magnitude is not None:
                own = lows[path].magnitude
                assert own is not None
                own.copy_(magnitude)
    return _replace(model, family, whole, where)


def _parts(
    published: PublishedMap,
    tensors: dict[str, Tensor],
    config: AdapterConfig,
    where: str,
    specs: dict[str, LowRankSpec],
    pieces: dict[str, tuple[Tensor, Tensor, Tensor | None]],
) -> None:
    """Takes the rows of each of our maps out of what was made for the published one."""
    down, up, magnitude = tensors.get("A"), tensors.get("B"), tensors.get("magnitude_vector")
    if down is None or up is None or down.dim() != 2 or up.dim() != 2:
        raise BadInput(f"one of both matrices for {published.name!r} is missing or no matrix", where=where)
    spec = config.spec_of(published.name)
    if spec.decomposed != (magnitude is not None):
        raise BadInput(f"use_dora and the tensors for {published.name!r} contradict each other", where=where)
    if len(down) != spec.rank or up.shape != (published.rows, spec.rank):
        raise BadInput(
            f"the matrices for {published.name!r} have the shapes {tuple(down.shape)} and {tuple(up.shape)}, expected"
            f" were rank {spec.rank} and {published.rows} rows",
            where=where,
            remedy="the adapter belongs to another model",
        )
    for path, rows in published.parts.items():
        specs[path] = spec
        pieces[path] = (down, up[rows], None if magnitude is None else magnitude.flatten()[rows])


def _check_shapes(model: Transformer, pieces: dict[str, tuple[Tensor, Tensor, Tensor | None]], where: str) -> None:
    maps = linear_maps(model)
    for path, (down, _, _) in pieces.items():
        if down.shape[1] != maps[path].in_features:
            raise BadInput(
                f"the adapter's matrix for {path!r} takes {down.shape[1]} values, the base's {maps[path].in_features}",
                where=where,
                remedy="the adapter belongs to another model",
            )


def _replace(model: Transformer, family: Family, whole: dict[str, Tensor], where: str) -> list[str]:
    """Puts modules that the adapter carries as a whole into the network."""
    if not whole:
        return []
    ours = family.weights_from(whole, model.config, where)
    for path, tensor in ours.items():
        owner, _, last = path.rpartition(".")
        if path == "head.weight" and model.head is None:
            continue
        module = model.get_submodule(owner)
        before: Tensor = getattr(module, last)
        if before.shape[1:] != tensor.shape[1:]:
            raise BadInput(
                f"the adapter's {path!r} has the shape {tuple(tensor.shape)}, the base's {tuple(before.shape)}",
                where=where,
            )
        module.register_parameter(last, nn.Parameter(tensor.to(before.dtype), requires_grad=False))
    model.match_vocabulary()
    return []


def open_adapter(folder: Path, dtype: torch.dtype = torch.float32, depth: int = 0) -> ModelFolder:
    """Opens an adapter folder as a model: its base with the adapter folded in.

    Args:
        folder: The adapter.
        dtype: Number type of the weights in memory.
        depth: How many adapters led here.

    Raises:
        MissingResource: The base, or a file, is missing.
        BadInput: Something is damaged or does not fit.
    """
    from zhixing.checkpoints.opening import open_model
    from zhixing.checkpoints.references import resolve_base

    if depth > MOST_DEEP:
        raise BadInput(f"adapters on adapters, more than {MOST_DEEP} deep", where=str(folder))
    if is_prompt(folder):
        raise BadInput(
            "this adapter is a learned prompt: inputs, which no weights can hold, and nothing here writes with those",
            where=str(folder),
            remedy="use it with peft; or tune with tune.method: lora, whose adapters are models like any other",
        )
    reference = base_reference(folder)
    path = resolve_base(reference, folder)
    base = open_adapter(path, dtype, depth + 1) if is_adapter(path) else open_model(path, dtype, compact=False)
    if base.family is None:
        raise BadInput("the adapter's base has no published layout", where=str(folder))
    notes = load_adapter(base.transformer, base.family, folder)
    merge(base.transformer)
    own = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model"))
    tokenizer = Tokenizer.load(folder) if own else base.tokenizer
    detail = f"an adapter on {reference}, folded into its weights"
    return ModelFolder(
        base.model.eval(), tokenizer, base.family, folder, base.generation, [*base.details, detail],
        [*base.notes, *notes],
    )  # fmt: skip
