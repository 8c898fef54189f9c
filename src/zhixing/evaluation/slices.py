"""Parts of a measured data set: by the length of the input and by its language. The measures are not computed again:
the statistics of the chosen examples are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from zhixing.evaluation.metrics.base import IntArray, Score, Statistics
from zhixing.evaluation.metrics.resampling import RESAMPLES, SEED, with_interval
from zhixing.evaluation.metrics.scripts import main_script

LENGTH_PARTS = 5
"""Parts by length, of about equally many examples."""
FEWEST = 8
"""Examples that a part has at least."""
LANGUAGES = {"zh": "Chinese", "ja": "Japanese", "ko": "Korean", "other": "other scripts (Latin and so on)"}


@dataclass(frozen=True)
class Part:
    """A part of the examples.

    Attributes:
        title: What they have in common.
        score: The measure on them, with its interval.
    """

    title: str
    score: Score


def subset(score: Score, chosen: npt.ArrayLike) -> Score:
    """Returns a score on some of its examples.

    Args:
        score: On all of them.
        chosen: Their numbers, or a truth value for each example.
    """
    places: IntArray = np.arange(score.n, dtype=np.intp)[np.asarray(chosen)]
    statistics = Statistics(score.statistics.rows, score.statistics.index[places], score.statistics.formula)
    return replace(
        score, value=statistics.value, n=len(places), per_example=score.per_example[places], statistics=statistics,
        interval=None, details={}, notes=(),
    )  # fmt: skip


def by_length(score: Score, texts: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Part]:
    """Returns the measure by the length of the input in characters, in parts of about equally many examples."""
    lengths = np.array([len(text) for text in texts])
    parts = max(1, min(LENGTH_PARTS, len(texts) // FEWEST))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, parts + 1), method="lower"))
    found = []
    for number, low in enumerate(edges[:-1] if len(edges) > 1 else edges):
        last = number >= len(edges) - 2
        high = edges[number + 1] if len(edges) > 1 else low
        chosen = (lengths >= low) & ((lengths <= high) if last else (lengths < high))
        if chosen.any():
            top = int(high if last else high - 1)
            title = f"{int(low):,} to {top:,} characters" if top > low else f"{int(low):,} characters"
            found.append(Part(title, _measured(subset(score, chosen), resamples, seed)))
    return found


def by_language(score: Score, texts: Sequence[str], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Part]:
    """Returns the measure by the script of the input; empty when there is only one."""
    scripts = [main_script([text]) for text in texts]
    kinds = [kind for kind in LANGUAGES if kind in scripts]
    if len(kinds) < 2:
        return []
    masks = {kind: np.array([script == kind for script in scripts]) for kind in kinds}
    return [Part(LANGUAGES[kind], _measured(subset(score, mask), resamples, seed)) for kind, mask in masks.items()]


def _measured(score: Score, resamples: int, seed: int) -> Score:
    return with_interval(score, resamples=resamples, seed=seed) if resamples else score
