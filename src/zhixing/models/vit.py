"""The Vision Transformer: an image as a sequence of patches (Dosovitskiy et al. 2021), and what classifies from it.

A patch becomes a vector by one linear map, a learned class token stands in front, positions are learned, norms stand
before the parts. The blocks are those of the text encoder (`models.encoder`). How a file becomes pixel values is
`data.images`' concern.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput
from zhixing.models.config import Activation, TransformerConfig
from zhixing.models.dropout import Dropout
from zhixing.models.encoder import EncoderBlock
from zhixing.models.layers import Linear, Norm
from zhixing.models.ragged import Ragged

MOST_PATCHES = 1 << 16
"""Far above every published model: more would only be a damaged configuration."""


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """A Vision Transformer.

    Attributes:
        image_size: Height and width of the images that it reads, in pixels.
        patch_size: Height and width of a patch. What is left at the right and lower edge is not read.
        channels: Values per pixel.
        width: Size of the residual stream.
        layers: Number of blocks.
        heads: Attention heads.
        head_dim: Size of one head.
        mlp_width: Hidden size of the feed-forward part.
        norm_eps: Added to the variance before the root.
        activation: Non-linearity of the feed-forward part.
        attention_bias: Biases on the query, key and value projections.
        dropout: Share of residual-branch and embedding values zeroed in training.
        attention_dropout: Share of attention weights zeroed in training.
        init_std: Standard deviation of the initial weights.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    width: int
    layers: int
    heads: int
    head_dim: int
    mlp_width: int
    channels: int = 3
    norm_eps: float = 1e-12
    activation: Activation = "gelu"
    attention_bias: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for side, patch in zip(self.image_size, self.patch_size, strict=True):
            if not 1 <= patch <= side:
                raise BadInput(f"a patch of {patch} pixels does not fit into an image of {side}")
        if self.patches > MOST_PATCHES:
            raise BadInput(f"an image of {self.patches:,} patches; at most {MOST_PATCHES:,} are read")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size[0] // self.patch_size[0]) * (self.image_size[1] // self.patch_size[1])

    @property
    def blocks(self) -> TransformerConfig:
        """What the blocks are built from: an encoder's configuration, whose vocabulary nothing reads."""
        return TransformerConfig(
            vocab_size=1, width=self.width, layers=self.layers, heads=self.heads, kv_heads=self.heads,
            head_dim=self.head_dim, mlp_width=self.mlp_width, context=self.patches + 1, norm="layer",
            norm_eps=self.norm_eps, norm_placement="pre", position="learned", activation=self.activation, gated=False,
            attention_bias=self.attention_bias, attention_output_bias=True, mlp_bias=True, dropout=self.dropout,
            attention_dropout=self.attention_dropout, causal=False,
        )  # fmt: skip

    def describe(self) -> str:
        """Returns its sizes in a few words, for people."""
        height, width = self.image_size
        return (
            f"{self.layers} layers, {self.width} wide, {self.heads} heads, {self.patches} patches of {height}x{width}"
        )


class ViT(nn.Module):
    """Turns images into one vector per patch, and one for the whole image in front.

    Args:
        config: What to build.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.blocks
        self.patches = nn.Conv2d(config.channels, config.width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, config.patches + 1, config.width))
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(blocks) for _ in range(config.layers))
        self.final_norm = Norm(blocks)

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights: normal with the configured deviation, biases zero, norms one."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                nn.init.normal_(parameter, std=self.config.init_std, generator=generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """Reads images.

        Args:
            pixels: Normalised pixel values, (images, channels, height, width).

        Returns:
            (images, 1 + patches, width); the first vector is the class token's.

        Raises:
            BadInput: The images are of another size than it reads.
        """
        wanted = (self.config.channels, *self.config.image_size)
        if tuple(pixels.shape[1:]) != wanted:
            raise BadInput(
                f"images of {wanted} values (channels, height, width) are read, got {tuple(pixels.shape[1:])}"
            )
        count = len(pixels)
        x = self.patches(pixels).flatten(2).transpose(1, 2)  # (images, patches, width)
        x = torch.cat((self.class_token.expand(count, -1, -1), x), dim=1) + self.positions
        x = self.dropout(x)
        length = x.shape[1]
        # Every image is as long as every other: one run of the blocks' ragged batch.
        batch = Ragged(torch.empty(0, dtype=torch.long, device=x.device), (length,) * count)
        x = x.reshape(count * length, -1)
        for block in self.blocks:
            x = block(x, batch)
        y: Tensor = self.final_norm(x).view(count, length, -1)
        return y


class ImageClassifier(nn.Module):
    """A ViT that scores the labels of an image from the class token's vector, or that gives the vectors themselves.

    Args:
        config: The encoder.
        labels: Names of the labels; none leaves the encoder's vectors.
    """

    head: Linear | None

    def __init__(self, config: ViTConfig, labels: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.encoder = ViT(config)
        self.head = Linear(config.width, len(labels)) if labels else None

    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draws fresh weights for encoder and head."""
        self.encoder.initialise(generator)
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=self.config.init_std, generator=generator)
            nn.init.zeros_(self.head.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps (images, channels, height, width) to (images, labels); without labels, see `ViT.forward`."""
        x: Tensor = self.encoder(pixels)
        if self.head is None:
            return x
        y: Tensor = self.head(x[:, 0])
        return y
