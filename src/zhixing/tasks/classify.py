"""Which label a text has: by a classifier trained for it, by the vectors of texts and labels, or by a chat model.

The kind of the model decides how: an encoder with a classification head knows its labels; an encoder that pools
compares the text's vector with those of the labels' names; a chat model is asked by prompt, and the labels' likelihoods
are compared, each against its likelihood behind a text that says nothing (Zhao et al. 2021, contextual calibration).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.encoder_folder import is_encoder
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import TEXT, Row, check_labels
from zhixing.tasks.embed import Embedder
from zhixing.tasks.encoders import EncoderRunner, open_folder
from zhixing.tasks.prompting import Prompt, language_of, load_prompt
from zhixing.tasks.writer import ChatWriter

DEFAULT_MODEL = "minilm"
SHOWN = 5
"""Labels whose probabilities are kept, the likeliest."""

SHARPNESS = 20.0
"""Cosines times this are the logits of labels by vectors."""

NOTHING = {"en": "N/A", "zh": "无"}
"""A text that says nothing."""


@dataclass(frozen=True)
class Classification:
    """The label of a text.

    Attributes:
        label: The likeliest; all with at least one half, where there can be several; the number, of a regression.
        probability: Its probability; of several, the least; None for a number.
        probabilities: Of the likeliest labels, best first.
        windows: In how many windows or parts the text was read, whose probabilities were averaged.
    """

    label: str | tuple[str, ...] | float
    probability: float | None
    probabilities: Mapping[str, float]
    windows: int = 1

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        label = list(self.label) if isinstance(self.label, tuple) else self.label
        return {
            "prediction": label,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "windows": self.windows,
        }

    def __str__(self) -> str:
        return ", ".join(self.label) if isinstance(self.label, tuple) else str(self.label)


class Scorer(Protocol):
    """Gives each text a value for every label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def problem(self) -> str:
        """As `HeadConfig.problem`: exactly one label, any number, or a number."""

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """Returns probabilities (or, of a regression, values), (texts, labels), and how many windows each text had."""

    def identity(self) -> dict[str, Any]:
        """Returns what decides the values."""


class HeadScorer:
    """A classifier's own labels.

    Args:
        runner: An encoder with a classification head.
    """

    def __init__(self, runner: EncoderRunner) -> None:
        self.runner = runner
        self.labels, self.problem = runner.head.labels, runner.head.problem

    def identity(self) -> dict[str, Any]:
        """See `Scorer`."""
        return {"model": self.runner.fingerprint()}

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """See `Scorer`."""
        encoded = self.runner.encode(texts)
        windows = self.runner.windows(encoded)
        sequences = [self.runner.framed(encoded[one.owner][one.begin : one.end]) for one in windows]
        scores = torch.empty(len(windows), len(self.labels), dtype=torch.float64)

        def take(group: list[int], logits: Tensor, batch: Ragged) -> None:
            scores[torch.tensor(group)] = logits.double().cpu()

        self.runner.forward(sequences, take)
        values = {"single": lambda: scores.softmax(1), "multi": scores.sigmoid}.get(self.problem, lambda: scores)()
        owners = torch.tensor([one.owner for one in windows])
        weights = torch.tensor([float(one.end - one.begin or 1) for one in windows], dtype=torch.float64)
        sums = torch.zeros(len(texts), len(self.labels), dtype=torch.float64)
        sums.index_add_(0, owners, values * weights[:, None])
        total = torch.zeros(len(texts), dtype=torch.float64).index_add_(0, owners, weights)
        return (sums / total[:, None]).numpy(), torch.bincount(owners, minlength=len(texts)).tolist()


class VectorScorer:
    """Any labels, by how near the vector of a text is to the vectors of their names.

    Args:
        embedder: Gives the vectors.
        labels: The names; underscores count as spaces.
    """

    problem = "single"

    def __init__(self, embedder: Embedder, labels: Sequence[str]) -> None:
        self.embedder, self.labels = embedder, tuple(labels)
        self._vectors = _unit(embedder([label.replace("_", " ") for label in labels]).vectors)

    def identity(self) -> dict[str, Any]:
        """See `Scorer`."""
        return {"model": self.embedder.fingerprint, "labels": list(self.labels)}

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """See `Scorer`."""
        found = self.embedder(texts)
        return _softmax(SHARPNESS * (_unit(found.vectors) @ self._vectors.T).astype(np.float64)), list(found.windows)


