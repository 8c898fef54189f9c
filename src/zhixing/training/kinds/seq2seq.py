"""Encoder-decoders: the Transformer in Marian's, BART's and T5's layouts, and recurrent ones with attention."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from zhixing.checkpoints.seq2seq_folder import is_seq2seq, load_seq2seq, longest_of, save_seq2seq
from zhixing.checkpoints.seq2seq_tokenizers import Tokenizers
from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.recipe import ModelRecipe, Recipe
from zhixing.families.bart import BOTH as BART_BOTH
from zhixing.families.registry import SEQ2SEQ, seq2seq_named
from zhixing.families.t5 import BOTH as T5_BOTH
from zhixing.models.config import TransformerConfig
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.models.recurrent import CELLS
from zhixing.models.recurrent_encoder import RecurrentEncoderConfig
from zhixing.models.recurrent_seq2seq import RecurrentEncoderDecoder, RecurrentSeq2SeqConfig
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig
from zhixing.tokenization.framing import frame_of, framed_with_end
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import SIZES, Begun, check_context, refuse, resolve_sizes, resolve_start
from zhixing.training.objectives.base import NetworkKind, RecordObjective

RECURRENT = {f"{cell}-seq2seq": cell for cell in CELLS}
"""Families of recurrent encoder-decoders, by the cell."""

DEFAULT_FAMILY = "marian"
SPECIAL = ("</s>", "<pad>")
"""The token that ends a text, and the one that fills up short ones, which targets also begin behind."""

RECURRENT_WIDTH = 256
DECODER_FIELDS = ("kv_heads", "logit_softcap", "rope_theta", "order", "count_memory", "embeddings", "head_dropout")

SHAPES: dict[str, dict[str, Any]] = {
    "marian": {**BART_BOTH, "position": "sinusoidal", "scale_embeddings": True, "activation": "relu"},
    "bart": {
        **BART_BOTH,
        "position": "learned",
        "position_offset": 2,
        "embedding_norm": True,
        "activation": "gelu",
    },
    "t5": {**T5_BOTH, "gated": True, "activation": "gelu_tanh", "norm_eps": 1e-6},
}
"""What both sides of a new network of a family have, beside their sizes."""


@dataclass
class BegunSeq2Seq(Begun):
    """An encoder-decoder in training.

    Attributes:
        tokenizers: Of the model that it began with, which its own folder gets again; None where the run trains its own.
    """

    tokenizers: Tokenizers | None = None


class Seq2SeqMaker:
    """Builds, begins and saves encoder-decoders."""

    name: ClassVar[NetworkKind] = "seq2seq"

    def resolve(self, recipe: Recipe) -> None:
        """Fills in sizes of a new network; with `model.start` they are refused, because they are that model's."""
        model = recipe.model
        refuse(model, DECODER_FIELDS, "an encoder-decoder")
        if model.start is not None:
            resolve_start(model, (*SIZES, "hidden", "decoder_depth", "attention"), is_seq2seq, longest_of)
            return
        if "family" not in model.model_fields_set:
            model.family = DEFAULT_FAMILY
        if model.family in RECURRENT:
            self._resolve_recurrent(model)
            return
        if model.family not in SEQ2SEQ:
            raise unknown_name("encoder-decoder family", model.family, [*SEQ2SEQ, *RECURRENT], where="model.family")
        for key in ("hidden", "attention"):
            if getattr(model, key) is not None:
                raise BadInput(f"model.{key} is of recurrent networks", where=f"model.{key}", remedy="leave it out")
        if "zero_init_outputs" not in model.model_fields_set:
            model.zero_init_outputs = False
        model.decoder_depth = model.decoder_depth or model.depth
        resolve_sizes(model)
        if not model.tied and model.family != "t5":
            raise BadInput(f"a {model.family} model's head is tied", where="model.tied", remedy="leave it out")

    def _resolve_recurrent(self, model: ModelRecipe) -> None:
        for key in ("heads", "head_dim", "mlp_width", "decoder_depth", "attention_dropout"):
            if getattr(model, key):
                raise BadInput(f"model.{key} is of Transformers", where=f"model.{key}", remedy="leave it out")
        model.width = model.width or RECURRENT_WIDTH
        model.hidden = model.hidden or 2 * (model.width // 2)
        if model.hidden % 2:
            raise BadInput("model.hidden must be even: each direction reads with half of it", where="model.hidden")
        if "depth" not in model.model_fields_set:
            model.depth = 1
        model.attention = model.attention or "luong"
        model.tied = True if model.tied is None else model.tied

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns the longest source or target: the model's own, or the recipe's where that is lower."""
        if start is not None and not is_seq2seq(start):
            raise BadInput(
                f"{recipe.model.start} is no encoder-decoder, and {recipe.train.objective!r} trains one",
                where="model.start",
                remedy=f"begin with one of {', '.join(SEQ2SEQ)}, or with one that was trained here",
            )
        return check_context(recipe.model, None if start is None else longest_of(start), "reads and writes")

    def special_tokens(self, kind: str) -> list[str] | None:
        """Returns Marian's special tokens, with one for what cannot be spelled where that is needed."""
        return [*SPECIAL, *(["<unk>"] if kind in ("wordpiece", "character") else [])]

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Puts the end token behind texts."""
        return framed_with_end(tokenizer, *SPECIAL)

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Builds an encoder-decoder."""
        wanted = recipe.model
        beams = {"num_beams": recipe.task.beams or 4, "length_penalty": recipe.task.length_penalty}
        generation: dict[str, Any] = {**beams, "max_new_tokens": objective.longest - 1}
        model: EncoderDecoder
        tokenizers = None
        if start is not None:
            opened = load_seq2seq(start)
            model = _with_dropout(opened.model, wanted.named_dropout)
            tokenizers = opened.tokenizers
            family = opened.family.name if opened.family is not None else "recurrent"
            generation = {**opened.generation, **(generation if not opened.generation else {})}
        else:
            family = wanted.family
            start_token = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.end_of_text_id
            assert start_token is not None
            if family in RECURRENT:
                model = RecurrentEncoderDecoder(recurrent_config(wanted, tokenizer.vocab_size, start_token))
            else:
                config = transformer_config(wanted, tokenizer.vocab_size, start_token)
                seq2seq_named(family).config_to(config)  # what could not be saved in the end is refused now
                model = TransformerEncoderDecoder(config)
            model.initialise(torch.Generator().manual_seed(recipe.train.seed))
        config_of = cast(TransformerSeq2SeqConfig | RecurrentSeq2SeqConfig, model.config)
        width = model.output_matrix.shape[1]
        facts = {**dataclasses.asdict(config_of), "width": width, "generation": generation}
        return BegunSeq2Seq(model, family, objective.longest, facts, model.config.describe(), tokenizers=tokenizers)

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the folder, which `transformers` opens for a published family."""
        assert isinstance(begun, BegunSeq2Seq)
        tokenizers = begun.tokenizers
        if tokenizers is None:
            frame = frame_of(tokenizer)
            begin = frame.front[0] if frame.front else None
            tokenizers = Tokenizers(tokenizer, tokenizer, begin, tokenizer.end_of_text_id)
        model = cast(EncoderDecoder, begun.model)
        save_seq2seq(folder, model, tokenizers, begun.family, card=card, generation=begun.facts["generation"])


def transformer_config(wanted: ModelRecipe, vocab_size: int, start: int) -> TransformerSeq2SeqConfig:
    """Returns the configuration of a new Transformer from a resolved model section."""
    assert wanted.width is not None
    assert wanted.heads is not None
    assert wanted.head_dim is not None
    assert wanted.mlp_width is not None
    both: dict[str, Any] = {
        "vocab_size": vocab_size, "width": wanted.width, "heads": wanted.heads, "kv_heads": wanted.heads,
        "head_dim": wanted.head_dim, "mlp_width": wanted.mlp_width, "context": wanted.context,
        "dropout": wanted.dropout or 0.0, "attention_dropout": wanted.attention_dropout or 0.0,
        "init_std": wanted.init_std, "zero_init_outputs": wanted.zero_init_outputs, "tied": True,
        **SHAPES[wanted.family],
    }  # fmt: skip
    t5 = wanted.family == "t5"
    return TransformerSeq2SeqConfig(
        encoder=TransformerConfig(**both, layers=wanted.depth, causal=False),
        decoder=TransformerConfig(
            **{**both, "tied": bool(wanted.tied)},
            layers=wanted.decoder_depth or wanted.depth,
            cross_width=wanted.width,
            head_bias=not t5,
            logit_scale=wanted.width**-0.5 if t5 and wanted.tied else None,
        ),
        start=start,
    )


def recurrent_config(wanted: ModelRecipe, vocab_size: int, start: int) -> RecurrentSeq2SeqConfig:
    """Returns the configuration of a new recurrent encoder-decoder from a resolved model section."""
    assert wanted.width is not None
    assert wanted.hidden is not None
    encoder = RecurrentEncoderConfig(
        vocab_size=vocab_size, cell=RECURRENT[wanted.family], embedding=wanted.width, hidden=wanted.hidden // 2,
        layers=wanted.depth, dropout=wanted.dropout or 0.0, init_std=wanted.init_std or wanted.width**-0.5,
    )  # fmt: skip
    luong = wanted.attention == "luong"
    return RecurrentSeq2SeqConfig(
        encoder, vocab_size, wanted.width, wanted.hidden, start, attention="luong" if luong else "bahdanau",
        score="general" if luong else "additive", input_feeding=luong, shared=True, tied=bool(wanted.tied),
        dropout=wanted.dropout or 0.0,
    )  # fmt: skip


def _with_dropout(model: EncoderDecoder, drops: dict[str, Any]) -> EncoderDecoder:
    """Returns the network with other dropout, its weights unchanged."""
    if not drops:
        return model
    changed: EncoderDecoder
    if isinstance(model, TransformerEncoderDecoder):
        sides = {side: dataclasses.replace(getattr(model.config, side), **drops) for side in ("encoder", "decoder")}
        changed = TransformerEncoderDecoder(dataclasses.replace(model.config, **sides))
    else:
        assert isinstance(model, RecurrentEncoderDecoder)
        drops.pop("attention_dropout", None)
        encoder = dataclasses.replace(model.config.encoder, **drops)
        changed = RecurrentEncoderDecoder(dataclasses.replace(model.config, encoder=encoder, **drops))
    changed.load_state_dict(model.state_dict())
    return changed
