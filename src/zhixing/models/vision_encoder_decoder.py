"""The network that reads an image and writes a text about it: a Vision Transformer, and the decoder behind it.

It is `models.vit` and the one `models.transformer` with cross-attention (Vinyals et al. 2015 with the parts of
Dosovitskiy et al. 2021 and Radford et al. 2019). What the decoder reads are the vectors of the class token and of every
patch, mapped to its width where theirs is another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.config import TransformerConfig
from zhixing.models.cross_attention import Source
from zhixing.models.layers import Linear
from zhixing.models.transformer import Transformer
from zhixing.models.transformer_seq2seq import BehindReading, ReadingTransformer
from zhixing.models.vit import ViT, ViTConfig


@dataclass(frozen=True, slots=True)
class VisionEncoderDecoderConfig(BehindReading):
    """An image encoder and the decoder that reads it.

    Attributes:
        encoder: The encoder.
        decoder: The decoder; its `cross_width` is its own width.
        start: The token that every text begins behind.
    """

    encoder: ViTConfig
    decoder: TransformerConfig
    start: int

    def __post_init__(self) -> None:
        if self.decoder.cross_width != self.decoder.width:
            raise BadInput(
                f"the decoder reads states of its own width, {self.decoder.width}, got {self.decoder.cross_width}"
            )
        self.check_start()

    @property
    def source_vocab_size(self) -> int:
        """None: images are not made of tokens."""
        return 0

    @property
    def source_context(self) -> int:
        """Vectors that the decoder reads of an image."""
        return self.encoder.patches + 1

    def parameter_count(self) -> int:
        """Returns the number of learned values."""
        with torch.device("meta"):
            model = VisionEncoderDecoder(self)
        return sum(parameter.numel() for parameter in model.parameters())

    def flops_per_token(self, context: int) -> float:
        """Returns the floating-point operations of one training step, per token of texts of this length."""
        patches = self.source_context
        blocks = self.encoder.blocks
        # The vocabulary of the blocks' configuration is that of nothing; an image is read once for its whole text.
        image = patches * (blocks.flops_per_token(patches) - 6.0 * blocks.width)
        return image / max(context, 1) + self.decoder.flops_per_token(context)

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        return f"images: {self.encoder.describe()}; text: {self.decoder.describe()}"


class VisionEncoderDecoder(ReadingTransformer[Tensor]):
    """Reads images and predicts each token of their texts from those before it.

    Images are pixel values, (images, channels, height, width).

    Args:
        config: What to build.
    """

    projection: Linear | None

    def __init__(self, config: VisionEncoderDecoderConfig) -> None:
        super().__init__()
        self._config = config
        self.encoder = ViT(config.encoder)
        wide, narrow = config.encoder.width, config.decoder.width
        self.projection = Linear(wide, narrow) if wide != narrow else None
        self.decoder = Transformer(config.decoder)

    @property
    def config(self) -> VisionEncoderDecoderConfig:
        """What it was built from."""
        return self._config

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights for both sides."""
        self.encoder.initialise(generator)
        self.decoder.initialise(generator)
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=self.projection.in_features**-0.5, generator=generator)
            nn.init.zeros_(self.projection.bias)

    def read(self, sources: Tensor) -> Source:
        """Reads images, (images, channels, height, width); returns what the decoder looks at, one row for each."""
        states = self.encoder(sources)  # (images, 1 + patches, width)
        return self.decoder.read_source(states if self.projection is None else self.projection(states))
