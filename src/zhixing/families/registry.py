"""The list of known families, and how one is found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.families.bart import BART, MARIAN
from zhixing.families.base import Family
from zhixing.families.bert import BERT, ROBERTA
from zhixing.families.distilbert import DISTILBERT
from zhixing.families.electra import ELECTRA
from zhixing.families.encoders import EncoderFamily
from zhixing.families.gemma2 import GEMMA2
from zhixing.families.gemma3 import GEMMA3
from zhixing.families.gpt2 import GPT2
from zhixing.families.gpt_neox import GPT_NEOX
from zhixing.families.llama import LLAMA
from zhixing.families.mistral import MISTRAL
from zhixing.families.nanochat import NANOCHAT
from zhixing.families.olmo2 import OLMO2
from zhixing.families.phi3 import PHI3
from zhixing.families.qwen2 import QWEN2
from zhixing.families.qwen3 import QWEN3
from zhixing.families.seq2seq import Seq2SeqFamily
from zhixing.families.smollm3 import SMOLLM3
from zhixing.families.t5 import T5
from zhixing.families.vision_encoder_decoder import NAME as DESCRIBER
from zhixing.families.vit import NAME as VIT_NAME

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        GPT2, GPT_NEOX, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3, OLMO2, SMOLLM3, NANOCHAT,
    )
}  # fmt: skip
"""Every family, by its `model_type`."""

ENCODERS: dict[str, EncoderFamily] = {family.name: family for family in (BERT, ROBERTA, DISTILBERT, ELECTRA)}
"""Every family of encoders, by its `model_type`."""


SEQ2SEQ: dict[str, Seq2SeqFamily] = {family.name: family for family in (T5, BART, MARIAN)}
"""Every family of encoder-decoders, by its `model_type`."""


def seq2seq_named(name: str) -> Seq2SeqFamily:
    """Returns a family of encoder-decoders by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in SEQ2SEQ:
        raise unknown_name("encoder-decoder family", name, SEQ2SEQ, where="model.family")
    return SEQ2SEQ[name]


def encoder_named(name: str) -> EncoderFamily:
    """Returns a family of encoders by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder family", name, ENCODERS, where="model.family")
    return ENCODERS[name]


PARTS_OF_SEVERAL = ("text_config", "vision_config", "audio_config", "thinker_config")
"""Fields of a configuration that wraps a text network together with others."""


TEXT_PART = {
    "gemma3": "choose a text-only release (Gemma 3 270M or 1B), or save the text part once with transformers: "
    "Gemma3ForConditionalGeneration.from_pretrained(folder).model.language_model.save_pretrained(other_folder)"
}
"""How to come to the text part of such a model, where there is a way."""


def family_named(name: str) -> Family:
    """Returns a family by name.

    Raises:
        BadInput: There is none of that name.
    """
    if name not in FAMILIES:
        raise unknown_name("model family", name, FAMILIES, where="model.family")
    return FAMILIES[name]


def family_for_config(values: Mapping[str, Any], where: str) -> Family:
    """Finds the family that a published config.json belongs to.

    Raises:
        BadInput: The architecture is not supported, or the file does not say which it is.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if not isinstance(kind, str):
        raise BadInput("no 'model_type' field: this is not a model's config.json", where=where)
    if kind in ENCODERS:
        raise BadInput(
            f"the architecture {kind!r} is an encoder: it reads text and writes none",
            where=where,
            remedy="for its tasks: zhixing embed, classify, tag, answer, fill; to write text, choose another model",
        )
    if kind == VIT_NAME:
        raise BadInput(
            f"the architecture {kind!r} is an image encoder: it reads images and writes no text",
            where=where,
            remedy="in Python: zhixing.checkpoints.image_folder.load_image_encoder(...)",
        )
    if kind == DESCRIBER:
        raise BadInput(
            f"the architecture {kind!r} reads no prompt: it describes images",
            where=where,
            remedy="zhixing describe MODEL IMAGE...",
        )
    if kind in SEQ2SEQ:
        raise BadInput(
            f"the architecture {kind!r} is an encoder-decoder: it writes a target behind a source",
            where=where,
            remedy="zhixing.load and `zhixing generate` open it; here a model that goes on from a text is needed",
        )
    if any(key in values for key in PARTS_OF_SEVERAL):
        named = values.get("architectures")
        name = named[0] if isinstance(named, list) and named else kind
        remedy = TEXT_PART.get(kind, "choose a release of the model that is text only")
        raise BadInput(f"{name} reads more than text, which is not supported", where=where, remedy=remedy)
    if kind not in FAMILIES:
        raise unknown_name("architecture", kind, FAMILIES, where=where)
    return FAMILIES[kind]
