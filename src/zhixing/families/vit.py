"""The Vision Transformer's published layout (Dosovitskiy et al. 2021): ViT-B/16 and its kin, with or without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.base import MOST_LAYERS, ConfigReader, Names, Weights
from zhixing.families.encoders import ACTIVATIONS, PUBLISHED_ACTIVATIONS, both, read_labels
from zhixing.models.vit import ViTConfig

NAME = "vit"
ARCHITECTURES = {"ViTModel": False, "ViTForImageClassification": True}
"""The class names of `transformers`, and whether they score labels."""

PARTS = {
    "attention.query": "attention.attention.query", "attention.key": "attention.attention.key",
    "attention.value": "attention.attention.value", "attention.output": "attention.output.dense",
    "attention_norm": "layernorm_before", "mlp.up": "intermediate.dense", "mlp.down": "output.dense",
    "mlp_norm": "layernorm_after",
}  # fmt: skip

ENCODER = Names(
    [
        ("class_token", "embeddings.cls_token"),
        ("positions", "embeddings.position_embeddings"),
        *both("patches", "embeddings.patch_embeddings.projection"),
        *both("final_norm", "layernorm"),
        *(
            pair
            for ours, theirs in PARTS.items()
            for pair in both(f"blocks.{{i}}.{ours}", f"encoder.layer.{{i}}.{theirs}")
        ),
    ]
)
"""Weight names of the encoder by itself."""

UNUSED = re.compile(r"pooler\.dense\.(weight|bias)|embeddings\.mask_token")
"""Weights of the published layout that nothing here reads: the pooled vector's map, and the token of masked patches."""


@dataclass(frozen=True)
class ViTLayout:
    """A published configuration, understood.

    Attributes:
        config: The encoder.
        labels: Names of the labels that it scores; none where it only gives vectors.
    """

    config: ViTConfig
    labels: tuple[str, ...] = field(default=())


def layout_from(values: Mapping[str, Any], where: str) -> ViTLayout:
    """Reads a published config.json, refusing every field that is not understood.

    Raises:
        BadInput: A field is damaged or not supported.
    """
    reader = ConfigReader(values, where)
    named = reader.values.get("architectures") or ["ViTModel"]
    name = named[0] if isinstance(named, list) and named else None
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", str(name), ARCHITECTURES, where=where)
    labels = read_labels(reader) if ARCHITECTURES[str(name)] else ()
    try:
        config = _read(reader)
    except BadInput as error:
        raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
    reader.finish()
    return ViTLayout(config, labels)


def _read(reader: ConfigReader) -> ViTConfig:
    reader.expect("hidden_act", *ACTIVATIONS)
    for harmless in ("encoder_stride", "pooler_output_size", "pooler_act"):  # of heads that nothing here has
        reader.take(harmless)
    width, heads = reader.size("hidden_size", 768), reader.size("num_attention_heads", 12)
    return ViTConfig(
        image_size=_sides(reader, "image_size", 224), patch_size=_sides(reader, "patch_size", 16),
        channels=reader.size("num_channels", 3, most=64), width=width, heads=heads, head_dim=max(1, width // heads),
        layers=reader.size("num_hidden_layers", 12, most=MOST_LAYERS),
        mlp_width=reader.size("intermediate_size", 3072), norm_eps=reader.number("layer_norm_eps", 1e-12),
        activation=reader.activation("hidden_act", "gelu"), attention_bias=reader.flag("qkv_bias", True),
        dropout=reader.number("hidden_dropout_prob", 0.0),
        attention_dropout=reader.number("attention_probs_dropout_prob", 0.0),
    )  # fmt: skip


def _sides(reader: ConfigReader, key: str, default: int) -> tuple[int, int]:
    """Returns height and width, which are one number where they are equal."""
    value = reader.take(key, default)
    sides = value if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
        reader.refuse(key, "must be a whole number of pixels, or two")
    if not all(1 <= side <= 1 << 14 for side in sides):
        reader.refuse(key, f"must be from 1 to {1 << 14} pixels")
    return sides[0], sides[1]


def config_to(config: ViTConfig, labels: tuple[str, ...] = ()) -> dict[str, Any]:
    """Writes the published configuration.

    Raises:
        BadInput: The layout has no place for it.
    """
    if config.head_dim * config.heads != config.width:
        raise BadInput(f"the family 'vit' needs a width of heads x head_dim, got {config.width}")
    values: dict[str, Any] = {
        "architectures": ["ViTForImageClassification" if labels else "ViTModel"], "model_type": NAME,
        "image_size": _published_sides(config.image_size), "patch_size": _published_sides(config.patch_size),
        "num_channels": config.channels, "hidden_size": config.width, "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads, "intermediate_size": config.mlp_width,
        "hidden_act": PUBLISHED_ACTIVATIONS[config.activation], "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout, "layer_norm_eps": config.norm_eps,
        "qkv_bias": config.attention_bias,
    }  # fmt: skip
    if labels:
        values["id2label"] = {str(index): label for index, label in enumerate(labels)}
        values["label2id"] = {label: index for index, label in enumerate(labels)}
    return values


def _published_sides(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)


def encoder_weights_from(published: Weights, where: str) -> tuple[Weights, Weights]:
    """Translates the tensors of an encoder without a head.

    Returns:
        The tensors by our names (of `models.vit.ViT`), and those of the layout that nothing here uses.

    Raises:
        BadInput: A tensor has no place in this architecture.
    """
    ours: Weights = {}
    unused: Weights = {}
    for name, tensor in published.items():
        found = ENCODER.to_ours(name)
        if found is not None:
            ours[found] = tensor
        elif UNUSED.fullmatch(name):
            unused[name] = tensor
        else:
            raise BadInput(f"the tensor {name!r} has no place in the family {NAME!r}", where=where)
    return ours, unused


def encoder_weights_to(ours: Weights) -> Weights:
    """Translates the tensors of a `models.vit.ViT` to published names."""
    theirs: Weights = {}
    for name, tensor in ours.items():
        found = ENCODER.to_theirs(name)
        if found is None:
            raise BadInput(f"the family {NAME!r} has no place for our tensor {name!r}")
        theirs[found] = tensor
    return theirs


def weights_from(published: Weights, where: str) -> tuple[Weights, Weights]:
    """Translates the tensors of an encoder with or without a head; see `encoder_weights_from`."""
    head = {name: tensor for name, tensor in published.items() if name.startswith("classifier.")}
    trunk = {name.removeprefix("vit."): tensor for name, tensor in published.items() if name not in head}
    ours, unused = encoder_weights_from(trunk, where)
    named = {f"encoder.{name}": tensor for name, tensor in ours.items()}
    named |= {name.replace("classifier.", "head.", 1): tensor for name, tensor in head.items()}
    return named, unused


def weights_to(ours: Weights, labels: bool) -> Weights:
    """Translates the tensors of a `models.vit.ImageClassifier` to published names."""
    prefix = "vit." if labels else ""
    trunk = {name.removeprefix("encoder."): tensor for name, tensor in ours.items() if not name.startswith("head.")}
    theirs = {prefix + name: tensor for name, tensor in encoder_weights_to(trunk).items()}
    return theirs | {
        name.replace("head.", "classifier.", 1): tensor for name, tensor in ours.items() if name.startswith("head.")
    }
