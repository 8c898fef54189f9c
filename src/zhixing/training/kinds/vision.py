"""Networks that describe images: a Vision Transformer read by GPT-2, from scratch or from a published model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from zhixing.checkpoints.vision_folder import describes_images, load_vision, read_description, save_vision
from zhixing.core.errors import BadInput
from zhixing.core.recipe import Recipe
from zhixing.data.images import ImageProcessor
from zhixing.families.gpt2 import GPT2_READER
from zhixing.families.vision_encoder_decoder import NAME
from zhixing.models.config import TransformerConfig
from zhixing.models.vision_encoder_decoder import VisionEncoderDecoder, VisionEncoderDecoderConfig
from zhixing.models.vit import ViTConfig
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.kinds.base import SIZES, Begun, check_context, refuse, resolve_sizes, resolve_start
from zhixing.training.objectives.base import NetworkKind, RecordObjective
from zhixing.training.objectives.caption import Caption

IMAGE_SIZE = 64
PATCHES_ACROSS = 8
NORM_EPS = 1e-6

NO_MEANING = ("kv_heads", "logit_softcap", "rope_theta", "order", "count_memory", "embeddings", "hidden",
              "head_dropout")  # fmt: skip
IMAGE_SIZES = ("image_size", "patch_size", "image_depth")


@dataclass
class BegunVision(Begun):
    """Such a network, ready to be trained.

    Attributes:
        processor: What makes pixel values of images.
        generation: generation_config.json of the model that it began with; None for a new one.
    """

    processor: ImageProcessor = field(default_factory=lambda: ImageProcessor((IMAGE_SIZE, IMAGE_SIZE)))
    generation: dict[str, Any] | None = None


class VisionMaker:
    """Builds, begins and saves networks that describe images."""

    name: ClassVar[NetworkKind] = "vision"

    def resolve(self, recipe: Recipe) -> None:
        """Fills in sizes of a new network; with `model.start` they are refused, because they are that model's."""
        model = recipe.model
        refuse(model, NO_MEANING, "a network that describes images")
        if model.start is not None:
            resolve_start(model, (*SIZES, *IMAGE_SIZES), describes_images, _longest_of)
            return
        if "family" not in model.model_fields_set:
            model.family = NAME
        if model.family != NAME:
            raise BadInput(
                f"a network that describes images is saved as {NAME}, not {model.family}",
                where="model.family",
                remedy="leave it out",
            )
        model.image_size = model.image_size or IMAGE_SIZE
        model.patch_size = model.patch_size or max(1, model.image_size // PATCHES_ACROSS)
        model.image_depth = model.image_depth or model.depth
        resolve_sizes(model, head_dim=32)
        model.init_std = model.init_std or 0.02
        _config(recipe, vocab_size=2, start=0)  # sizes that contradict one another are said before anything is read

    def longest(self, recipe: Recipe, start: Path | None) -> int:
        """Returns how many tokens of a caption are read and written."""
        return check_context(recipe.model, None if start is None else _longest_of(start), "writes")

    def special_tokens(self, kind: str) -> list[str] | None:
        """Returns None: the usual ones, of which the end of text ends a caption and stands before the next."""
        return None

    def prepare_tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """Returns it as it is."""
        return tokenizer

    def begin(self, recipe: Recipe, tokenizer: Tokenizer, objective: RecordObjective, start: Path | None) -> Begun:
        """Builds the network, from its seed or from the folder of another model."""
        assert isinstance(objective, Caption)
        assert objective.start is not None
        generation: dict[str, Any] | None = None
        unused = {}
        if start is None:
            config = _config(recipe, tokenizer.vocab_size, objective.start)
            model = VisionEncoderDecoder(config)
            model.initialise(torch.Generator().manual_seed(recipe.train.seed))
        else:
            opened = load_vision(start)
            config, generation, unused = _with_dropout(opened.model.config, recipe), opened.generation, opened.unused
            model = VisionEncoderDecoder(config)
            model.load_state_dict(opened.model.state_dict())
        facts = {**dataclasses.asdict(config), "width": config.decoder.width}
        return BegunVision(
            model, NAME, objective.longest, facts, config.describe(), unused=unused, processor=objective.processor,
            generation=generation,
        )  # fmt: skip

    def save(self, folder: Path, begun: Begun, tokenizer: Tokenizer, card: str) -> None:
        """Writes the folder, which `transformers` opens."""
        begun = cast(BegunVision, begun)
        save_vision(
            folder, cast(VisionEncoderDecoder, begun.model), tokenizer, begun.processor, card=card,
            generation=begun.generation, unused=begun.unused,
        )  # fmt: skip


def _longest_of(start: Path) -> int:
    return read_description(start)[0].context


def _config(recipe: Recipe, vocab_size: int, start: int) -> VisionEncoderDecoderConfig:
    """Returns a new network's configuration from the resolved recipe."""
    model = recipe.model
    assert model.image_size is not None
    assert model.patch_size is not None
    assert model.image_depth is not None
    assert model.width is not None
    assert model.heads is not None
    assert model.head_dim is not None
    assert model.mlp_width is not None
    encoder = ViTConfig(
        image_size=(model.image_size, model.image_size), patch_size=(model.patch_size, model.patch_size),
        width=model.width, layers=model.image_depth, heads=model.heads, head_dim=model.head_dim,
        mlp_width=model.mlp_width, norm_eps=NORM_EPS, dropout=model.dropout or 0.0,
        attention_dropout=model.attention_dropout or 0.0, init_std=model.init_std or 0.02,
    )  # fmt: skip
    decoder = TransformerConfig(
        vocab_size=vocab_size, width=model.width, layers=model.depth, heads=model.heads, kv_heads=model.heads,
        head_dim=model.head_dim, mlp_width=model.mlp_width, context=model.context, cross_width=model.width,
        dropout=model.dropout or 0.0, attention_dropout=model.attention_dropout or 0.0, init_std=model.init_std,
        zero_init_outputs=model.zero_init_outputs, **{**GPT2_READER.start, "tied": bool(model.tied)},
    )  # fmt: skip
    return VisionEncoderDecoderConfig(encoder, decoder, start)


def _with_dropout(config: VisionEncoderDecoderConfig, recipe: Recipe) -> VisionEncoderDecoderConfig:
    """Returns a published configuration with the dropout that the recipe names."""
    named = recipe.model.named_dropout
    return dataclasses.replace(
        config,
        encoder=dataclasses.replace(config.encoder, **named),
        decoder=dataclasses.replace(config.decoder, **named),
    )
