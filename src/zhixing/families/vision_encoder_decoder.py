"""The published layout of networks that describe images: a Vision Transformer and a GPT-2 that reads it.

It is that of `transformers`' VisionEncoderDecoderModel: each side's configuration and weights under a name of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.families import vit
from zhixing.families.base import ConfigReader, Weights
from zhixing.families.gpt2 import GPT2_READER
from zhixing.models.vision_encoder_decoder import VisionEncoderDecoderConfig

NAME = "vision-encoder-decoder"
ARCHITECTURE = "VisionEncoderDecoderModel"
PROJECTION = "enc_to_dec_proj."


def config_from(values: Mapping[str, Any], where: str, start: int | None = None) -> VisionEncoderDecoderConfig:
    """Reads a published config.json, refusing every field that is not understood.

    Args:
        values: The parsed file.
        where: Its path, for messages.
        start: The token that texts begin behind, where generation_config.json says it.

    Raises:
        BadInput: A field is damaged or not supported, or there is no start token.
    """
    reader = ConfigReader(values, where)
    named = values.get("architectures")
    if named and named != [ARCHITECTURE]:
        raise BadInput(f"the architectures are {named!r}, not [{ARCHITECTURE!r}]", where=where)
    encoder, decoder = dict(reader.mapping("encoder")), dict(reader.mapping("decoder"))
    for side, part, known in (("encoder", encoder, vit.NAME), ("decoder", decoder, GPT2_READER.name)):
        if part.get("model_type") != known:
            kind = str(part.get("model_type"))
            raise unknown_name("architecture", kind, [known], where=f"{where} ({side})")
    reader.expect("tie_word_embeddings", False, True)  # of the two sides with each other, which nothing reads
    reader.take("vocab_size")  # a copy of the decoder's
    for key in ("decoder_start_token_id", "bos_token_id"):
        start = reader.take(key) if start is None else start
    start = decoder.get("bos_token_id") if start is None else start
    if isinstance(start, bool) or not isinstance(start, int):
        raise BadInput(
            "no 'decoder_start_token_id': what a text begins behind is not known",
            where=where,
            remedy="add it; with GPT-2 it is usually the bos_token_id of the tokenizer",
        )
    reader.finish()
    encoder["architectures"] = ["ViTModel"]  # some files name the class that the encoder was taken from
    decoder.pop("architectures", None)
    layout = vit.layout_from(encoder, f"{where} (encoder)")
    try:
        return VisionEncoderDecoderConfig(layout.config, GPT2_READER.config_from(decoder, f"{where} (decoder)"), start)
    except BadInput as error:
        raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error


def config_to(config: VisionEncoderDecoderConfig) -> dict[str, Any]:
    """Writes the published configuration."""
    return {
        "architectures": [ARCHITECTURE], "model_type": NAME, "is_encoder_decoder": True,
        "decoder_start_token_id": config.start, "tie_word_embeddings": False,
        "encoder": vit.config_to(config.encoder), "decoder": GPT2_READER.config_to(config.decoder),
    }  # fmt: skip


def weights_from(published: Weights, config: VisionEncoderDecoderConfig, where: str) -> tuple[Weights, Weights]:
    """Translates published tensors.

    Returns:
        The tensors by our names, and those of the layout that nothing here uses.

    Raises:
        BadInput: A tensor has no place in this architecture.
    """
    sides: dict[str, Weights] = {"encoder.": {}, "decoder.": {}, PROJECTION: {}}
    for name, tensor in published.items():
        side = next((side for side in sides if name.startswith(side)), None)
        if side is None:
            raise BadInput(f"the tensor {name!r} has no place in the family {NAME!r}", where=where)
        sides[side][name.removeprefix(side)] = tensor
    encoder, unused = vit.encoder_weights_from(sides["encoder."], where)
    decoder = GPT2_READER.weights_from(sides["decoder."], config.decoder, where)
    if config.decoder.tied:
        decoder.pop("head.weight", None)
    ours = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    ours |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    ours |= {f"projection.{name}": tensor for name, tensor in sides[PROJECTION].items()}
    return ours, {f"encoder.{name}": tensor for name, tensor in unused.items()}


def weights_to(ours: Weights, config: VisionEncoderDecoderConfig) -> Weights:
    """Translates the tensors of a `models.vision_encoder_decoder.VisionEncoderDecoder` to published names."""

    def side(prefix: str) -> Weights:
        return {name.removeprefix(prefix): tensor for name, tensor in ours.items() if name.startswith(prefix)}

    theirs = {f"encoder.{name}": tensor for name, tensor in vit.encoder_weights_to(side("encoder.")).items()}
    decoder = GPT2_READER.weights_to(side("decoder."), config.decoder)
    theirs |= {f"decoder.{name}": tensor for name, tensor in decoder.items()}
    return theirs | {f"{PROJECTION}{name}": tensor for name, tensor in side("projection.").items()}
