"""Reward models: a decoder that goes on from another model, with a score instead of its output head."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from zhixing.checkpoints.scorer_folder import save_scorer
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.models.scorer import Scorer
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import Begun
from zhixing.training.kinds.causal import CausalMaker
from zhixing.training.objectives.base import NetworkKind, RecordObjective


class ScorerMaker:
    """Builds, begins and saves reward models."""

    name: ClassVar[NetworkKind] = "scorer"

    def __init__(self) -> None:
        self._decoders = CausalMaker()

    def resolve(self, recipe: Recipe) -> None:
        """Asks for a model to begin with; its sizes are its own."""
        if recipe.model.start is None:
            raise BadInput(
                "a reward model judges by what a language model has learned",
                where="model.start",
                remedy="name the model to begin with",
            )
        self._decoders.resolve(recipe)
        if recipe.tune.method != "full":
            raise BadInput(
                "a reward model is trained with all of its weights", where="tune.method", remedy="leave the section out"
            )

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """As for decoders."""
        return self._decoders.longest(recipe, start)

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Leaves it as it is."""
        return tokenizer

    def special_tokens(self, kind: str) -> list[str] | None:
        """The usual ones."""
        return None

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Opens the decoder and puts a score on it."""
        begun = self._decoders.begin(recipe, tokenizer, objective, start)
        if not isinstance(begun.model, Transformer):
            raise BadInput("a reward model is a Transformer", where="model.start", remedy="choose another model")
        if begun.model.head is not None:
            begun.model.head.weight.requires_grad_(False)  # not used
        begun.model = Scorer(begun.model)
        return begun

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the folder, which `transformers` opens."""
        assert isinstance(begun.model, Scorer)
        save_scorer(folder, begun.model, tokenizer, begun.family, card)
