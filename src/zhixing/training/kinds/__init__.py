"""The kinds of network that objectives on records train: how each is built, begun from another model, and saved."""

from __future__ import annotations

from zhixing.training.kinds.base import Begun, NetworkMaker
from zhixing.training.kinds.causal import CausalMaker
from zhixing.training.kinds.encoder import EncoderMaker
from zhixing.training.kinds.scorer import ScorerMaker
from zhixing.training.kinds.seq2seq import Seq2SeqMaker
from zhixing.training.kinds.vision import VisionMaker
from zhixing.training.objectives.base import NetworkKind

__all__ = ["MAKERS", "Begun", "NetworkMaker"]

MAKERS: dict[NetworkKind, NetworkMaker] = {
    maker.name: maker
    for maker in (
        CausalMaker(),
        EncoderMaker(),
        ScorerMaker(),
        Seq2SeqMaker(),
        VisionMaker(),
    )
}
"""By the `network` of an objective."""
