"""report.html and result.json of a task on a data set: figures, comparison, pictures, parts, worst cases.

What the figures are is `task_measures`' and the metrics' concern; here they are put on a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.files import atomic_file, atomic_write
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.classification import confusion_matrix
from zhixing.evaluation.metrics.pictures import calibration_svg, confusion_svg, most_confused
from zhixing.evaluation.metrics.significance import Comparison
from zhixing.evaluation.pages import render
from zhixing.evaluation.report import mostly_chinese
from zhixing.evaluation.slices import Part, by_language, by_length
from zhixing.evaluation.task_measures import Example, Measured, Result

REPORT = "report.html"
RESULT = "result.json"
WORST = 20
SHOWN_CHARACTERS = 400
"""A longer text of a worst case is cut on the page, and marked; predictions.jsonl has all of it."""

TITLES = {
    "accuracy": "准确率", "macro_f1": "宏平均 F1", "micro_f1": "微平均 F1", "mcc": "马修斯相关系数", "ece": "校准误差",
    "entity_f1": "实体 F1", "tag_accuracy": "标签准确率", "bleu": "BLEU", "chrf": "chrF", "ter": "TER",
    "exact_match": "完全匹配", "field_f1": "字段 F1", "json_exact": "全部字段正确", "json_valid": "合法 JSON 比例",
    "top@1": "首选准确率", "top@5": "前五准确率", "bits_per_byte": "每字节比特数", "perplexity": "困惑度",
}  # fmt: skip


@dataclass(frozen=True)
class System:
    """A system on the data set.

    Attributes:
        name: What the user called it.
        measured: Its results.
        seconds: Time that it worked.
        facts: More about it, as plain data.
    """

    name: str
    measured: Measured
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One or two systems on a data set.

    Attributes:
        task: The task.
        data: The files.
        systems: The systems.
        comparisons: Of the two, where there are two; the difference is second - first.
        notes: What a reader has to know.
        problems: Of the data, as `Problems.to_json` gives them.
    """

    task: str
    data: tuple[str, ...]
    systems: tuple[System, ...]
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    problems: dict[str, Any] = field(default_factory=dict)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples, which all systems were given."""
        return self.systems[0].measured.examples

    def parts(self, score: Score) -> dict[str, list[Part]]:
        """Returns one measure by length and by language of the inputs."""
        texts = [example.sized for example in self.examples]
        return {"length": by_length(score, texts), "language": by_language(score, texts)}

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the single results as plain data."""
        systems = []
        for system in self.systems:
            found = system.measured
            parts = self.parts(found.scores[0])
            systems.append(
                {
                    "model": system.name,
                    "seconds": round(system.seconds, 3),
                    "failed": found.failed,
                    **system.facts,
                    "scores": [score.to_json() for score in found.scores],
                    "by": {
                        kind: [{"part": part.title, **part.score.to_json()} for part in several]
                        for kind, several in parts.items()
                    },
                }
            )
        return {
            "task": self.task,
            "data": list(self.data),
            "examples": len(self.examples),
            "systems": systems,
            "comparisons": [one.to_json() for one in self.comparisons],
            "notes": list(self.notes),
            "problems": self.problems,
        }


def write_evaluation(folder: Path, evaluation: Evaluation) -> Path:
    """Writes result.json, the results of every system (predictions.jsonl, predictions-2.jsonl) and report.html.

    Returns:
        The path of the report.

    Raises:
        MissingResource: The folder cannot be written.
    """
    for number, system in enumerate(evaluation.systems, 1):
        name = "predictions.jsonl" if number == 1 else f"predictions-{number}.jsonl"
        with atomic_file(folder / name) as file:
            for row in rows_of(system.measured):
                file.write((json.dumps(row, ensure_ascii=False, default=str) + "\n").encode("utf-8", "replace"))
    atomic_write(folder / RESULT, json.dumps(evaluation.to_json(), ensure_ascii=False, indent=1))
    atomic_write(folder / REPORT, render_evaluation(evaluation))
    return folder / REPORT


