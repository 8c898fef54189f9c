"""Low-rank adapters: LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023), DoRA (Liu et al. 2024), and adapted maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models import ops
from zhixing.models.adapters.products import Term, adapted_linear
from zhixing.models.dropout import dropout
from zhixing.models.layers import Linear
from zhixing.models.quantized import BlockMatrix


@dataclass(frozen=True)
class LowRankSpec:
    """What a low-rank adapter looks like.

    Attributes:
        rank: Rank of the addition.
        alpha: The addition is scaled by alpha / rank; or by alpha / sqrt(rank) when rank-stabilised.
        dropout: Share of the adapter's input that is zeroed in training.
        rank_stabilised: rsLoRA's scale.
        decomposed: DoRA: the sum is brought back to a learned length, row by row.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    rank_stabilised: bool = False
    decomposed: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInput(f"an adapter's rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise BadInput(f"an adapter's alpha must be above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"an adapter's dropout must be at least 0 and below 1, got {self.dropout}")

    @property
    def scale(self) -> float:
        """The factor on the product of both matrices."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LowRank(nn.Module):
    """The new weights of one adapter on one map; without effect until they are trained.

    Args:
        base: The map.
        spec: What to build.
        generator: Where the start of `down` is drawn from.
    """

    magnitude: nn.Parameter | None

    def __init__(self, base: Linear, spec: LowRankSpec, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.spec = spec
        # As published: Kaiming's uniform start with a = sqrt(5), which is 1 / sqrt(in).
        bound = base.in_features**-0.5
        start = torch.rand((spec.rank, base.in_features), generator=generator) * (2 * bound) - bound
        self.down = nn.Parameter(start)
        self.up = nn.Parameter(torch.zeros(base.out_features, spec.rank))
        self.magnitude = nn.Parameter(row_norms(base.weight)) if spec.decomposed else None

    def delta(self) -> Tensor:
        """Returns what is added to the frozen weight before any decomposition, (out, in)."""
        return (self.up @ self.down) * self.spec.scale


def row_norms(weight: Tensor) -> Tensor:
    """Returns the length of each row, (out)."""
    norms: Tensor = torch.linalg.vector_norm(unpacked(weight), dim=1)
    return norms


def unpacked(weight: Tensor) -> Tensor:
    """Returns the values of a frozen weight in float32; its own memory where that is what it is."""
    values = weight.detach()
    return (values.expanded() if isinstance(values, BlockMatrix) else values).float()


class AdaptedLinear(Linear):
    """A frozen map with any number of named adapters, of which some are active, each with a weight.

    Args:
        base: The map.
    """

    def __init__(self, base: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.adapters = nn.ModuleDict()
        self.active: dict[str, float] = {}
        self._squares: Tensor | None = None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The map as it acts now, active adapters included: what packs, counts or writes weights sees these."""
        weight = self.base.weight
        if not self.active:
            return weight
        plain = unpacked(weight)
        whole = plain
        for low, share in self._chosen():
            if low.magnitude is None:
                whole = whole + low.delta().detach() * share
            else:
                turned = plain + low.delta().detach()
                turned = turned * (low.magnitude.detach() / row_norms(turned))[:, None]
                whole = whole + (turned - plain) * share
        return whole.to(weight.dtype)

    @property
    def bias(self) -> nn.Parameter | None:  # type: ignore[override]
        """The map's bias."""
        return self.base.bias

    def low_rank(self, name: str) -> LowRank:
        """Returns one of its adapters."""
        found = self.adapters[name]
        assert isinstance(found, LowRank)
        return found

    def _chosen(self) -> list[tuple[LowRank, float]]:
        return [(self.low_rank(name), share) for name, share in self.active.items()]

    @property
    def _decomposed(self) -> bool:
        return any(low.magnitude is not None for low, _ in self._chosen())

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        return self.joined(x, (self,))

    @classmethod
    def joined(cls, x: Tensor, maps: Sequence[Linear]) -> Tensor:
        """Maps one input by several maps, adapted or not, whose outputs lie side by side."""
        bases = [each.base if isinstance(each, AdaptedLinear) else each for each in maps]
        special = any(isinstance(each, AdaptedLinear) and each._needs_own_way() for each in maps)
        if special:
            return torch.cat([each._own_way(x) if isinstance(each, AdaptedLinear) else each(x) for each in maps], -1)
        terms: list[Term] = []
        factors: list[Tensor | None] = []
        start = 0
        for each in maps:
            factor = None
            if isinstance(each, AdaptedLinear):
                for low, share in each._chosen():
                    terms.append(Term(low.down, low.up, low.spec.scale * share, start))
                    factor = each._lengthening(low) if low.magnitude is not None else None
            factors.append(factor)
            start += each.out_features
        if not terms:
            return Linear.joined(x, bases)
        y = adapted_linear(x, [base.weight for base in bases], terms)
        if any(factor is not None for factor in factors):
            ones = [torch.ones(each.out_features, dtype=y.dtype, device=y.device) for each in maps]
            y = y * torch.cat([one if factor is None else factor for one, factor in zip(ones, factors, strict=True)])
        return y if bases[0].bias is None else y + torch.cat([base.bias for base in bases])

    def _needs_own_way(self) -> bool:
        """Whether the joined product does not do: dropout, or a decomposed adapter in part or beside another one."""
        chosen = self._chosen()
        dropped = self.training and any(low.spec.dropout for low, _ in chosen)
        return dropped or (self._decomposed and (len(chosen) > 1 or chosen[0][1] != 1))

    def _own_way(self, x: Tensor) -> Tensor:
        """The plain formulas, for what is rare."""
        plain = ops.joined_linear(x, [self.base.weight])
        y = plain
        for low, share in self._chosen():
            seen = dropout(x, low.spec.dropout) if self.training else x
            added = F.linear(F.linear(seen, low.down), low.up) * low.spec.scale
            # A decomposed adapter turns and lengthens the whole map, and what it adds is the difference.
            y = y + share * (added if low.magnitude is None else (plain + added) * self._lengthening(low) - plain)
        return y if self.bias is None else y + self.bias

    def _lengthening(self, low: LowRank) -> Tensor:
        """Returns m / ||W + s B A|| per row, the norm without gradient (Liu et al. 2024, section 4.3).

        By ||W + s B A||^2 = ||W||^2 + 2 s <W A^T, B> + s^2 <B (A A^T), B>, which never makes a matrix of W's size.
        """
        assert low.magnitude is not None
        with torch.no_grad():
            if self._squares is None:
                self._squares = row_norms(self.base.weight).square_()
            scale, down, up = low.spec.scale, low.down, low.up
            crossed = ops.product(down, self.base.weight).t()  # (out, rank)
            squares = self._squares + 2 * scale * (crossed * up).sum(1)
            squares += scale**2 * ((up @ (down @ down.t())) * up).sum(1)
            norms = squares.clamp_min_(1e-24).sqrt_()
        return low.magnitude / norms
