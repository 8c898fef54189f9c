"""Diversity of generated texts: distinct-n, repetition, self-BLEU, length.

distinct-n: Li et al. 2016, over the whole set. Repetition: the share of n-grams of a text that it holds already
(seq-rep-n, Welleck et al. 2020). Self-BLEU: Zhu et al. 2018, each text against all others, here with sacrebleu's
tokenizer and formula.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from zhixing.core.errors import BadInput, missing_extra, unknown_name
from zhixing.evaluation.metrics.base import (
    FloatArray,
    Score,
    Statistics,
    check_texts,
    make_score,
    mean_of,
    ratio,
)
from zhixing.evaluation.metrics.ngrams import TOKENS, Ids, cut, orders
from zhixing.evaluation.metrics.scripts import main_script
from zhixing.evaluation.metrics.translation import ORDER, bleu_formula, bleu_tokenizer

NAMES = ("distinct-1", "distinct-2", "distinct-3", "repetition-4", "self_bleu", "length")
PATTERN = re.compile(r"(distinct|repetition)-([1-9])$")


def generation(
    predictions: Sequence[str], names: Sequence[str] = ("distinct-1", "distinct-2", "repetition-4", "length")
) -> list[Score]:
    """Measures a set of generated texts by themselves, without references.

    Args:
        predictions: The texts.
        names: `distinct-n` and `repetition-n` for n up to 9, `self_bleu`, `length`.

    Raises:
        BadInput: There is no text, or only one for self-BLEU.
        MissingResource: self-BLEU without sacrebleu.
    """
    check_texts(predictions)
    if not len(predictions):
        raise BadInput("there is nothing to score: no prediction")
    tokens = [cut(text) for text in predictions]
    scores = []
    for name in names:
        match = PATTERN.match(name)
        if match and match[1] == "distinct":
            scores.append(_distinct(name, tokens, int(match[2])))
        elif match:
            scores.append(_repetition(name, tokens, int(match[2])))
        elif name == "self_bleu":
            scores.append(_self_bleu(predictions))
        elif name == "length":
            scores.append(_length(predictions, tokens))
        else:
            raise unknown_name("measure", name, NAMES)
    return scores


def _distinct(name: str, tokens: list[list[str]], n: int) -> Score:
    *_, order = orders(tokens, n)
    counts = np.bincount(order.ids, minlength=order.kinds)
    # Each place where an n-gram stands has its share of it: the shares add up to the number of different n-grams.
    shares = np.bincount(order.owner, ratio(1.0, counts)[order.ids], len(tokens))
    total = np.bincount(order.owner, minlength=len(tokens)).astype(np.float64)
    _, owner, _ = order.per_text()
    own = np.bincount(owner, minlength=len(tokens)) if len(order.ids) else np.zeros(len(tokens))
    statistics = Statistics.dense(np.stack([shares, total], axis=1), lambda sums: ratio(sums[..., 0], sums[..., 1]))
    return make_score(
        name,
        f"different {n}-grams / all {n}-grams, of the whole set|token:{TOKENS}|interval:counts of the set held fixed",
        statistics,
        ratio(own, total, 1.0),
        details={"different": order.kinds, "all": len(order.ids)},
        notes=["distinct-n falls with the amount of text: compare sets of the same size"],
    )


def _repetition(name: str, tokens: list[list[str]], n: int) -> Score:
    *_, order = orders(tokens, n)
    total = np.bincount(order.owner, minlength=len(tokens)).astype(np.float64)
    _, owner, _ = order.per_text()
    own = np.bincount(owner, minlength=len(tokens)) if len(order.ids) else np.zeros(len(tokens))
    values = np.where(total > 0, 1 - ratio(own, total), 0.0)
    long_enough = (total > 0).astype(np.float64)
    statistics = Statistics.dense(
        np.stack([values, long_enough], axis=1), lambda sums: ratio(sums[..., 0], sums[..., 1])
    )
    left_out = int((total == 0).sum())
    return make_score(
        name,
        f"mean share of a text's {n}-grams that stand in it before|token:{TOKENS}",
        statistics,
        values,
        better="lower",
        top=None,
        notes=[f"{left_out} text(s) shorter than {n} tokens are left out"] if left_out else [],
    )


def _length(predictions: Sequence[str], tokens: list[list[str]]) -> Score:
    lengths = np.array([len(text) for text in tokens], dtype=np.float64)
    characters = [len(text) for text in predictions]
    quarters = np.quantile(lengths, [0.0, 0.25, 0.5, 0.75, 1.0])
    return make_score(
        "length",
        f"mean tokens of a text|token:{TOKENS}",
        mean_of(lengths),
        lengths,
        better="neither",
        top=None,
        details={
            "characters": float(np.mean(characters)),
            "quartiles": [float(value) for value in quarters],
            "empty": sum(not text.strip() for text in predictions),
        },
    )


def _self_bleu(predictions: Sequence[str]) -> Score:
    if len(predictions) < 2:
        raise BadInput(
            "self-BLEU compares texts with each other: it needs two or more",
            remedy="leave it out: distinct-1,distinct-2,repetition-4,length",
        )
    try:
        from sacrebleu import BLEU
    except ImportError as error:
        raise missing_extra("sacrebleu", "eval", "measuring self-BLEU") from error
    tokenizer, notes = bleu_tokenizer(main_script(predictions))
    metric = BLEU(tokenize=tokenizer, effective_order=True)
    tokens = [metric.tokenizer(text.rstrip()).split() for text in predictions]
    each = bleu_formula(self_bleu_counts(tokens), effective=True)
    return make_score(
        "self_bleu",
        f"mean BLEU of each text against all others|tok:{tokenizer}|smooth:exp|eff:yes",
        mean_of(each),
        each,
        better="lower",
        top=100.0,
        notes=notes,
    )


def self_bleu_counts(tokens: Sequence[Sequence[str]]) -> FloatArray:
    """Returns sacrebleu's statistics of each text against all others as references, (texts, 10), in linear time.

    An n-gram counts as right as often as the other text that holds it most often: so the two highest counts of each
    n-gram, and whose the highest is, are all that is needed.
    """
    texts = len(tokens)
    rows = np.zeros((texts, 2 + 2 * ORDER))
    lengths = np.array([len(text) for text in tokens], dtype=np.int64)
    rows[:, 0] = lengths
    rows[:, 1] = _closest_other(lengths)
    for order in orders(tokens, ORDER):
        ids, owner, counts = order.per_text()
        best = _best_of_others(ids, counts, order.kinds)
        rows[:, 1 + order.n] = np.bincount(owner, np.minimum(counts, best), texts)
        rows[:, 1 + ORDER + order.n] = np.bincount(owner, counts, texts)
    return rows


def _best_of_others(ids: Ids, counts: Ids, kinds: int) -> Ids:
    """Returns for each (n-gram, text) the highest count of that n-gram in another text."""
    by_count = np.lexsort((-counts, ids))
    first = np.searchsorted(ids[by_count], np.arange(kinds))
    highest = np.zeros(kinds, dtype=np.int64)
    highest_at = np.full(kinds, -1)
    second = np.zeros(kinds, dtype=np.int64)
    if kinds:
        highest, highest_at = counts[by_count[first]], by_count[first]
        follows = first + 1
        has_second = (follows < len(ids)) & (ids[by_count[np.minimum(follows, len(ids) - 1)]] == np.arange(kinds))
        second[has_second] = counts[by_count[follows[has_second]]]
    return np.where(np.arange(len(ids)) == highest_at[ids], second[ids], highest[ids])


def _closest_other(lengths: Ids) -> Ids:
    """Returns for each text the length of another one that is closest to its own; of two, the shorter."""
    sizes, inverse, counts = np.unique(lengths, return_inverse=True, return_counts=True)
    below = np.concatenate([[-1], sizes[:-1]])
    above = np.concatenate([sizes[1:], [-1]])
    nearer_below = (below >= 0) & ((above < 0) | (sizes - below <= above - sizes))
    closest = np.where(counts > 1, sizes, np.where(nearer_below, below, above))
    return closest[inverse.reshape(-1)]
