"""What every objective shares: what it says about itself, and the interface that the loop calls.

There are two kinds. A *packed* objective (`Causal`) reads blocks of running text from token shards. A *record*
objective reads records of a shape: it checks them, turns each into encoded examples, makes batches of those, and says
how well a network does on held-out ones. Both give the loop a sum of losses; the loop divides by the targets of the
whole step. How a new one is written is told in docs/objectives.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from zhixing.core.recipe import Recipe
from zhixing.data.batches import Batch
from zhixing.data.examples import Example, ExampleStore
from zhixing.data.length_batches import LengthSampler, RawBatch
from zhixing.data.shapes import Shape
from zhixing.models.heads import HeadConfig
from zhixing.tokenization.tokenizer import Tokenizer

NetworkKind = Literal["causal", "scorer", "encoder", "seq2seq", "vision"]
"""What an objective trains: see `training.kinds`."""


class Counted(Protocol):
    """A batch on its device."""

    @property
    def target_count(self) -> int:
        """How many targets carry loss."""


class Sampler(Protocol):
    """Where raw batches come from."""

    def next(self) -> Any:
        """Returns the next batch; there is always one."""

    def state_dict(self) -> dict[str, Any]:
        """Returns where the sampler stands, as plain JSON values, `epoch` and `position` among them."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on exactly where `state_dict` was taken."""


@dataclass(frozen=True)
class TensorBatch:
    """A batch of token blocks on the device that trains.

    Attributes:
        tokens: (batch, block).
        targets: The wanted next tokens, (batch, block).
        segments: The document of each token, (batch, block), or None.
        target_count: How many targets carry loss.
    """

    tokens: Tensor
    targets: Tensor
    segments: Tensor | None
    target_count: int

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> TensorBatch:
        """Copies a batch to the device."""
        segments = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
        tokens, targets = torch.from_numpy(batch.tokens), torch.from_numpy(batch.targets)
        return cls(tokens.to(device), targets.to(device), segments, batch.target_count)


class Objective(Protocol):
    """What the loop needs: raw batches to the device, and the loss summed over their targets."""

    name: ClassVar[str]

    def to_device(self, raw: Any, device: torch.device) -> Any:
        """Makes a batch with `target_count` of what the sampler gave."""

    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        """Returns the loss summed over the batch's targets, in nats."""


class TargetWriter(Protocol):
    """Writes targets with an encoder-decoder."""

    def __call__(
        self, model: Any, sources: Any, end: int, longest: int, beams: int, length_penalty: float
    ) -> Sequence[Sequence[int]]:
        """Returns the likeliest target behind each source.

        Args:
            model: The network, in evaluation mode.
            sources: What it reads, such as a list of token ids for each text.
            end: The token that ends a target.
            longest: Tokens that a target has at most.
            beams: 1 takes the likeliest token each time.
            length_penalty: Of beam search.
        """


@dataclass(frozen=True)
class Encoded:
    """What became of one record.

    Attributes:
        examples: One, several (windows over a long text), or none (a record with nothing to learn from).
        cut: Tokens that did not fit and were left out; whether that is allowed is `data.too_long`'s to say.
    """

    examples: tuple[Example, ...]
    cut: int = 0


@dataclass(frozen=True)
class Written:
    """An answer that a network wrote.

    Attributes:
        tokens: Its tokens, with the one that ended it.
        text: The same as text, without that one.
        finished: Whether it was ended, rather than cut off.
    """

    tokens: list[int]
    text: str
    finished: bool


