"""Decoders that predict the next token: begun from another model or from scratch, for objectives on records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from zhixing.checkpoints.folder import load_folder, save_folder
from zhixing.core.errors import BadInput
from zhixing.core.files import read_json
from zhixing.core.recipe import ModelRecipe, Recipe
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import Begun
from zhixing.training.networks import build_network, network_config
from zhixing.training.objectives.base import NetworkKind, RecordObjective

SIZES = (
    "family", "depth", "width", "head_dim", "heads", "kv_heads", "mlp_width", "hidden", "tied", "logit_softcap",
    "rope_theta", "init_std", "embeddings", "zero_init_outputs",
)  # fmt: skip
"""Fields of the model section that are those of the model that a run begins with."""

MOST_TOKENS = 1 << 20
"""What a network without a longest input is taken to read."""


@dataclass
class BegunDecoder(Begun):
    """A decoder ready to be trained.

    Attributes:
        generation: generation_config.json of the model that it began with; None for a new one.
    """

    generation: dict[str, Any] | None = field(default=None)


class CausalMaker:
    """Builds, begins and saves decoders."""

    name: ClassVar[NetworkKind] = "causal"

    def resolve(self, recipe: Recipe) -> None:
        """With `model.start` the sizes are refused, because they are that model's; `context` bounds what is read."""
        model = recipe.model
        if model.start is None:
            network_config(model, vocab_size=256)  # contradictions show now, whatever the vocabulary will be
            return
        for key in SIZES:
            if getattr(model, key) != ModelRecipe.model_fields[key].default:
                raise BadInput(
                    f"model.{key} is that of model.start ({model.start})",
                    where=f"model.{key}",
                    remedy="leave it out, or leave out model.start to begin with a new model",
                )

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns the model's context; `model.context` may lower it."""
        if start is None:
            return recipe.model.context
        values = read_json(start / "config.json")
        names = ("max_position_embeddings", "n_positions", "context", "sequence_len")
        found = [values[name] for name in names if isinstance(values.get(name), int)]
        known = min(found, default=MOST_TOKENS)
        return min(known, recipe.model.context) if "context" in recipe.model.model_fields_set else known

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Leaves a trained tokenizer as it is."""
        return tokenizer

    def special_tokens(self, kind: str) -> list[str] | None:
        """The usual ones."""
        return None

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Builds the network, from its seed or from a model folder."""
        if start is None:
            config = network_config(recipe.model, tokenizer.vocab_size)
            model: CausalNetwork = build_network(config)
            cast(Any, model).initialise(torch.Generator().manual_seed(recipe.train.seed))
            return BegunDecoder(
                model, recipe.model.family, config.context, dataclasses.asdict(config), config.describe()
            )
        opened = load_folder(start)
        model, given = opened.model, recipe.model
        drops = {key: getattr(given, key) for key in ("dropout", "attention_dropout") if key in given.model_fields_set}
        if any(drops.values()):
            raise BadInput(
                "a model that is gone on with is trained without dropout", where="model.dropout", remedy="leave it out"
            )
        if opened.tokenizer is not None and opened.tokenizer.fingerprint != tokenizer.fingerprint:
            raise BadInput("the tokenizer is not that of model.start", where=str(start))
        config_values: dict[str, Any] = dataclasses.asdict(cast(Any, model.config))
        return BegunDecoder(
            model, opened.family.name if opened.family else "own", model.config.context, config_values,
            model.config.describe(), notes=opened.notes, generation=opened.generation,
        )  # fmt: skip

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the model folder."""
        generation = begun.generation if isinstance(begun, BegunDecoder) else None
        model = cast(CausalNetwork, begun.model)
        save_folder(folder, model, tokenizer, begun.family, card=card, generation=generation)
