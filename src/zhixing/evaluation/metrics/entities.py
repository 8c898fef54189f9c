"""Entity F1 as conlleval computes it: an entity is right when its beginning, its end and its type are.

The rules of where a chunk begins and ends are conlleval's (Tjong Kim Sang and Buchholz 2000), which read IOB1, BIO
(IOB2) and mixtures of them without being told, extended to E and S (BIOES) as seqeval does. M of BMES is read as I.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    Statistics,
    check_pairs,
    make_score,
    ratio,
    short,
)

NAMES = ("entity_f1", "tag_accuracy")


class Chunk(NamedTuple):
    """An entity: tokens [begin, end) of one type."""

    begin: int
    end: int
    type: str


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
            statistics = Statistics.dense(rows[:, :3], _f1)
            each = np.where(rows[:, 1] + rows[:, 2] > 0, _f1(rows), 1.0)
            signature = "entity F1|conlleval: same begin, end and type|chunks:conlleval (IOB1, BIO), E and S as seqeval"
            scores.append(make_score(name, signature, statistics, each, details=_details(rows, types)))
        else:
            statistics = Statistics.dense(rows[:, 3:], lambda sums: ratio(sums[..., 0], sums[..., 1]))
            each = ratio(rows[:, 3], rows[:, 4], 1.0)
            scores.append(make_score(name, "tag accuracy|share of tokens", statistics, each))
    return scores


def _f1(sums: FloatArray) -> FloatArray:
    return ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _details(rows: FloatArray, types: dict[str, Counter[str]]) -> dict[str, Any]:
    totals = rows.sum(axis=0)
    per_type = {
        kind: _figures(types["right"][kind], types["predicted"][kind], types["true"][kind])
        for kind in sorted(types["predicted"] | types["true"])
    }
    return {
        **_figures(*(int(value) for value in totals[:3])),
        "tag_accuracy": float(totals[3] / totals[4]),
        "tokens": int(totals[4]),
        "types": per_type,
    }


def _figures(right: int, predicted: int, true: int) -> dict[str, Any]:
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (predicted + true) if predicted + true else 0.0,
        "right": right,
        "predicted": predicted,
        "true": true,
    }


def _chunks_of(tags: Sequence[str], number: int) -> list[Chunk]:
    try:
        return chunks(tags)
    except BadInput as error:
        raise BadInput(f"sentence {number + 1}: {error.cause}", remedy=error.remedy) from None


def split_tag(tag: str) -> tuple[str, str]:
    """Returns position and type of a tag: B-PER -> B, PER; O -> O, "".

    Raises:
        BadInput: The tag is of no known scheme.
    """
    position, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    position = {"M": "I", "L": "E", "U": "S", "W": "S"}.get(position, position)
    if position not in ("B", "I", "E", "S", "O") or (position == "O" and kind):
        raise BadInput(
            f"{short(tag)} is not a tag", remedy="tags are O, or B- I- E- S- (also M- L- U-) and a type, as in B-PER"
        )
    return position, kind


def chunks(tags: Sequence[str]) -> list[Chunk]:
    """Returns the entities of a sentence by conlleval's rules.

    A chunk of IOB1 begins with I, and with B only where it follows another one of its type; an I of another type than
    the token before, or after O, begins a new chunk.

    Raises:
        BadInput: A tag is of no known scheme.
    """
    found: list[Chunk] = []
    begin = -1  # of the open chunk; -1 when there is none
    before, kind_before = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        position, kind = split_tag(tag)
        if begin >= 0 and _ends(before, position, kind_before, kind):
            found.append(Chunk(begin, place, kind_before))
            begin = -1
        if _begins(before, position, kind_before, kind):
            begin = place
        before, kind_before = position, kind
    return found


def _ends(before: str, position: str, kind_before: str, kind: str) -> bool:
    return before in ("E", "S") or position in ("B", "S", "O") or kind_before != kind


def _begins(before: str, position: str, kind_before: str, kind: str) -> bool:
    if position in ("B", "S"):
        return True
    return position in ("I", "E") and (before in ("O", "E", "S") or kind_before != kind)
