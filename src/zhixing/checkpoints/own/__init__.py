"""Networks of our own, which no published layout describes: one small file per kind says how its folder is laid out.

Their `model_type` begins with "zhixing-". What all model folders have in common is in `checkpoints.folder`.
"""

from __future__ import annotations

from zhixing.checkpoints.own.base import OwnKind
from zhixing.checkpoints.own.ngram import NGRAM
from zhixing.checkpoints.own.recurrent import RECURRENT
from zhixing.models.network import CausalNetwork

__all__ = ["OWN", "OwnKind", "kind_of"]

OWN: dict[str, OwnKind] = {kind.name: kind for kind in (NGRAM, RECURRENT)}
"""Every kind, by its `model_type`."""


def kind_of(model: CausalNetwork) -> OwnKind:
    """Returns the kind that a network belongs to."""
    return next(kind for kind in OWN.values() if isinstance(model, kind.network))
