"""Intervals for bits per byte and perplexity, over the documents or files that were measured one by one.

The figures themselves come from `evaluation.language_modelling`; here their sums are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics.base import FloatArray, Score, Statistics, make_score, ratio

if TYPE_CHECKING:
    from zhixing.evaluation.language_modelling import LanguageModelScore

NAMES = ("bits_per_byte", "perplexity")


def language_scores(parts: Mapping[str, LanguageModelScore], names: Sequence[str] = NAMES) -> list[Score]:
    """Returns bits per byte and perplexity over the parts that `evaluate_by_source` returned, ready to be resampled.

    Raises:
        BadInput: There is no part, or they are of different tokenizers or windows.
    """
    if not parts:
        raise BadInput("there is nothing to score: no text was measured")
    found = list(parts.values())
    if len({(part.tokenizer, part.window, part.stride) for part in found}) > 1:
        raise BadInput("these figures are of different tokenizers or windows, which do not add up")
    rows = [(part.loss * part.tokens, part.tokens, part.bytes) for part in found]
    one = found[0]
    signature = f"window:{one.window}|stride:{one.stride}|tokenizer:{one.tokenizer[:12]}"
    return from_sums(rows, names, signature=signature)


def from_sums(
    rows: Sequence[tuple[float, float, float]], names: Sequence[str] = NAMES, *, signature: str = ""
) -> list[Score]:
    """Returns the same from (nats, tokens, bytes of UTF-8) of each document.

    Raises:
        BadInput: A document has a negative or impossible number, or there is none.
    """
    sums = np.asarray(rows, dtype=np.float64).reshape(-1, 3)
    if not len(sums):
        raise BadInput("there is nothing to score: no document")
    bad = ~(np.isfinite(sums).all(axis=1) & (sums >= 0).all(axis=1) & (sums[:, 1:] > 0).all(axis=1))
    if bad.any():
        number = int(np.argmax(bad))
        nats, tokens, size = sums[number]
        raise BadInput(
            f"document {number + 1}: {nats:g} nats, {tokens:g} tokens, {size:g} bytes cannot be",
            remedy="give the summed loss in nats, and how many tokens and bytes it belongs to",
        )
    scores = []
    for name in names:
        if name == "bits_per_byte":
            formula, title = _bits, "bits per byte|cross-entropy in bits over the bytes of UTF-8"
        elif name == "perplexity":
            formula, title = (
                _perplexity,
                "perplexity|exp of the mean loss of a token, which belongs to its tokenizer",
            )
        else:
            raise unknown_name("measure", name, NAMES)
        full = f"{title}|{signature}" if signature else title
        scores.append(make_score(name, full, Statistics.dense(sums, formula), formula(sums), better="lower", top=None))
    return scores


def _bits(sums: FloatArray) -> FloatArray:
    return ratio(sums[..., 0] / math.log(2), sums[..., 2], math.inf)


def _perplexity(sums: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return np.exp(ratio(sums[..., 0], sums[..., 1], math.inf))
