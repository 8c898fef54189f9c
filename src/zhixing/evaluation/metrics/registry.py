"""Every measure by name: what it needs, and how it is computed, with its interval. No formula is here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zhixing.core.errors import BadInput, unknown_name
from zhixing.evaluation.metrics import (
    answers,
    calibration,
    classification,
    entities,
    extraction,
    generation,
    language,
    retrieval,
    rouge,
    translation,
)
from zhixing.evaluation.metrics.base import Score, check_pairs, short
from zhixing.evaluation.metrics.resampling import CONFIDENCE, RESAMPLES, SEED, with_interval
from zhixing.evaluation.metrics.significance import TRIALS, Comparison, compare_scores

Kind = Literal["texts", "answers", "labels", "confidences", "tags", "rankings", "values", "generated", "losses"]
"""What predictions and references are: see `Family`."""


@dataclass(frozen=True)
class Family:
    """Measures that need the same and are computed together.

    Attributes:
        name: Of the family; asking for it gives its usual measures.
        kind: What it measures. texts and answers: a text each (references: one or several). labels: a label or list of
            labels each. confidences: (label, probability) against a label. tags: a list of tags each. rankings: a list
            of items each, against relevant items or grades. values: JSON, as text or as its value. generated: texts
            without references. losses: (nats, tokens, bytes) without references.
        members: Names of the measures.
        usual: Those that are computed when the family is asked for.
        compute: From predictions, references, names and options to scores.
        summary: What it is for, in a line.
    """

    name: str
    kind: Kind
    members: tuple[str, ...]
    usual: tuple[str, ...]
    compute: Callable[..., list[Score]]
    summary: str

    @property
    def needs_references(self) -> bool:
        """Whether there is something to compare with."""
        return self.kind not in ("generated", "losses")


def _calibration(
    predictions: Sequence[Any],
    references: Sequence[Any],
    names: Sequence[str] = ("ece",),
    *,
    bins: int = calibration.BINS,
) -> list[Score]:
    check_pairs(predictions, references)
    confidences, correct = [], []
    for number, (entry, true) in enumerate(zip(predictions, references, strict=True), start=1):
        if not isinstance(entry, list | tuple) or len(entry) != 2 or not isinstance(entry[1], int | float):
            raise BadInput(f"example {number}: a label with its probability is expected, not {short(entry)}")
        confidences.append(float(entry[1]))
        correct.append(entry[0] == true)
    return [calibration.calibration(confidences, correct, bins=bins)]


def _generated(predictions: Sequence[Any], references: object, names: Sequence[str]) -> list[Score]:
    return generation.generation(predictions, names)


def _losses(predictions: Sequence[Any], references: object, names: Sequence[str]) -> list[Score]:
    return language.from_sums(predictions, names)


FAMILIES: tuple[Family, ...] = (
    Family("translation", "texts", translation.NAMES, ("bleu", "chrf", "ter"), translation.translation,
           "BLEU, chrF, chrF++ and TER by sacrebleu"),
    Family("rouge", "texts", rouge.NAMES, rouge.NAMES, rouge.rouge, "ROUGE by rouge-score, for summaries"),
    Family("exact", "texts", ("exact_match",), ("exact_match",), answers.answers, "equality of texts"),
    Family("squad", "answers", ("squad_em", "squad_f1"), ("squad_em", "squad_f1"), answers.answers,
           "answers as SQuAD 1.1 measures them"),
    Family("squad2", "answers", ("squad2_em", "squad2_f1"), ("squad2_em", "squad2_f1"), answers.answers,
           "answers, or none, as SQuAD 2.0 measures them"),
    Family("cmrc", "answers", ("cmrc_em", "cmrc_f1"), ("cmrc_em", "cmrc_f1"), answers.answers,
           "Chinese answers as CMRC 2018 measures them"),
    Family("classification", "labels", classification.NAMES, ("accuracy", "macro_f1", "micro_f1", "mcc"),
           classification.classification, "labels: accuracy, F1, Matthews correlation"),
    Family("calibration", "confidences", calibration.NAMES, calibration.NAMES, _calibration,
           "whether probabilities are right as often as they say"),
    Family("entities", "tags", entities.NAMES, entities.NAMES, entities.entities,
           "entities as conlleval measures them"),
    Family("extraction", "values", extraction.NAMES, ("field_f1", "json_exact", "json_valid"), extraction.extraction,
           "extracted JSON: F1 of fields, share of valid answers"),
    Family("retrieval", "rankings", retrieval.NAMES, ("recall@1", "recall@5", "recall@10", "mrr", "ndcg@10"),
           retrieval.retrieval, "rankings: recall@k, hit@k, precision@k, top@k, MRR, nDCG"),
    Family("generation", "generated", generation.NAMES,
           ("distinct-1", "distinct-2", "repetition-4", "self_bleu", "length"), _generated,
           "diversity of generated texts"),
    Family("language", "losses", language.NAMES, language.NAMES, _losses, "bits per byte and perplexity of documents"),
)  # fmt: skip


def all_names() -> list[str]:
    """Returns the names of all measures and families."""
    return list(dict.fromkeys([name for family in FAMILIES for name in (family.name, *family.members)]))


def find(name: str) -> tuple[Family, tuple[str, ...]]:
    """Returns the family of a measure, and the names that are meant: of a family, its usual ones.

    Raises:
        BadInput: There is no such measure; the message names the nearest.
    """
    wanted = name.strip().lower().replace("rougel", "rougeL")
    for family in FAMILIES:
        if wanted == family.name:
            return family, family.usual
        if wanted in family.members:
            return family, (wanted,)
    for title, pattern in (("retrieval", retrieval.PATTERN), ("generation", generation.PATTERN)):
        if pattern.match(wanted):
            return next(family for family in FAMILIES if family.name == title), (wanted,)
    raise unknown_name("measure", name, all_names())


def plan(names: str | Iterable[str]) -> list[tuple[Family, tuple[str, ...]]]:
    """Returns families with the measures to compute, in the order they were asked for.

    Args:
        names: Names of measures and families, as a list or with commas between them.

    Raises:
        BadInput: One is unknown, or none is given.
    """
    several = [part for part in names.split(",") if part.strip()] if isinstance(names, str) else list(names)
    if not several:
        raise BadInput("no measure is named", remedy=f"known: {', '.join(all_names())}")
    chosen: dict[str, tuple[Family, list[str]]] = {}
    for name in several:
        family, members = find(name)
        known = chosen.setdefault(family.name, (family, []))[1]
        known += [member for member in members if member not in known]
    return [(family, tuple(members)) for family, members in chosen.values()]


def score(
    names: str | Iterable[str],
    predictions: Sequence[Any],
    references: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
    options: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Measures predictions.

    Args:
        names: Measures or families: "bleu", "bleu,chrf", ["rouge", "exact_match"].
        predictions: One for each example; what they are depends on the measure (`Family.kind`).
        references: Likewise; None for measures that need none.
        resamples: For the bootstrap interval; 0 for none.
        confidence: Of the interval.
        seed: Of the resampling.
        options: Named settings of the measures, such as {"tokenize": "zh"}.

    Returns:
        One score for each measure.

    Raises:
        BadInput: A measure or option is unknown, or the data do not fit.
        MissingResource: A package of the extra `eval` is not installed.
    """
    scores = []
    left = set(options or ())
    planned = plan(names)
    for family, members in planned:
        fitting = _fitting(family, options or {})
        left -= set(fitting)
        if family.needs_references and references is None:
            raise BadInput(f"{members[0]} needs references to compare with")
        scores += family.compute(predictions, references, members, **fitting)
    if left:
        known = {name for family, _ in planned for name in _options(family)}
        raise unknown_name("option", min(left), known)
    if resamples:
        scores = [with_interval(one, resamples=resamples, confidence=confidence, seed=seed) for one in scores]
    return scores


