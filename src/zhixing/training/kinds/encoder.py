"""Encoders with a head: BERT and its kin, and recurrent ones, from scratch or from a published model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from zhixing.checkpoints.encoder_folder import is_encoder, load_encoder, save_encoder
from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.files import read_json
from zhixing.core.recipe import ModelRecipe, Recipe
from zhixing.families.encoders import FIXED
from zhixing.families.registry import ENCODERS, encoder_named
from zhixing.models.config import TransformerConfig
from zhixing.models.heads import EncoderModel, HeadConfig
from zhixing.models.recurrent import CELLS
from zhixing.models.recurrent_encoder import RecurrentEncoder, RecurrentEncoderConfig, recurrent_encoder_model
from zhixing.tokenization.framing import ENCODER_TOKENS, framed_as_bert
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import SIZES, Begun, check_context, refuse, resolve_sizes, resolve_start
from zhixing.training.objectives import record_objective
from zhixing.training.objectives.base import NetworkKind, RecordObjective
from zhixing.training.regularisers import hide_words

RECURRENT = {f"{cell}-encoder": cell for cell in CELLS}
"""Families of recurrent encoders, by the cell."""

DEFAULT_FAMILY = "bert"
HEAD_DROPOUT = 0.1
RECURRENT_WIDTH = 128
RECURRENT_HIDDEN = 192

SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"norm_eps": 1e-12, "token_types": 2},
    "roberta": {"norm_eps": 1e-5, "token_types": 1, "position_offset": 2},
    "distilbert": {"norm_eps": 1e-12},
    "electra": {"norm_eps": 1e-12, "token_types": 2},
}
"""What a new encoder of a family has, beside its sizes."""

DECODER_FIELDS = ("kv_heads", "logit_softcap", "rope_theta", "order", "count_memory", "embeddings")


class EncoderMaker:
    """Builds, begins and saves encoders."""

    name: ClassVar[NetworkKind] = "encoder"

    def resolve(self, recipe: Recipe) -> None:
        """Fills in sizes of a new encoder; with `model.start` they are refused, because they are that model's."""
        model = recipe.model
        refuse(model, DECODER_FIELDS, "an encoder")
        if model.start is not None:
            resolve_start(model, (*SIZES, "hidden"), is_encoder, _longest_of)
            return
        if "family" not in model.model_fields_set:
            objective = record_objective(recipe.train.objective)
            model.family = (objective.family if objective else None) or DEFAULT_FAMILY
        if model.family in RECURRENT:
            model.width, model.hidden = model.width or RECURRENT_WIDTH, model.hidden or RECURRENT_HIDDEN
            if "depth" not in model.model_fields_set:
                model.depth = 1
            return
        if model.family not in ENCODERS:
            raise unknown_name("encoder family", model.family, [*ENCODERS, *RECURRENT], where="model.family")
        if model.hidden is not None:
            raise BadInput("model.hidden is of recurrent encoders", where="model.hidden", remedy="leave it out")
        resolve_sizes(model)
        model.init_std = model.init_std or 0.02

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns the model's own longest input, or the recipe's where that is lower."""
        return check_context(recipe.model, None if start is None else _longest_of(start), "reads")

    def special_tokens(self, kind: str) -> list[str] | None:
        """Returns BERT's special tokens, without [UNK] where every text can be spelled."""
        return [name for name in ENCODER_TOKENS if name != "[UNK]" or kind in ("wordpiece", "character")]

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Puts [CLS] and [SEP] around texts."""
        return framed_as_bert(tokenizer)

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Builds an encoder with the objective's head."""
        generator = torch.Generator().manual_seed(recipe.train.seed)
        begun = (
            self._fresh(recipe, tokenizer, objective.head(), generator)
            if start is None
            else self._from(recipe, objective.head(), start, generator)
        )
        model = cast(EncoderModel, begun.model)
        begun.longest = objective.longest
        if recipe.model.word_dropout:
            hide_words(model.encoder, recipe.model.word_dropout, tokenizer)
        return begun

    def _fresh(self, recipe: Recipe, tokenizer: Tokenizer, head: HeadConfig, generator: torch.Generator) -> Begun:
        wanted = recipe.model
        assert wanted.width is not None
        head = _with_dropout(head, wanted)
        if wanted.family in RECURRENT:
            assert wanted.hidden is not None
            recurrent = RecurrentEncoderConfig(
                vocab_size=tokenizer.vocab_size, cell=RECURRENT[wanted.family], embedding=wanted.width,
                hidden=wanted.hidden, layers=wanted.depth, dropout=wanted.dropout or 0.0,
                init_std=wanted.init_std or wanted.width**-0.5,
            )  # fmt: skip
            model = recurrent_encoder_model(recurrent, _summarised(head, recipe))
            facts, describe = dataclasses.asdict(recurrent), recurrent.describe()
        else:
            assert wanted.heads is not None
            assert wanted.head_dim is not None
            assert wanted.mlp_width is not None
            config = TransformerConfig(
                vocab_size=tokenizer.vocab_size, width=wanted.width, layers=wanted.depth, heads=wanted.heads,
                kv_heads=wanted.heads, head_dim=wanted.head_dim, mlp_width=wanted.mlp_width, context=wanted.context,
                dropout=wanted.dropout or 0.0, attention_dropout=wanted.attention_dropout or 0.0,
                init_std=wanted.init_std,
                tied=bool(wanted.tied), activation="gelu", **FIXED, **SHAPES[wanted.family],
            )  # fmt: skip
            _check_published(wanted.family, config, head)
            model = EncoderModel(config, dataclasses.replace(head, activation=ENCODERS[wanted.family].activation))
            facts, describe = dataclasses.asdict(config), config.describe()
        model.initialise(generator)
        return Begun(model, wanted.family, wanted.context, facts, describe)

    def _from(self, recipe: Recipe, head: HeadConfig, start: Path, generator: torch.Generator) -> Begun:
        """Takes the encoder of a model folder, and its head where that is of the same kind and labels."""
        if not is_encoder(start):
            raise BadInput(
                f"{recipe.model.start} is no encoder, and {recipe.train.objective!r} trains one",
                where="model.start",
                remedy=f"begin with an encoder ({', '.join(ENCODERS)}), such as minilm",
            )
        opened = load_encoder(start)
        wanted = recipe.model
        head = _with_dropout(head, wanted, opened.model.head_config.dropout)
        drops = wanted.named_dropout
        encoder = opened.model.encoder
        if isinstance(encoder, RecurrentEncoder):
            drops.pop("attention_dropout", None)
            recurrent = dataclasses.replace(encoder.config, **drops)
            model = recurrent_encoder_model(recurrent, _summarised(head, recipe))
            facts, describe, family = dataclasses.asdict(recurrent), recurrent.describe(), "recurrent"
        else:
            assert opened.family is not None
            config = dataclasses.replace(opened.model.config, **drops)
            family = opened.family.name
            head = dataclasses.replace(head, activation=opened.family.activation)
            _check_published(family, config, head)
            model = EncoderModel(config, head)
            facts, describe = dataclasses.asdict(config), config.describe()
        model.initialise(generator)
        model.encoder.load_state_dict(encoder.state_dict())
        notes = []
        old = opened.model.head_config
        if (
            model.head is not None
            and opened.model.head is not None
            and (old.kind, old.labels)
            == (
                head.kind,
                head.labels,
            )
        ):
            model.head.load_state_dict(opened.model.head.state_dict(), strict=False)
            notes.append(f"The head goes on from that of {recipe.model.start}")
        return Begun(model, family, opened.longest, facts, describe, new_head=not notes, notes=notes)

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the folder, which `transformers` opens for a published family."""
        model = cast(EncoderModel, begun.model)
        save_encoder(folder, model, tokenizer, begun.family, card=card, longest=begun.longest, unused=begun.unused)


def _with_dropout(head: HeadConfig, wanted: ModelRecipe, known: float = HEAD_DROPOUT) -> HeadConfig:
    return dataclasses.replace(head, dropout=known if wanted.head_dropout is None else wanted.head_dropout)


def _summarised(head: HeadConfig, recipe: Recipe) -> HeadConfig:
    """Lets a recurrent encoder sum a sequence up by the largest values: its first vector has read little else well."""
    if head.kind == "classify" and recipe.task.summary is None:
        return dataclasses.replace(head, summary="max")
    return head


def _check_published(family: str, config: TransformerConfig, head: HeadConfig) -> None:
    """Refuses what could not be saved in the end."""
    if head.kind == "classify" and head.summary != "first":
        raise BadInput(
            f"a {family} model reads a sequence's label from the first token's vector",
            where="task.summary",
            remedy="leave it out, or choose a recurrent family: lstm-encoder",
        )
    encoder_named(family).config_to(config, head)


def _longest_of(start: Path) -> int:
    """Returns how many tokens a model folder's encoder reads, from its configuration alone."""
    values = read_json(start / "config.json")
    table = values.get("max_position_embeddings", 1 << 30) if isinstance(values, dict) else 1 << 30
    longest = table if isinstance(table, int) else 512
    if isinstance(values, dict) and values.get("model_type") == "roberta":
        longest -= int(values.get("pad_token_id", 1)) + 1
    path = start / "sentence_bert_config.json"
    settings = read_json(path) if path.is_file() else {}
    limit = settings.get("max_seq_length") if isinstance(settings, dict) else None
    # A recurrent encoder reads anything; what a run's examples may come to needs a bound all the same.
    return min(longest, limit if isinstance(limit, int) and limit > 0 else longest, 8192)