def rows_of(measured: Measured) -> list[dict[str, Any]]:
    """Returns every example with what was said of it and the value of each measure."""
    rows = []
    for k, (example, result) in enumerate(zip(measured.examples, measured.results, strict=True)):
        rows.append(
            {
                "place": example.place, **example.row, "reference": example.reference,
                "prediction": None if result is None else measured.predictions[k],
                **{score.name: float(score.per_example[k]) for score in measured.scores},
            }
        )  # fmt: skip
    return rows


def render_evaluation(evaluation: Evaluation) -> str:
    """Returns the page of an evaluation as HTML."""
    systems = evaluation.systems
    return render(
        "evaluation.html",
        {
            "name": f"{evaluation.task}: {' against '.join(system.name for system in systems)}",
            "language": "zh" if mostly_chinese("".join(one.sized for one in evaluation.examples[:200])) else "en",
            "task": evaluation.task,
            "data": ", ".join(evaluation.data),
            "examples": f"{len(evaluation.examples):,}",
            "systems": [_system(evaluation, system, f"v{k}") for k, system in enumerate(systems)],
            "comparisons": [_comparison(one, systems) for one in evaluation.comparisons],
            "worst": _worst(evaluation),
            "headline": systems[0].measured.scores[0].name.replace("_", " "),
            "notes": [*evaluation.notes, *_score_notes(systems)],
            "problems": evaluation.problems.get("examples", []),
        },
    )


def _score_notes(systems: Sequence[System]) -> list[str]:
    notes = [f"{system.name}: {note}" for system in systems for score in system.measured.scores for note in score.notes]
    return list(dict.fromkeys(notes))


def _system(evaluation: Evaluation, system: System, colour: str) -> dict[str, Any]:
    scores = system.measured.scores
    parts = evaluation.parts(scores[0])
    measured_text = "caption" if evaluation.task == "describe" else "input"
    return {
        "name": system.name,
        "colour": colour,
        "seconds": system.seconds,
        "speed": len(evaluation.examples) / system.seconds if system.seconds else 0.0,
        "failed": system.measured.failed,
        "scores": [_score_row(score) for score in scores],
        "confusion": _confusion(system.measured),
        "confused": _confused(system.measured),
        "calibration": next((calibration_svg(score) for score in scores if score.name == "ece"), ""),
        "kinds": _kinds(scores),
        "parts": [
            (f"by length of the {measured_text}", "按长度", [_bar(part, parts["length"]) for part in parts["length"]]),
            (
                f"by language of the {measured_text}",
                "按语言",
                [_bar(part, parts["language"]) for part in parts["language"]],
            ),
        ],
    }


def _score_row(score: Score) -> dict[str, str]:
    form = ".2f" if score.top == 100 else ".4g" if score.top is None and score.value >= 10 else ".4f"
    between = score.interval
    return {
        "name": score.name.replace("_", " "),
        "chinese": TITLES.get(score.name, ""),
        "value": format(score.value, form),
        "interval": f"{between.low:{form}} to {between.high:{form}}" if between else "–",
        "better": score.better,
        "signature": score.signature,
    }


def _bar(part: Part, all_parts: Sequence[Part]) -> dict[str, Any]:
    row = _score_row(part.score)
    top = part.score.top or max((one.score.value for one in all_parts), default=1.0) or 1.0
    interval = part.score.interval
    return {
        "title": part.title,
        "n": f"{part.score.n:,}",
        "value": row["value"],
        "interval": row["interval"],
        "share": 100 * min(1.0, max(0.0, part.score.value / top)),
        "low": 100 * min(1.0, max(0.0, interval.low / top)) if interval else 0.0,
        "high": 100 * min(1.0, max(0.0, interval.high / top)) if interval else 0.0,
        "has_interval": interval is not None,
    }