class PromptScorer:
    """Any labels, by a chat model.

    Args:
        writer: The model.
        labels: The labels.
        prompt: What it is told; None: what comes with the package, in the language of each text.
        calibrate: Divide each label's likelihood by that behind a text that says nothing.
    """

    problem = "single"

    def __init__(
        self, writer: ChatWriter, labels: Sequence[str], prompt: Prompt | None = None, calibrate: bool = True
    ) -> None:
        self.writer, self.labels, self.calibrate = writer, tuple(labels), calibrate
        self._given = prompt
        self._bias: dict[str, NDArray[np.float64]] = {}
        self._messages(self._prompt("en"), "", "en")  # unknown names are found before work begins

    def identity(self) -> dict[str, Any]:
        """See `Scorer`."""
        prompts = [self._prompt(language).fingerprint() for language in ("en", "zh")]
        identity = {"model": self.writer.fingerprint(), "labels": list(self.labels), "prompts": prompts}
        return {**identity, "calibrate": self.calibrate}

    def _prompt(self, language: str) -> Prompt:
        return self._given or load_prompt("classify", language)

    def _messages(self, prompt: Prompt, text: str, language: str) -> list[dict[str, Any]]:
        joined = ("、" if language == "zh" else ", ").join(self.labels)
        return prompt.messages({"text": text, "labels": joined})

    def _scores(self, text: str, language: str) -> NDArray[np.float64]:
        tokens = self.writer.encode(self._messages(self._prompt(language), text, language))
        return np.array(self.writer.label_scores(tokens, self.labels))

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], list[int]]:
        """See `Scorer`."""
        rows, counts = [], []
        for text in texts:
            language = language_of(text)
            if self.calibrate and language not in self._bias:
                self._bias[language] = self._scores(NOTHING[language], language)
            empty = self._messages(self._prompt(language), "", language)
            longest = max(len(self.writer.tokenizer.encode(label)) for label in self.labels) + 2
            parts = self.writer.parts(text, empty, longest)
            found = []
            for part in parts:
                scores = self._scores(part, language)
                found.append(_softmax((scores - self._bias[language] if self.calibrate else scores)[None])[0])
            rows.append(np.average(found, axis=0, weights=[len(part) for part in parts]))
            counts.append(len(parts))
        return np.array(rows), counts


class Classify:
    """The task `classify`.

    Args:
        ref: A classifier; or an encoder that pools, or a chat model, with labels.
        labels: The labels to choose from; a classifier has its own.
        prompt: A prompt file for a chat model.
        calibrate: See `PromptScorer`.

    Raises:
        BadInput: Labels are missing, or given where the model has its own.
    """

    name = "classify"
    columns = (TEXT,)
    outputs = ("prediction", "probability", "probabilities", "windows")

    def __init__(
        self,
        ref: str | Path = DEFAULT_MODEL,
        labels: Sequence[str] | None = None,
        *,
        prompt: str | Path | None = None,
        calibrate: bool = True,
    ) -> None:
        self.scorer = open_scorer(ref, labels, prompt, calibrate)
        self.chunk = 16 if isinstance(self.scorer, PromptScorer) else 1024

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return self.scorer.identity()

    def run(self, rows: Sequence[Row]) -> list[Classification]:
        """See `Task.run`."""
        values, windows = self.scorer([row["text"] for row in rows])
        labels, problem = self.scorer.labels, self.scorer.problem
        return [_result(row, labels, problem, count) for row, count in zip(values.tolist(), windows, strict=True)]


def open_scorer(
    ref: str | Path, labels: Sequence[str] | None, prompt: str | Path | None = None, calibrate: bool = True
) -> Scorer:
    """Opens what gives texts their labels, by the kind of the model."""
    path = resolve(ref)
    if path.is_dir() and is_encoder(path):
        folder = open_folder(path)
        kind = folder.model.head_config.kind
        if prompt is not None:
            raise BadInput(
                "an encoder takes no prompt", where=str(ref), remedy="leave --prompt out, or name a chat model"
            )
        if kind == "pool":
            return VectorScorer(Embedder(folder), _labels(labels, str(ref)))
        runner = EncoderRunner(folder, "classify", "classify")
        if labels is not None:
            raise BadInput(
                f"this classifier has its own labels: {', '.join(runner.head.labels[:20])}",
                where=str(ref),
                remedy="leave --labels out",
            )
        return HeadScorer(runner)
    chosen = _labels(labels, str(ref))
    given = load_prompt("classify", "en", prompt) if prompt is not None else None
    return PromptScorer(ChatWriter.open(path), chosen, given, calibrate)


def _labels(labels: Sequence[str] | None, where: str) -> list[str]:
    """Returns the labels to choose from, checked."""
    check_labels(labels)
    chosen = [label.strip() for label in labels or ()]
    remedy = "--labels positive,negative"
    if len(chosen) < 2:
        raise BadInput(f"at least two labels are needed to choose from, got {len(chosen)}", where=where, remedy=remedy)
    if not all(chosen):
        raise BadInput("a label is empty", where=where, remedy=remedy)
    if len(set(chosen)) < len(chosen):
        double = next(label for label in chosen if chosen.count(label) > 1)
        raise BadInput(f"the label {double!r} is there twice", where=where, remedy=remedy)
    return chosen


def _result(values: list[float], labels: Sequence[str], problem: str, windows: int) -> Classification:
    order = sorted(range(len(values)), key=lambda index: -values[index])
    kept = {labels[index]: round(values[index], 6) for index in order[:SHOWN]}
    if problem == "regression":
        return Classification(round(values[0], 6), None, {}, windows)
    if problem == "multi":
        chosen = tuple(labels[index] for index in order if values[index] >= 0.5)
        least = min((values[labels.index(label)] for label in chosen), default=None)
        return Classification(chosen, None if least is None else round(least, 6), kept, windows)
    return Classification(labels[order[0]], round(values[order[0]], 6), kept, windows)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: NDArray[np.float32] = vectors / np.maximum(norms, 1e-12)
    return result


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return result
