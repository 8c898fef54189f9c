"""What keeps a network from learning its records by heart, applied to it from outside: frozen parts, hidden words,
weights taken back to where they began (mixout). Dropout is the network's, label smoothing and R-Drop the objective's,
averaging the loop's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.models.ragged import Ragged
from zhixing.tokenization.tokenizer import Tokenizer

TABLES = ("embedding.", "positions.", "types.")
"""Parts of a network's names that are embedding tables."""


def layer_of(name: str) -> int | None:
    """Returns the number of the layer that a parameter belongs to, None outside of all layers."""
    parts = name.split(".")
    if "blocks" in parts:
        return int(parts[parts.index("blocks") + 1])
    if "cells" in parts:  # torch's recurrent cells: weight_ih_l0_reverse
        _, _, rest = parts[-1].partition("_l")
        return int(rest.split("_")[0]) if rest[:1].isdigit() else None
    return None


def is_table(name: str) -> bool:
    """Tells whether a parameter is an embedding table."""
    return any(f".{part}" in f".{name}" for part in TABLES)


def freeze(model: nn.Module, recipe: Recipe) -> int:
    """Stops the training of the first layers and of embeddings, as the recipe says.

    Returns:
        The number of values that stay as they are.

    Raises:
        BadInput: There are not so many layers.
    """
    layers, tables = recipe.model.freeze, recipe.model.freeze_embeddings
    if not layers and not tables:
        return 0
    named = list(model.named_parameters())
    count = 1 + max((layer for name, _ in named if (layer := layer_of(name)) is not None), default=-1)
    if layers > count:
        raise BadInput(
            f"model.freeze is {layers}, but the model has {count} layers", where="model.freeze", remedy="lower it"
        )
    frozen = 0
    for name, parameter in named:
        layer = layer_of(name)
        if (layer is not None and layer < layers) or (tables and (is_table(name) or "embedding_norm" in name)):
            parameter.requires_grad_(False)
            frozen += parameter.numel()
    return frozen


def hide_words(encoder: nn.Module, share: float, tokenizer: Tokenizer) -> None:
    """Hides a share of the tokens from an encoder while it is in training (word dropout: Iyyer et al. 2015).

    Hidden tokens become [MASK], or the unknown token where there is no mask.

    Raises:
        BadInput: The tokenizer has neither.
    """
    name = tokenizer.roles.get("mask_token")
    hidden = tokenizer.token_id(name) if name else tokenizer.unknown_id
    if hidden is None:
        raise BadInput(
            "word dropout needs a mask or unknown token, and the tokenizer has neither", where="model.word_dropout"
        )
    special = torch.tensor(sorted(tokenizer.special_ids))

    def hide(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not module.training:
            return None
        batch: Ragged = arguments[0]
        chosen = torch.rand(len(batch.tokens), device=batch.tokens.device) < share
        chosen &= ~torch.isin(batch.tokens, special.to(batch.tokens.device))
        tokens = torch.where(chosen, hidden, batch.tokens)
        return (Ragged(tokens, batch.lengths, batch.types), *arguments[1:])

    encoder.register_forward_pre_hook(hide)


class Mixout:
    """Each step computes with a share of the weights as they were at the beginning (Lee et al. 2020).

    W' = (m * W_0 + (1 - m) * W - p * W_0) / (1 - p) with m ~ Bernoulli(p) for each weight: dropout towards the start
    instead of towards zero. Only matrices of layers take part.

    Args:
        model: At its beginning.
        share: p.
    """

    def __init__(self, model: nn.Module, share: float) -> None:
        self.share = share
        self._mixed = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.dim() == 2 and layer_of(name) is not None
        }
        self._start: Mapping[str, Tensor] = {name: p.detach().clone() for name, p in self._mixed.items()}

    @contextmanager
    def mixed(self) -> Iterator[None]:
        """Puts mixed weights into the model; afterwards the own ones again, with the gradients that belong to them."""
        own, kept = {}, {}
        with torch.no_grad():
            for name, parameter in self._mixed.items():
                start = self._start[name]
                keep = torch.rand_like(parameter) >= self.share
                own[name], kept[name] = parameter.detach().clone(), keep
                parameter.copy_(start + torch.where(keep, parameter - start, 0.0) / (1 - self.share))
        yield
        with torch.no_grad():
            for name, parameter in self._mixed.items():
                parameter.copy_(own[name])
                if parameter.grad is not None:
                    parameter.grad.mul_(kept[name]).div_(1 - self.share)
