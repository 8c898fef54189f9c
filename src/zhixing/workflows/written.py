"""How an objective of encoder-decoders has its held-out targets written: training knows nothing of generation."""

from __future__ import annotations

from collections.abc import Sequence

from zhixing.generation import Generator, SamplingOptions
from zhixing.models.encoder_decoder import EncoderDecoder


def write_targets(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], end: int, longest: int, beams: int, length_penalty: float
) -> list[list[int]]:
    """Writes the likeliest target behind each source; see `objectives.base.TargetWriter`."""
    options = SamplingOptions(temperature=0.0, max_tokens=longest, end_tokens=(end,))
    if beams > 1:
        options = options.replace(num_beams=beams, length_penalty=length_penalty)
    return [answer.tokens for answer in Generator(model, None).generate(sources, options)]
