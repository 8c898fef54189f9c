"""Entity F1 as conlleval computes it: an entity is right when its beginning, its end and its type are.

Where a chunk begins and ends is decided by conlleval's rules, in `data.shapes.schemes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.data.shapes.schemes import Chunk, chunks
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    Statistics,
    check_pairs,
    f1,
    figures,
    make_score,
    ratio,
)

NAMES = ("entity_f1", "tag_accuracy")


def entities(
    predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], names: Sequence[str] = ("entity_f1",)
) -> list[Score]:
    """Measures tags, one sequence for each sentence.

    Args:
        predictions: The tags of each sentence: O, B-PER, I-PER, ...
        references: Likewise, of the same lengths.
        names: `entity_f1`, conlleval's FB1 over all types (from 0 to 1; precision, recall and every type in the
            details), and `tag_accuracy`, the share of tokens with the right tag.

    Raises:
        BadInput: The numbers of sentences or of their tags differ, or a tag is of no known scheme.
    """
    check_pairs(predictions, references)
    for name in names:
        if name not in NAMES:
            raise unknown_name("measure", name, NAMES)
    rows = np.zeros((len(references), 5))  # right, predicted, true chunks; right, all tags
    types: dict[str, Counter[str]] = {"right": Counter(), "predicted": Counter(), "true": Counter()}
    for number, (ours, theirs) in enumerate(zip(predictions, references, strict=True)):
        if len(ours) != len(theirs):
            raise BadInput(f"sentence {number + 1}: {len(ours)} predicted tag(s) but {len(theirs)} in the reference")
        mine, gold = _chunks_of(ours, number), _chunks_of(theirs, number)
        both = set(mine) & set(gold)
        same = sum(one == other for one, other in zip(ours, theirs, strict=True))
        rows[number] = len(both), len(mine), len(gold), same, (len(gold) and len(theirs)) or len(theirs)
        for title, found in (("right", both), ("predicted", mine), ("true", gold)):
            types[title].update(chunk.type for chunk in found)
    if not rows[:, 4].sum():
        raise BadInput("there is nothing to score: all sentences are empty")
    scores = []
    for name in names:
        if name == "entity_f1":
            statistics = Statistics.dense(rows[:, :3], f1)
            each = np.where(rows[:, 1] + rows[:, 2] > 0, f1(rows), 1.0)
            signature = "entity F1|conlleval: same begin, end and type|chunks:conlleval (IOB1, BIO), E and S as seqeval"
            scores.append(make_score(name, signature, statistics, each, details=_details(rows, types)))
        else:
            statistics = Statistics.dense(rows[:, 3:], lambda sums: ratio(sums[..., 0], sums[..., 1]))
            each = ratio(rows[:, 3], rows[:, 4], 1.0)
            scores.append(make_score(name, "tag accuracy|share of tokens", statistics, each))
    return scores


def _details(rows: FloatArray, types: dict[str, Counter[str]]) -> dict[str, Any]:
    totals = rows.sum(axis=0)
    per_type = {
        kind: figures(types["right"][kind], types["predicted"][kind], types["true"][kind])
        for kind in sorted(types["predicted"] | types["true"])
    }
    return {
        **figures(*(int(value) for value in totals[:3])),
        "tag_accuracy": float(totals[3] / totals[4]),
        "tokens": int(totals[4]),
        "types": per_type,
    }


def _chunks_of(tags: Sequence[str], number: int) -> list[Chunk]:
    try:
        return chunks(tags)
    except BadInput as error:
        raise BadInput(f"sentence {number + 1}: {error.cause}", remedy=error.remedy) from None