def _options(family: Family) -> list[str]:
    parameters = inspect.signature(family.compute).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _fitting(family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    known = _options(family)
    return {name: value for name, value in options.items() if name in known}


def compare(
    names: str | Iterable[str],
    first: Sequence[Any],
    second: Sequence[Any],
    references: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
    options: Mapping[str, Any] | None = None,
) -> list[Comparison]:
    """Compares two systems on the same examples by paired tests.

    Args:
        names: As in `score`.
        first: Predictions of one system.
        second: Predictions of the other, in the same order.
        references: As in `score`.
        resamples: Of the paired bootstrap.
        trials: Shuffles of the approximate randomisation.
        confidence: Of the interval of the difference.
        seed: Of both.
        options: As in `score`.

    Raises:
        BadInput: As in `score`, or the systems have different numbers of predictions.
    """
    if len(first) != len(second):
        raise BadInput(f"the first system has {len(first):,} prediction(s), the second {len(second):,}")
    settings = dict(options or {})
    comparisons = []
    for family, members in plan(names):
        mine = dict(settings)
        if family.kind == "labels":  # both need a place for every class that either predicts
            mine["labels"] = {label for entry in (*first, *second) for label in _as_labels(entry)}
        pairs = [score(members, one, references, resamples=0, options=mine) for one in (first, second)]
        comparisons += [
            compare_scores(one, other, resamples=resamples, trials=trials, confidence=confidence, seed=seed)
            for one, other in zip(*pairs, strict=True)
        ]
    return comparisons


def _as_labels(entry: Any) -> Iterable[Any]:
    return entry if isinstance(entry, list | tuple | set | frozenset) else (entry,)
