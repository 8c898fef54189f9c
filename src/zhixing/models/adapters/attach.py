"""Puts adapters onto a network, chooses which of them act, and folds them into its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput, unknown_name
from zhixing.models.adapters.frozen import freeze
from zhixing.models.adapters.low_rank import AdaptedLinear, LowRank, LowRankSpec
from zhixing.models.layers import Linear

NAME = re.compile(r"\w[\w-]*")


def linear_maps(model: nn.Module) -> dict[str, Linear]:
    """Returns the linear maps inside the blocks by name, adapted ones as such; the output head is not among them."""
    inside = (f"{name}." for name, module in model.named_modules() if isinstance(module, AdaptedLinear))
    hidden = tuple(inside)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Linear) and name.startswith("blocks.") and not name.startswith(hidden)
    }


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Returns the maps that carry adapters, by name."""
    return {name: module for name, module in linear_maps(model).items() if isinstance(module, AdaptedLinear)}


def adapter_names(model: nn.Module) -> list[str]:
    """Returns the names of all adapters on a network, in the order in which they were attached."""
    return list(dict.fromkeys(name for module in adapted(model).values() for name in module.adapters))


_QUERY_KEY_VALUE = ("attention.query", "attention.key", "attention.value")
PUBLISHED_TARGETS: dict[str, tuple[str, ...]] = {
    "q_proj": ("attention.query",), "k_proj": ("attention.key",), "v_proj": ("attention.value",),
    "o_proj": ("attention.output",), "gate_proj": ("mlp.gate",), "up_proj": ("mlp.up",), "down_proj": ("mlp.down",),
    "qkv_proj": _QUERY_KEY_VALUE, "gate_up_proj": ("mlp.gate", "mlp.up"),
    "query_key_value": _QUERY_KEY_VALUE, "dense_h_to_4h": ("mlp.up",), "dense_4h_to_h": ("mlp.down",),
    "c_attn": _QUERY_KEY_VALUE, "c_fc": ("mlp.up",),
}  # fmt: skip
"""What published models, and so the recipes of PEFT, call the maps."""

ALL_LINEAR = "all-linear"
"""PEFT's word for all of them."""


def chosen_maps(model: nn.Module, targets: Iterable[str] | None) -> list[str]:
    """Returns the names of the maps that are meant.

    Args:
        model: The network.
        targets: Endings of names, such as "attention.query" or "down", or the names that PEFT knows them by, such as
            "q_proj" or "all-linear"; None for all linear maps of the blocks.

    Raises:
        BadInput: One fits no map.
    """
    maps = linear_maps(model)
    if targets is None:
        return list(maps)
    wanted: list[str] = []
    for target in targets:
        own = list(maps) if target == ALL_LINEAR else PUBLISHED_TARGETS.get(target, (target,))
        found = [ending for ending in own if any(_ends_with(name, ending) for name in maps)]
        wanted += found
        if len(found) < len(own):
            known = sorted({name.split(".", 2)[2] for name in maps})
            raise unknown_name("linear map", target, known, where="the adapter's targets")
    return [name for name in maps if any(_ends_with(name, target) for target in wanted)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def attach(
    model: nn.Module,
    specs: LowRankSpec | Mapping[str, LowRankSpec],
    name: str = "default",
    targets: Iterable[str] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, LowRank]:
    """Puts a new adapter onto a network, freezes everything else, and makes it the one that acts.

    Args:
        model: The network.
        specs: What each adapter looks like; or one for each map, by the map's name.
        name: What to call it.
        targets: Which maps; see `chosen_maps`. Without meaning where `specs` names them.
        generator: Where its start is drawn from.

    Returns:
        Its parts, by the name of the map.

    Raises:
        BadInput: There is one of that name already, or a target fits nothing.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"an adapter's name has letters, digits, '_' and '-', got {name!r}")
    if name in adapter_names(model):
        raise BadInput(f"there is an adapter {name!r} on this network already", remedy="give it another name")
    maps = linear_maps(model)
    wanted = dict.fromkeys(chosen_maps(model, targets), specs) if isinstance(specs, LowRankSpec) else dict(specs)
    freeze(model)
    parts: dict[str, LowRank] = {}
    for path, spec in wanted.items():
        module = maps[path]
        if not isinstance(module, AdaptedLinear):
            module = AdaptedLinear(module).train(module.training)
            owner, _, last = path.rpartition(".")
            setattr(model.get_submodule(owner), last, module)
        low = LowRank(module.base, spec, generator).to(module.base.weight.device)
        parts[path] = low
        module.adapters[name] = low
    lay_together(model)
    activate(model, {name: 1.0})
    return parts


def lay_together(model: nn.Module) -> None:
    """Lays frozen maps of one input behind one another in memory, so that one product takes them without a copy."""
    for block in model.get_submodule("blocks").children():
        for names in (("attention.query", "attention.key", "attention.value"), ("mlp.gate", "mlp.up")):
            parts = [_submodule(block, name) for name in names]
            bases = [part.base if isinstance(part, AdaptedLinear) else part for part in parts]
            weights = [base.weight for base in bases if isinstance(base, Linear)]
            if len(weights) < len(names) or any(type(weight) is not nn.Parameter for weight in weights):
                continue
            if type(weights[0].data) is not Tensor or any(weight.requires_grad for weight in weights):
                continue
            whole = torch.cat([weight.data for weight in weights])
            for weight, piece in zip(weights, torch.split(whole, [len(weight) for weight in weights]), strict=True):
                weight.data = piece


def _submodule(block: nn.Module, name: str) -> nn.Module | None:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return None


def activate(model: nn.Module, shares: Mapping[str, float]) -> None:
    """Chooses which adapters act, and how much each counts; the empty mapping leaves the frozen network alone.

    Raises:
        BadInput: There is none of that name.
    """
    known = adapter_names(model)
    for name in shares:
        if name not in known:
            raise unknown_name("adapter", name, known)
    for module in adapted(model).values():
        module.active = {name: share for name, share in shares.items() if name in module.adapters}


@contextmanager
def deactivated(model: nn.Module) -> Iterator[None]:
    """Leaves the frozen network alone for the time of the block: the reference of preference tuning, for example."""
    before = {name: dict(module.active) for name, module in adapted(model).items()}
    try:
        activate(model, {})
        yield
    finally:
        for name, module in adapted(model).items():
            module.active = before[name]


def detach(model: nn.Module) -> None:
    """Takes all adapters off; the frozen network stays."""
    for path, module in adapted(model).items():
        owner, _, last = path.rpartition(".")
        setattr(model.get_submodule(owner), last, module.base)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Folds the active adapters into the weights, which are then ordinary ones, and takes all adapters off."""
    for module in adapted(model).values():
        if module.active:
            module.base.weight = nn.Parameter(module.weight, requires_grad=False)
    detach(model)
