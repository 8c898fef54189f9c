"""Replaced-token detection (Clark et al. 2020, ELECTRA): a small generator fills hidden words in, and the network says
of every token whether it stood there. Every token teaches, not only the hidden ones.

The discriminator becomes the model folder, and the generator one of its own inside of it (`generator/`), from which a
later run goes on with both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zhixing.checkpoints.encoder_folder import load_encoder
from zhixing.core.errors import BadInput
from zhixing.data.length_batches import RawBatch
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.ragged import Ragged
from zhixing.models.recurrent_encoder import RecurrentEncoder
from zhixing.training.objectives.masked import MaskedBatch, RunningText, masked_scores
from zhixing.training.objectives.texts import ragged_of

SMALLEST_HEAD = 16
GENERATOR = "generator"
"""The generator's folder, inside the discriminator's."""

SHARED = ("encoder.embedding.", "encoder.positions.", "encoder.types.")
"""Tables that both have in common."""


@dataclass(frozen=True)
class ReplacedBatch:
    """Texts with hidden words, and as they were.

    Attributes:
        masked: What the generator sees.
        original: All tokens as they were, (total).
        ordinary: Which of them are text, (total).
        key: Of the batch; draws of the generator's words follow from it where the network is measured.
    """

    masked: MaskedBatch
    original: Tensor
    ordinary: Tensor
    key: int

    @property
    def target_count(self) -> int:
        """The hidden tokens. Both losses are scaled by their number."""
        return self.masked.target_count

    @property
    def token_count(self) -> int:
        """All tokens."""
        return len(self.original)


class GeneratorAndDiscriminator(nn.Module):
    """A small masked language model, and the network that is wanted in the end; they share their embedding tables.

    Args:
        discriminator: The network that is wanted.
        share: Width of the generator, as a share of the discriminator's.
        seed: Of the generator's first weights.
    """

    def __init__(self, discriminator: EncoderModel, share: float, seed: int) -> None:
        super().__init__()
        config = discriminator.config
        heads = max(1, round(config.heads * share))
        width = heads * max(SMALLEST_HEAD, config.head_dim)
        # The tables are shared, so the generator's embeddings have the discriminator's size.
        table = config.embedding_width or config.width
        smaller = dataclasses.replace(
            config, width=width, heads=heads, kv_heads=heads, head_dim=width // heads, mlp_width=4 * width,
            embedding_width=None if table == width else table,
        )  # fmt: skip
        self.discriminator = discriminator
        self.generator = EncoderModel(smaller, HeadConfig(kind="masked"))
        self.generator.initialise(torch.Generator().manual_seed(seed + 1))
        mine, theirs = self.generator.encoder, discriminator.encoder
        assert not isinstance(mine, RecurrentEncoder)
        assert not isinstance(theirs, RecurrentEncoder)
        mine.embedding.weight = theirs.embedding.weight
        if mine.positions is not None and theirs.positions is not None:
            mine.positions.weight = theirs.positions.weight
        if mine.types is not None and theirs.types is not None:
            mine.types.weight = theirs.types.weight

    def go_on_from(self, folder: Path) -> None:
        """Takes the generator that was published beside the discriminator; the tables are the discriminator's.

        Raises:
            BadInput: It is none, or of another size than this run's.
        """
        weights = load_encoder(folder).model.state_dict()
        expected = {name: weight.shape for name, weight in self.generator.state_dict().items()}
        if {name: weight.shape for name, weight in weights.items()} != expected:
            raise BadInput(
                "the generator beside the model is of another size than this run's",
                where=str(folder),
                remedy="give task.generator_share as in that run, or remove the folder to begin with a new one",
            )
        own = {name: weight for name, weight in weights.items() if not name.startswith(SHARED)}
        self.generator.load_state_dict(own, strict=False)


class Replaced(RunningText):
    """Minimises the generator's -log p(hidden token) plus a multiple of the discriminator's -log p(replaced or not)."""

    name: ClassVar[str] = "replaced"
    summary: ClassVar[str] = "tell which words a small generator has replaced (ELECTRA's pretraining)"
    family: ClassVar[str | None] = "electra"
    options: ClassVar[frozenset[str]] = frozenset({"mask_share", "whole_word", "generator_share", "replaced_weight"})
    measures: ClassVar[tuple[str, ...]] = ("replaced_f1", "detection_accuracy", "generator_accuracy")
    own: ClassVar[frozenset[str]] = frozenset(measures)
    _kept: Path | None = None

    def head(self) -> HeadConfig:
        """Returns a head that tells replaced tokens."""
        return HeadConfig(kind="replaced")

    def begin_with(self, start: Path | None) -> None:
        """Notes where a generator is kept beside the model to begin with."""
        super().begin_with(start)
        kept = None if start is None else start / GENERATOR
        self._kept = kept if kept is not None and (kept / "config.json").is_file() else None

    def wrap(self, model: nn.Module, new_head: bool) -> nn.Module:
        """Puts a generator beside the network: the one that was published with it, or a new one."""
        assert isinstance(model, EncoderModel)
        if isinstance(model.encoder, RecurrentEncoder):
            raise BadInput(
                "replaced tokens are for Transformer encoders", where="model.family", remedy="choose electra or bert"
            )
        both = GeneratorAndDiscriminator(model, self.task.generator_share, self.recipe.train.seed)
        if self._kept is not None:
            both.go_on_from(self._kept)
        return both

    def published(self, model: nn.Module) -> nn.Module:
        """Returns the discriminator."""
        assert isinstance(model, GeneratorAndDiscriminator)
        return model.discriminator

    def companions(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """Returns the generator, a masked language model."""
        assert isinstance(model, GeneratorAndDiscriminator)
        return {GENERATOR: model.generator}

    def to_device(self, raw: RawBatch, device: torch.device) -> ReplacedBatch:
        """Hides words and lays the texts end to end; every hidden token is a mask, as in ELECTRA."""
        tokens, places, counts, _ = self.hide(raw)
        ordinary = np.concatenate([example["words"] for example in raw.examples]) >= 0
        original = torch.from_numpy(tokens.copy()).to(device)
        wanted = tokens[places]
        tokens[places] = self.mask
        masked = MaskedBatch(
            ragged_of(raw.examples, device, tokens), torch.from_numpy(wanted).to(device),
            torch.from_numpy(places).to(device), counts,
        )  # fmt: skip
        return ReplacedBatch(masked, original, torch.from_numpy(ordinary).to(device), raw.key)

    def loss_sum(self, model: GeneratorAndDiscriminator, batch: ReplacedBatch) -> Tensor:
        """Returns both losses; the discriminator's mean over tokens is scaled to the number of hidden ones."""
        scores = masked_scores(model.generator, batch.masked)
        filled = self._fill(scores.detach(), batch, model.training)
        found = self._detect(model, batch, filled)
        wrong = (filled != batch.original)[batch.ordinary].float()
        detection = F.binary_cross_entropy_with_logits(found, wrong) * batch.target_count
        generation = F.cross_entropy(scores, batch.masked.wanted, reduction="sum")
        return generation + self.task.replaced_weight * detection

    @staticmethod
    def _fill(scores: Tensor, batch: ReplacedBatch, training: bool) -> Tensor:
        """Returns the tokens with the generator's words drawn in (by Gumbel noise, which needs no sums), (total)."""
        generator = None
        if not training:  # the same words whenever the network is measured
            generator = torch.Generator(scores.device).manual_seed(batch.key >> 1)
        noise = torch.empty_like(scores).exponential_(generator=generator)
        drawn = (scores - noise.log()).argmax(dim=1)
        return batch.original.index_put((batch.masked.hidden,), drawn)

    @staticmethod
    def _detect(model: GeneratorAndDiscriminator, batch: ReplacedBatch, filled: Tensor) -> Tensor:
        texts = Ragged(filled, batch.masked.texts.lengths, batch.masked.texts.types)
        scores: Tensor = model.discriminator(texts)
        return scores.float()[batch.ordinary]

    def predict(self, model: GeneratorAndDiscriminator, batch: ReplacedBatch) -> Sequence[Any]:
        """Returns counts: found, claimed and true replacements, right decisions, all; right words, hidden ones."""
        scores = masked_scores(model.generator, batch.masked)
        filled = self._fill(scores, batch, False)
        claimed = self._detect(model, batch, filled) > 0
        true = (filled != batch.original)[batch.ordinary]
        right = int((filled[batch.masked.hidden] == batch.masked.wanted).sum())
        counts = (
            int((claimed & true).sum()), int(claimed.sum()), int(true.sum()), int((claimed == true).sum()), len(true),
            right, batch.target_count,
        )  # fmt: skip
        # The whole batch is counted with its first sequence; sums are all that is wanted.
        return [counts, *[(0,) * len(counts)] * (len(batch.masked.counts) - 1)]

    def own_measures(self, loss: float, predictions: Sequence[Any], references: Sequence[Any]) -> Mapping[str, float]:
        """Returns F1 of replaced tokens, the share of right decisions, and of right words of the generator."""
        both, claimed, true, decided, total, right, hidden = np.sum(np.array(predictions, np.int64), axis=0).tolist()
        return {
            "replaced_f1": 2 * both / max(1, claimed + true),
            "detection_accuracy": decided / max(1, total),
            "generator_accuracy": right / max(1, hidden),
        }