class Writer(Protocol):
    """Writes with a network as it is at that moment."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        samples: int,
        seeds: Sequence[int],
        temperature: float,
        max_tokens: int,
    ) -> list[list[Written]]:
        """Returns so many answers to each prompt, drawn by the prompt's own seed; a temperature of 0 always takes the
        likeliest token."""


@dataclass(frozen=True)
class Setting:
    """What an objective is given before the first step.

    Attributes:
        model: The network as it begins, on its device.
        train: The training examples.
        validation: The held-out ones.
        folder: The run folder, for what must be kept.
        writer: Writes with the network in training.
    """

    model: Any
    train: ExampleStore
    validation: ExampleStore
    folder: Path
    writer: Writer


class RecordObjective(ABC):
    """A way of training on records.

    A class attribute says each fact about it; `zhixing train --objectives` lists them.

    Attributes:
        name: What `train.objective` calls it.
        summary: One line for people.
        shapes: The record shapes that it reads.
        network: The kind of network.
        family: The layout of a new one where the recipe names none; None: the kind's usual one.
        options: The fields of the recipe's `task` section that it knows.
        measures: Its measures on held-out records, the one that decides first; `loss` is always there too. Those are
            names of `zhixing score` (`evaluation.metrics.registry`), except for
        own: the measures that it computes itself (`own_measures`).
        lower: The measures of which less is better.
        sample: A record as it may stand in a JSONL file.
        fields: Number type of each field of its examples.
        most_characters: A record with a longer text is wrong; None: texts of any length are cut into windows.
        special_tokens: Tokens of its own that a tokenizer trained by the run has.
        final: Whether what is measured now is the finished model: predictions may take their time.
        target_writer: Writes targets, for objectives of encoder-decoders; given by the workflow.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    shapes: ClassVar[tuple[Shape, ...]]
    network: ClassVar[NetworkKind]
    family: ClassVar[str | None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    measures: ClassVar[tuple[str, ...]] = ()
    own: ClassVar[frozenset[str]] = frozenset()
    lower: ClassVar[frozenset[str]] = frozenset()
    sample: ClassVar[Mapping[str, Any]]
    fields: ClassVar[Mapping[str, str]]
    most_characters: ClassVar[int | None] = 100_000
    special_tokens: ClassVar[tuple[str, ...]] = ()
    final: bool = False
    target_writer: TargetWriter | None = None

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.task = recipe, recipe.task
        self.longest = recipe.model.context
        self.prefix: list[int] = []
        """Tokens in front of every text, of a decoder with a learned prompt."""

    def begin_with(self, start: Path | None) -> None:  # noqa: B027 - most records can be read without it
        """Is given the folder of the model that the run begins with, or None, before any record is read.

        Raises:
            BadInput: The objective cannot go on from such a model.
        """

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Is given what encoding needs, after the records were observed.

        Args:
            tokenizer: Of the network.
            longest: Tokens that the network reads at most, special ones included.

        Raises:
            BadInput: They do not do for this objective.
        """
        self.tokenizer, self.longest = tokenizer, longest

    @classmethod  # noqa: B027 - most objectives have nothing to refuse
    def check_recipe(cls, recipe: Recipe) -> None:
        """Refuses options that contradict each other, before anything is read.

        Raises:
            BadInput: They do.
        """

    # Records: checked and counted in a first pass, before there is a tokenizer; encoded in a second one.

    def observe(self, record: Any, held_out: bool) -> None:  # noqa: B027 - nor anything to learn beforehand
        """Checks a record and learns what has to be known of all of them (the labels).

        Raises:
            Misfit: The record cannot be used, with the value and how to mend it.
        """

    def settle(self) -> None:  # noqa: B027
        """Is called when all training records were observed, before the held-out ones.

        Raises:
            BadInput: Nothing can be learned from them (a single label, say).
        """

    def facts(self) -> dict[str, Any]:
        """Returns what was learned from the records, as plain JSON values; kept with the examples."""
        return {}

    def load_facts(self, facts: Mapping[str, Any]) -> None:  # noqa: B027
        """Takes what `facts` returned instead of observing the records again."""

    @abstractmethod
    def encode(self, record: Any) -> Encoded:
        """Turns a record into examples: an array for each of `fields`.

        Raises:
            Misfit: The record cannot be used.
        """

    def encode_row(self, record: Any, row: Mapping[str, Any] | None) -> Encoded:
        """Likewise, for objectives that need fields of the file's row which are no part of its record."""
        return self.encode(record)

    def length(self, example: Example) -> int:
        """Returns what an example counts in a budget of tokens."""
        return len(example["tokens"])

    def head(self) -> HeadConfig:
        """Returns the head that an encoder gets; other kinds of network do not ask."""
        return HeadConfig()

    # The run.

    def begin(self, setting: Setting) -> None:  # noqa: B027 - most need nothing but batches
        """Is given the network as it begins, before its first step and before a checkpoint is loaded.

        Raises:
            BadInput: It does not do for this objective.
        """

    def sampler(self, examples: LengthSampler) -> Sampler:
        """Returns where the trainer's batches come from, given a sampler over the training examples."""
        return examples

    def step_figures(self) -> dict[str, float]:
        """Returns what the last step should record beside its loss."""
        return {}

    def wrap(self, model: nn.Module, new_head: bool) -> nn.Module:
        """Returns what is trained: the network itself, or one in which it is a part.

        Args:
            model: The network, initialised.
            new_head: Whether its head has fresh weights.
        """
        return model

    def published(self, model: nn.Module) -> nn.Module:
        """Returns the part of what was trained that becomes the model folder."""
        return model

    def companions(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """Returns other parts of what was trained that get folders of their own inside the model folder, by name."""
        return {}

    def written(self) -> list[dict[str, Any]]:
        """Returns some of what the network wrote in the last step, to be read: prompt, text and reward of each."""
        return []

    # Batches and losses.

    @abstractmethod
    def to_device(self, raw: RawBatch, device: torch.device) -> Any:
        """Makes a batch with `target_count` of examples; what is random in it follows from `raw.key`."""

    @abstractmethod
    def loss_sum(self, model: Any, batch: Any) -> Tensor:
        """Returns the loss summed over the batch's targets, in nats."""

    # Held-out records.

    def measured(self) -> tuple[str, ...]:
        """Returns the measures that these records allow; called when they are known."""
        return self.measures

    def predict(self, model: Any, batch: Any) -> Sequence[Any]:
        """Returns one prediction for each example of a batch; called without gradient, the model in evaluation mode."""
        return ()

    def references(self, examples: Sequence[Example]) -> Sequence[Any]:
        """Returns the right answer of each example, in the form of `predict`'s."""
        return ()

    def show(self, prediction: Any, reference: Any) -> tuple[str, str] | None:
        """Returns a prediction and the right answer for people; None where they are nothing to read."""
        return _readable(prediction), _readable(reference)

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns the measures that no function of `evaluation` computes.

        Args:
            loss: The mean loss over the held-out targets, in nats.
            predictions: What `gather` returned.
            references: Likewise.
        """
        return {}

    def gather(
        self, predictions: Sequence[Any], references: Sequence[Any], records: Sequence[int]
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """Joins what belongs to one record, where a record became several examples.

        Args:
            predictions: One for each example, in order.
            references: Likewise.
            records: The number of each example's record; those of a record stand together.
        """
        return predictions, references


def _readable(value: Any) -> str:
    """What a prediction or the right answer is for people: words side by side, figures with their names."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(name).replace('_', ' ')} {one:.4g}" if isinstance(one, float) else f"{name} {one}"
            for name, one in value.items()
        )
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
