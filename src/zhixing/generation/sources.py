"""Writing behind sources: an encoder reads what the model is given, and answers begin at the decoder's start token.

All strategies write for it, because they know only `Rows`; which options make no sense here is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zhixing.core.errors import BadInput
from zhixing.generation.options import SamplingOptions
from zhixing.generation.prompts import EncodedPrompt, Prompt
from zhixing.generation.rows import NetworkRows
from zhixing.models.encoder_decoder import EncoderDecoder
from zhixing.models.ragged import Ragged

SourceEncoder = Callable[[str], list[int]]
"""Turns a text into the tokens that the encoder reads, with what it expects around them."""

NOT_HERE = {
    "guidance_scale": ("guidance compares two prompts of one text", "to keep to the source, use beams: num_beams=4"),
    "sliding": ("a source is read whole", "write for the parts of a long source one by one"),
    "penalty_alpha": (
        "contrastive search looks into a model that goes on from a text",
        "against repetition, use beams with no_repeat_ngram_size=3, or repetition_penalty=1.2",
    ),
    "encoder_repetition_penalty": (
        "the prompt's penalty looks at the text that is gone on from", "against repetition, use repetition_penalty=1.2"
    ),
    "encoder_no_repeat_ngram_size": (
        "the prompt's n-grams are those of the text that is gone on from",
        "against repetition, use no_repeat_ngram_size=3",
    ),
}  # fmt: skip
"""Options that an encoder-decoder does not have, why, and what to use instead."""


def check_options(options: SamplingOptions) -> None:
    """Refuses options that make no sense behind a source.

    Raises:
        BadInput: Naming the option.
    """
    for name, (why, instead) in NOT_HERE.items():
        value = getattr(options, name)
        if value != getattr(SamplingOptions, name):
            raise BadInput(
                f"{name} = {value} is not for encoder-decoders: {why}",
                remedy=f"leave it out, on the command line or in the model's generation_config.json; {instead}",
            )


def encode_source(source: Prompt, encode: SourceEncoder | None, model: EncoderDecoder, where: str | None) -> list[int]:
    """Turns a source into token ids.

    Args:
        source: A text, or token ids.
        encode: The source's tokenizer; None allows token ids only.
        model: The network.
        where: Which source this is, for messages.

    Raises:
        BadInput: It is empty, too long, or has ids outside of the vocabulary.
    """
    config = model.config
    if not isinstance(source, str):
        tokens = [int(token) for token in source]
    elif encode is None:
        raise BadInput("this model has no tokenizer, so it cannot read a text", where=where, remedy="give token ids")
    else:
        tokens = encode(source)
    if not tokens:
        raise BadInput("the source is empty", where=where, remedy="give at least one token")
    for token in tokens:
        if not 0 <= token < config.source_vocab_size:
            raise BadInput(f"token id {token} is outside of the vocabulary of {config.source_vocab_size}", where=where)
    if len(tokens) > config.source_context:
        raise BadInput(
            f"the source has {len(tokens)} tokens; the encoder reads at most {config.source_context}",
            where=where,
            remedy="shorten it, or write for its parts one by one",
        )
    return tokens


def encoded(source: Prompt, encode: SourceEncoder | None, model: EncoderDecoder, where: str | None) -> EncodedPrompt:
    """Returns what the decoder begins from: its start token, behind the source."""
    return EncodedPrompt([model.config.start], source=tuple(encode_source(source, encode, model, where)))


class SourceReader:
    """Reads sources for a call; see `rows.Reader`.

    Args:
        model: The network, in evaluation mode.
        sources: Token ids, one list for each prompt of the call.
    """

    def __init__(self, model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> None:
        self._model, self._sources = model, sources

    def __call__(self, prompts: Sequence[Sequence[int]], room: int) -> NetworkRows:
        """Returns rows that have read the sources and these beginnings of their targets."""
        network = self._model.reading(Ragged.of(self._sources, device=self._model.device))
        return NetworkRows(network.eval(), prompts, room)
