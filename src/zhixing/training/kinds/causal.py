"""Decoders that objectives on records train: from scratch, or going on from a model with all or few of its weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from zhixing.checkpoints.adapters import is_adapter, save_adapter
from zhixing.checkpoints.folder import read_values, save_folder
from zhixing.checkpoints.model_tokenizer import open_tokenizer
from zhixing.checkpoints.opening import configuration_of, open_model
from zhixing.checkpoints.own import OWN
from zhixing.checkpoints.references import is_remote
from zhixing.checkpoints.references import resolve as resolve_reference
from zhixing.core.errors import BadInput
from zhixing.core.recipe import ModelRecipe, Recipe, TuneRecipe
from zhixing.families import Family
from zhixing.models.adapters import merge, prompted
from zhixing.models.config import TransformerConfig
from zhixing.models.network import CausalNetwork, NetworkConfig
from zhixing.models.transformer import Transformer
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import Begun
from zhixing.training.networks import build_network, network_config
from zhixing.training.objectives.base import NetworkKind, RecordObjective
from zhixing.training.tuning import apply_tuning, check_tuning, start_new_tokens, stretched

SIZES = (
    "family", "depth", "width", "head_dim", "heads", "kv_heads", "mlp_width", "hidden", "tied", "logit_softcap",
    "rope_theta", "init_std", "embeddings", "zero_init_outputs",
)  # fmt: skip
"""Fields of the model section that are those of the model that a run begins with."""

ENCODER_FIELDS = ("head_dropout", "word_dropout")
MOST_TOKENS = 1 << 20
"""What a network without a longest input is taken to read."""


@dataclass
class TunedNetwork(Begun):
    """A decoder in tuning.

    Attributes:
        base: The reference of the model that it began with, as an adapter will name it; None from scratch.
        method: The recipe's `tune.method`.
        publish: An adapter, or the whole model.
        published: The layout of its family.
        generation: The base's generation_config.json.
        new_tokens: Tokens that its tables got in addition.
    """

    base: str | None = None
    method: str = "full"
    publish: str = "merged"
    published: Family | None = None
    generation: dict[str, Any] | None = None
    new_tokens: list[str] = field(default_factory=list)


class CausalMaker:
    """Builds, begins and saves decoders."""

    name: ClassVar[NetworkKind] = "causal"

    def resolve(self, recipe: Recipe) -> None:
        """With `model.start` the sizes are refused, because they are that model's; what else is open is filled in."""
        model, plain = recipe.model, ModelRecipe.model_fields
        refused = [*ENCODER_FIELDS, *(SIZES if model.start is not None else ())]
        for key in refused:
            if getattr(model, key) != plain[key].default:
                why = f"that of model.start ({model.start})" if key in SIZES else "of encoders"
                raise BadInput(f"model.{key} is {why}", where=f"model.{key}", remedy="leave it out")
        check_tuning(recipe)
        if model.start is None:
            network_config(model, vocab_size=256)  # contradictions show now, whatever the vocabulary will be
            return
        if "context" not in model.model_fields_set:  # that model's own, which stands in the run's recipe from now on
            model.context = min(_configuration(resolve_reference(model.start)).context, MOST_TOKENS)

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns the model's context, or the recipe's where that is given, without the learned tokens in front."""
        context = recipe.model.context
        if start is not None:
            own = _configuration(start)
            if isinstance(own, TransformerConfig):
                stretched(own, recipe.model, recipe.tune)
            else:
                context = min(context, own.context, MOST_TOKENS)
        taken = recipe.tune.prompt_tokens if recipe.tune.method == "prompt" else 0
        if context <= taken + 1:
            raise BadInput(
                f"{taken} learned tokens leave no room in a context of {context}", where="tune.prompt_tokens"
            )
        return context - taken

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Leaves it as it was trained."""
        return tokenizer

    def special_tokens(self, kind: str) -> list[str] | None:
        """Takes the usual ones."""
        return None

    def begin(
        self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None
    ) -> TunedNetwork:
        """Builds the network, or opens the model to go on from and adapts it."""
        if start is None:
            config = network_config(recipe.model, tokenizer.vocab_size)
            fresh = build_network(config)
            fresh.initialise(torch.Generator().manual_seed(recipe.train.seed))
            return self._begun(fresh, recipe, recipe.model.family, None)
        opened = open_model(start, compact=recipe.tune.bits is not None)
        known = opened.tokenizer
        if known is not None and not recipe.tokenizer.add_tokens and known.fingerprint != tokenizer.fingerprint:
            raise BadInput("the tokenizer is not that of model.start", where=str(start))
        if opened.family is None:
            if recipe.tune != TuneRecipe():
                raise BadInput(
                    f"{recipe.model.start} is no Transformer in a published layout: all of it is trained, or nothing",
                    where="tune",
                    remedy="leave the section out",
                )
            begun = self._begun(opened.model, recipe, "own", None)
            begun.notes, begun.generation = opened.notes, opened.generation
            return begun
        model = opened.transformer
        wanted = stretched(model.config, recipe.model, recipe.tune)
        if wanted != model.config:
            made = Transformer(wanted)
            made.load_state_dict(model.state_dict())
            model = made
        new: list[str] = []
        if recipe.tokenizer.add_tokens:
            new = start_new_tokens(model, tokenizer, open_tokenizer(start))
        notes = apply_tuning(model, recipe, tokenizer, bool(new))
        begun = self._begun(model, recipe, opened.family.name, opened.family)
        begun.notes = [*opened.notes, *notes]
        begun.generation, begun.new_tokens = opened.generation, new
        begun.base = _reference(recipe.model.start or "", start)
        table = prompted(model)
        if table is not None:
            objective.prefix = table.prompt_ids
        return begun

    def _begun(self, model: CausalNetwork, recipe: Recipe, name: str, family: Family | None) -> TunedNetwork:
        tune = recipe.tune
        publish = tune.publish if tune.method == "lora" else "adapter" if tune.method == "prompt" else "merged"
        sizes: dict[str, Any] = dataclasses.asdict(cast(Any, model.config))
        return TunedNetwork(
            model, name, model.config.context, sizes, model.config.describe(), method=tune.method, publish=publish,
            published=family,
        )  # fmt: skip

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the adapter, which `peft` opens, or the model folder, which `transformers` opens."""
        assert isinstance(begun, TunedNetwork)
        model = cast(CausalNetwork, begun.model)
        if isinstance(model, Transformer) and begun.published is not None:
            if begun.publish == "adapter" and begun.base is not None:
                replaced = {}
                if begun.new_tokens:
                    replaced = {"embedding.weight": model.embedding.weight}
                    replaced |= {} if model.head is None else {"head.weight": model.head.weight}
                save_adapter(
                    folder, model, begun.published, begun.base, tokenizer=tokenizer, card=card, replaced=replaced
                )  # fmt: skip
                return
            merge(model)
        save_folder(folder, model, tokenizer, begun.family, card=card, generation=begun.generation)


def _configuration(path: Path) -> NetworkConfig:
    """Returns the sizes of a model on this disk, which may be a network of our own."""
    own = path.is_dir() and not is_adapter(path) and str(read_values(path).get("model_type")) in OWN
    return open_model(path).model.config if own else configuration_of(path)


def _reference(given: str, start: Path) -> str:
    """Returns how an adapter names its base: as the recipe does, but a path on this disk in full, and of a run the
    model in it, which is what `peft` opens."""
    if is_remote(given):
        return given
    path = Path(given).expanduser()
    inner = path / "model"
    if not (path / "config.json").is_file() and not is_adapter(path) and inner.is_dir():
        path = inner
    return str((path if path.exists() else start).resolve())
