"""Optimizers: Muon for the matrices of the blocks, AdamW for everything else, under one roof with a plain state.

Muon (Jordan et al. 2024) moves a matrix by the orthogonal factor of its momentum (`training.orthogonalise`), all
matrices of one shape in one batch. What is not here: learning-rate schedules and gradient accumulation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import cast

import torch
from torch import Tensor, nn

from zhixing.core.recipe import OptimizerRecipe
from zhixing.training.orthogonalise import orthogonalise
from zhixing.training.regularisers import is_table, layer_of

ATTENTION = (".attention.query.", ".attention.key.", ".attention.value.", ".attention.output.")


class PlainKind(Enum):
    """What AdamW trains: norms and biases, embedding tables, other matrices, the head."""

    VECTOR = "vector"
    TABLE = "table"
    MATRIX = "matrix"
    HEAD = "head"


@dataclass(frozen=True)
class AdamMoments:
    """Running means of a gradient and its square, and the number of steps that they have seen."""

    first: Tensor
    second: Tensor
    step: Tensor

    @classmethod
    def of(cls, parameter: Tensor) -> AdamMoments:
        """Returns the moments before the first step."""
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        return cls(torch.zeros_like(parameter), torch.zeros_like(parameter), step)


class MuonAdamW:
    """Muon on the block matrices and AdamW (Loshchilov & Hutter 2019) on the rest, or AdamW on all.

    Args:
        parameters: (name, parameter) pairs; those without a gradient are left out.
        recipe: Rates and decays; all learning rates must be resolved.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], recipe: OptimizerRecipe) -> None:
        self.recipe = recipe
        self.named = {name: parameter for name, parameter in parameters if parameter.requires_grad}
        shapes: dict[tuple[int, int], list[str]] = defaultdict(list)
        plain: list[str] = []
        for name, parameter in self.named.items():
            if recipe.name == "muon" and "blocks" in name.split(".") and parameter.dim() == 2:
                shapes[(parameter.shape[0], parameter.shape[1])].append(name)
            else:
                plain.append(name)
        self.matrix_groups = list(shapes.values())
        self.momentum = [torch.zeros(len(g), *self.named[g[0]].shape) for g in self.matrix_groups]
        self.momentum = [m.to(self.named[g[0]].device) for m, g in zip(self.momentum, self.matrix_groups, strict=True)]
        layers = 1 + max((layer for name in self.named if (layer := layer_of(name)) is not None), default=-1)
        # One group for each kind and, where deeper layers learn faster, for each depth.
        self.plain: dict[tuple[PlainKind, float], list[str]] = defaultdict(list)
        for name in sorted(plain, key=lambda name: list(PlainKind).index(self._kind(name))):
            self.plain[self._kind(name), self._layer_share(name, layers)].append(name)
        self.moments = {name: AdamMoments.of(self.named[name]) for name in plain}

    def _kind(self, name: str) -> PlainKind:
        """Sorts the parameters that AdamW trains by what their rate and decay depend on."""
        if self.named[name].dim() < 2:
            return PlainKind.VECTOR
        if name.startswith("head."):
            return PlainKind.HEAD
        return PlainKind.TABLE if is_table(name) else PlainKind.MATRIX

    def _layer_share(self, name: str, layers: int) -> float:
        """Returns the factor on a parameter's rate: `layer_decay` for each layer between it and the head (Howard &
        Ruder 2018; as in ELECTRA's fine-tuning)."""
        if self.recipe.layer_decay == 1 or name.startswith("head."):
            return 1.0
        layer = layer_of(name)
        above = layers - layer if layer is not None else 0 if "final_norm" in name else layers + 1
        return float(self.recipe.layer_decay**above)

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Applies the gradients at `share` of the peak learning rates."""
        for (kind, layer_share), names in self.plain.items():
            # What no record of the step has touched (the half of a network that another modality reads) has none.
            touched = [name for name in names if self.named[name].grad is not None]
            if touched:
                self._adamw(kind, touched, share * layer_share)
        for names, momentum in zip(self.matrix_groups, self.momentum, strict=True):
            self._muon(names, momentum, share)

    def _adamw(self, kind: PlainKind, names: list[str], share: float) -> None:
        recipe = self.recipe
        rate = recipe.learning_rate
        if kind is PlainKind.HEAD and recipe.head_learning_rate is not None:
            rate = recipe.head_learning_rate
        assert rate is not None
        parameters: list[Tensor] = [self.named[name] for name in names]
        moments = [self.moments[name] for name in names]
        torch._foreach_add_([moment.step for moment in moments], 1)
        # PyTorch's own fused kernel, called without torch.optim, whose import alone takes two seconds.
        torch._fused_adamw_(
            parameters,
            cast(list[Tensor], [parameter.grad for parameter in parameters]),
            [moment.first for moment in moments],
            [moment.second for moment in moments],
            [],
            [moment.step for moment in moments],
            lr=rate * share,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            # Norm scales and biases are not decayed: shrinking them does not regularise the map (Devlin et al. 2019).
            weight_decay=recipe.weight_decay if self._decays(kind) else 0.0,
            eps=recipe.eps,
            amsgrad=False,
            maximize=False,
        )

    def _decays(self, kind: PlainKind) -> bool:
        return kind is not PlainKind.VECTOR and (kind is not PlainKind.TABLE or self.recipe.decay_embeddings)

    def _muon(self, names: list[str], momentum: Tensor, share: float) -> None:
        recipe = self.recipe
        assert recipe.matrix_learning_rate is not None
        parameters: list[Tensor] = [self.named[name] for name in names]
        gradients = torch.stack([p.grad.float() for p in parameters if p.grad is not None])  # (n, rows, columns)
        momentum.lerp_(gradients, 1 - recipe.momentum)
        nesterov = gradients.lerp_(momentum, recipe.momentum)
        update = orthogonalise(nesterov, recipe.newton_schulz_steps, recipe.newton_schulz_bound)
        rows, columns = momentum.shape[1:]
        rate = recipe.matrix_learning_rate * share
        if recipe.matrix_weight_decay:
            torch._foreach_mul_(parameters, 1 - rate * recipe.matrix_weight_decay)
        # sqrt(rows / columns) keeps the change of a tall map's output as large as a square one's.
        scales = [recipe.attention_scale if any(part in name for part in ATTENTION) else 1.0 for name in names]
        update *= torch.tensor(scales, device=update.device).view(-1, 1, 1)
        torch._foreach_add_(parameters, list(update.unbind()), alpha=-rate * max(1.0, rows / columns) ** 0.5)

    def zero_grad(self) -> None:
        """Drops all gradients."""
        for parameter in self.named.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Returns every tensor that the next step depends on, by name."""
        tensors: dict[str, Tensor] = {}
        for names, momentum in zip(self.matrix_groups, self.momentum, strict=True):
            tensors |= {f"momentum.{name}": row for name, row in zip(names, momentum.unbind(), strict=True)}
        for name, moment in self.moments.items():
            tensors |= {f"{key}.{name}": value for key, value in vars(moment).items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Restores what `state` returned."""
        for names, momentum in zip(self.matrix_groups, self.momentum, strict=True):
            for name, row in zip(names, momentum.unbind(), strict=True):
                row.copy_(tensors[f"momentum.{name}"])
        for name, moment in self.moments.items():
            for key, value in vars(moment).items():
                value.copy_(tensors[f"{key}.{name}"])


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float | None) -> float:
    """Scales all gradients so that their joint norm is at most `largest`; returns the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch._foreach_norm(gradients)
    norm = torch.linalg.vector_norm(torch.stack(list(norms)))
    if largest is not None and norm > largest:
        torch._foreach_mul_(gradients, largest / (norm + 1e-6))
    return float(norm)
