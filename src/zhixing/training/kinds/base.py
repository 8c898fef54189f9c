"""What a kind of network has to know how to do for a run on records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from zhixing.checkpoints.references import resolve as resolve_reference
from zhixing.core.errors import BadInput
from zhixing.core.recipe import ModelRecipe, Recipe
from zhixing.families.base import Weights
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import NetworkKind, RecordObjective


@dataclass
class Begun:
    """A network ready to be trained, and what its model folder needs beside the weights.

    Attributes:
        model: The network, initialised.
        family: The layout that it is saved in.
        longest: Tokens that it reads at most.
        facts: Its sizes, for the report.
        describe: Its sizes in a few words, for people.
        new_head: Whether the head has fresh weights.
        unused: Weights of the model that it began with which nothing here uses; they are saved again.
        notes: What the user should know, in sentences.
    """

    model: nn.Module
    family: str
    longest: int
    facts: dict[str, Any]
    describe: str
    new_head: bool = True
    unused: Weights = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        """The number of learned values."""
        return sum(parameter.numel() for parameter in self.model.parameters())


class NetworkMaker(Protocol):
    """A kind of network."""

    name: ClassVar[NetworkKind]

    def resolve(self, recipe: Recipe) -> None:
        """Fills in what the recipe's model section leaves open, without opening anything large.

        Args:
            recipe: Its sections may be changed; with `model.start`, the sizes are that model's and stay open.

        Raises:
            BadInput: A field means nothing here, or fields contradict each other.
        """

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns how many tokens the network will read at most.

        Args:
            recipe: The resolved recipe.
            start: The folder of the model to begin with, or None.
        """

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Gives a tokenizer that the run trained what this kind of network expects of it (a frame around texts)."""

    def special_tokens(self, kind: str) -> list[str] | None:
        """Returns the special tokens of a tokenizer that the run trains; None: the usual ones."""

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Builds the network, from its seed or from the folder of another model; the same every time.

        Raises:
            BadInput: The model to begin with is of another kind, or does not fit the recipe.
        """

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the model folder."""


SIZES = ("family", "depth", "width", "head_dim", "heads", "mlp_width", "tied", "init_std")
"""Fields of the model section that are those of the model that a run begins with."""


def refuse(model: ModelRecipe, keys: Sequence[str], what: str) -> None:
    """Refuses fields that mean nothing for a kind of network.

    Raises:
        BadInput: Naming the first that was given.
    """
    for key in keys:
        if getattr(model, key) != ModelRecipe.model_fields[key].default:
            raise BadInput(f"model.{key} means nothing for {what}", where=f"model.{key}", remedy="leave it out")


def resolve_start(
    model: ModelRecipe, sizes: Sequence[str], is_kind: Callable[[Path], bool], longest: Callable[[Path], int | None]
) -> None:
    """Resolves the model section of a run that goes on from another model.

    Args:
        model: The section; its context becomes that model's own, and stands in the run's recipe from now on.
        sizes: Fields that are that model's.
        is_kind: Tells whether a folder is of the right kind of network; another one is refused when it is opened.
        longest: How many tokens the model in a folder reads at most; None: any number.

    Raises:
        BadInput: A size is given.
    """
    assert model.start is not None
    for key in sizes:
        if getattr(model, key) != ModelRecipe.model_fields[key].default:
            raise BadInput(
                f"model.{key} is given, but the model's sizes are those of model.start ({model.start})",
                where=f"model.{key}",
                remedy="leave out the one or the other",
            )
    folder = resolve_reference(model.start)
    if "context" not in model.model_fields_set and folder.is_dir() and is_kind(folder):
        model.context = longest(folder) or model.context


def check_context(model: ModelRecipe, known: int | None, does: str) -> int:
    """Returns the context of the recipe.

    Args:
        model: The recipe's model section.
        known: What the model to go on from can do at most; None: anything.
        does: What it does with so many tokens, for the message.

    Raises:
        BadInput: It is longer.
    """
    if known is not None and model.context > known:
        raise BadInput(
            f"model.context is {model.context}, but the model {does} at most {known} tokens",
            where="model.context",
            remedy="lower it, or leave it out",
        )
    return model.context


def resolve_sizes(model: ModelRecipe, head_dim: int = 64) -> None:
    """Fills what the sizes of a Transformer leave open, from its depth; embeddings are tied unless told otherwise.

    Args:
        model: The recipe's model section, filled in place.
        head_dim: Width of a head where nothing is said.

    Raises:
        BadInput: The width is not a multiple of the heads.
    """
    model.width = model.width or 64 * model.depth
    model.heads = model.heads or max(1, model.width // (model.head_dim or head_dim))
    if model.width % model.heads:
        raise BadInput(
            f"model.width ({model.width}) is not a multiple of model.heads ({model.heads})",
            where="model",
            remedy="choose heads that divide the width",
        )
    model.head_dim = model.width // model.heads
    model.mlp_width = model.mlp_width or 4 * model.width
    model.tied = True if model.tied is None else model.tied