def _single_labels(measured: Measured) -> bool:
    return measured.task == "classify" and not isinstance(measured.examples[0].reference, list)


def _confusion(measured: Measured) -> str:
    if not _single_labels(measured):
        return ""
    return confusion_svg(*confusion_matrix(measured.predictions, measured.references))


def _confused(measured: Measured) -> list[dict[str, str]]:
    if not _single_labels(measured):
        return []
    matrix, labels = confusion_matrix(measured.predictions, measured.references)
    return [
        {
            "true": one.true,
            "predicted": one.predicted or "(no result)",
            "count": f"{one.count:,}",
            "share": f"{one.share:.0%}",
        }
        for one in most_confused(matrix, labels)
    ]


def _kinds(scores: Sequence[Score]) -> list[dict[str, str]]:
    """Returns the figures of every class or type of entity."""
    for score in scores:
        if classes := score.details.get("classes"):
            return [_kind(str(one["label"]), one) for one in classes]
        if types := score.details.get("types"):
            return [_kind(name, one) for name, one in types.items()]
    return []


def _kind(name: str, values: dict[str, Any]) -> dict[str, str]:
    count = values.get("support", values.get("true"))
    return {
        "name": name or "(no result)",
        "precision": f"{values['precision']:.3f}",
        "recall": f"{values['recall']:.3f}",
        "f1": f"{values['f1']:.3f}",
        "count": f"{count:,}" if count is not None else "–",
    }


def _comparison(one: Comparison, systems: Sequence[System]) -> dict[str, str]:
    first, second = (system.name for system in systems[:2])
    verdict = one.verdict.replace("the second", second).replace("the first", first)
    between = one.interval
    return {
        "name": one.name.replace("_", " "),
        "first": f"{one.first:.4g}",
        "second": f"{one.second:.4g}",
        "difference": f"{one.difference:+.4g}",
        "interval": f"{between.low:+.4g} to {between.high:+.4g}" if between else "–",
        "p": f"{one.p_bootstrap:.2g} / {one.p_randomisation:.2g}",
        "counts": f"{one.wins:,} / {one.losses:,} / {one.ties:,}",
        "verdict": verdict,
    }


def _worst(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Returns the worst cases of one system; of two, those on which the second falls furthest behind the first."""
    firsts = [system.measured.scores[0] for system in evaluation.systems]
    sign = 1.0 if firsts[0].better == "higher" else -1.0
    if len(firsts) == 1:
        badness = -sign * firsts[0].per_example
        sureness = _sureness(evaluation.systems[0].measured.results)
        order = np.lexsort((-sureness, -badness))
        perfect = firsts[0].top
        bad = [k for k in order.tolist() if perfect is None or abs(firsts[0].per_example[k] - perfect) > 1e-12]
    else:
        change = sign * (firsts[1].per_example - firsts[0].per_example)
        bad = [k for k in np.argsort(change, kind="stable").tolist() if change[k] < 0]
    rows = []
    for k in bad[:WORST]:
        example = evaluation.examples[k]
        rows.append(
            {
                "place": example.place,
                "shown": _cut(example.shown),
                "reference": _cut(_plain(example.reference)),
                "answers": [_answer(system, k) for system in evaluation.systems],
            }
        )  # fmt: skip
    return rows


def _answer(system: System, place: int) -> dict[str, str]:
    """Returns what a system said of an example, and how good or how sure that is."""
    result, found = system.measured.results[place], system.measured
    if result is None:
        return {"text": "(no result)", "value": ""}
    sure = result.get("probability")
    value = f"{sure:.0%} sure" if isinstance(sure, int | float) else f"{found.scores[0].per_example[place]:.3g}"
    return {"text": _cut(_plain(found.predictions[place])), "value": value}


def _sureness(results: Sequence[Result | None]) -> Any:
    return np.array([float(result.get("probability") or 0.0) if result else 0.0 for result in results])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) if value and len(str(value[0])) < 12 else " / ".join(map(str, value))
    return str(value)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} […]"
