"""Runs benchmarks on a model and gathers figures, intervals and every request's outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from zhixing.core.errors import BadInput, MissingResource, ZhixingError, missing_extra, nearest
from zhixing.evaluation.benchmarks.task_files import is_task_file, load_task_file
from zhixing.evaluation.metrics.base import Interval, mean_of
from zhixing.evaluation.metrics.resampling import CONFIDENCE, RESAMPLES, SEED, interval, resampled_values
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.chat_format import ChatFormat
from zhixing.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class Figure:
    """One metric of one task.

    Attributes:
        task: The task.
        metric: lm-eval's name: acc, acc_norm, exact_match, ...
        filter: How the answer was taken from the text; "none" where it was not.
        value: The figure.
        n: Examples.
        interval: 95 % bootstrap interval, where the metric is a mean over examples.
        better: Which values are better.
    """

    task: str
    metric: str
    filter: str
    value: float
    n: int
    interval: Interval | None = None
    better: str = "higher"

    def to_json(self) -> dict[str, Any]:
        """Returns the figure as plain data."""
        return {**vars(self), "interval": self.interval.to_json() if self.interval else None}


@dataclass(frozen=True)
class BenchmarkResult:
    """What benchmarks gave.

    Attributes:
        figures: Every metric of every task.
        seconds: Time that it took.
        truncated: Requests that lost the beginning of their context.
        samples: What lm-eval recorded of every example, by task.
        versions: Version of every task, and few-shot examples.
    """

    figures: tuple[Figure, ...]
    seconds: float
    truncated: int
    samples: Mapping[str, list[dict[str, Any]]] = field(repr=False)
    versions: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as plain data, without the samples."""
        return {
            "figures": [one.to_json() for one in self.figures],
            "seconds": round(self.seconds, 3),
            "truncated": self.truncated,
            "versions": dict(self.versions),
        }


def run_benchmarks(
    model: CausalNetwork,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    name: str = "zhixing",
    few_shot: int | None = None,
    limit: int | None = None,
    chat: bool = False,
    seed: int = SEED,
) -> BenchmarkResult:
    """Runs lm-eval's tasks, or task files of one's own, on a causal model.

    Args:
        model: The network, in evaluation mode.
        tokenizer: Its tokenizer.
        tasks: Names of lm-eval, or paths of task files (YAML).
        name: What the user calls the model.
        few_shot: Solved examples before each question; None leaves it to the task.
        limit: Only so many examples of each task, the first ones.
        chat: Put the questions into the model's chat template.
        seed: Of the choice of solved examples and of the intervals.

    Raises:
        BadInput: A task is unknown or would run code of its own.
        MissingResource: lm-eval is not installed, or a data set cannot be reached.
    """
    try:
        from lm_eval.evaluator import evaluate
        from lm_eval.tasks import TaskManager

        from zhixing.evaluation.benchmarks.backend import NetworkLM
        from zhixing.evaluation.benchmarks.checks import check_file, check_names, check_task
    except ImportError as error:
        raise missing_extra("lm-eval", "bench", "benchmarks") from error
    if not tasks:
        raise BadInput("no task is named", where="--tasks", remedy="for example --tasks hellaswag,arc_easy")
    begun = time.perf_counter()
    with _quiet(), _sandboxed_templates():
        # lm-eval's own tasks are thousands of files: they are only looked through when one of them is asked for.
        manager = TaskManager(include_defaults=not all(map(is_task_file, tasks)))
        chosen = [_task(task, manager) for task in dict.fromkeys(tasks)]
        files = [(path, one) for path, one in zip(dict.fromkeys(tasks), chosen, strict=True) if isinstance(one, dict)]
        for path, values in files:
            check_file(values, Path(path))
        check_names(files)
        own = {str(values["task"]) for _, values in files}
        lm = NetworkLM(model, tokenizer, name)
        if chat:
            ChatFormat(tokenizer)  # a model without a template is said before data are fetched
        try:
            loaded = manager.load(chosen)
            for title, task in loaded["tasks"].items():
                _set_shots(task, few_shot, seed)
                check_task(title, task, lm, title in own)
            # Not `simple_evaluate`, which besides asks git and the system about themselves.
            found = evaluate(
                lm, loaded, limit=limit, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0,
            )  # fmt: skip
        except ZhixingError:
            raise
        except Exception as error:
            raise _explained(error, tasks) from error
    assert found is not None
    figures = tuple(_figures(found, seed))
    versions = {"tasks": found.get("versions", {}), "few_shot": found.get("n-shot", {}), "lm_eval": version("lm-eval")}
    return BenchmarkResult(figures, time.perf_counter() - begun, lm.truncated, found.get("samples", {}), versions)


def _set_shots(task: Any, few_shot: int | None, seed: int) -> None:
    """Sets how many solved examples a task gives; one that forbids them by a 0 of its own keeps that."""
    own = task.get_config("num_fewshot")
    if few_shot is not None and own != 0:
        task.set_config(key="num_fewshot", value=few_shot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def _task(task: str, manager: Any) -> str | dict[str, Any]:
    if is_task_file(task):
        return load_task_file(Path(task))
    known = set(manager.all_tasks)
    if task not in known:
        guess = nearest(task, known)
        hint = f"did you mean {guess!r}? " if guess else ""
        raise BadInput(
            f"unknown task {task!r}",
            where="--tasks",
            remedy=f"{hint}a task of your own is a file: --tasks my-task.yaml (docs/benchmarking.md)",
        )
    return task


def _explained(error: Exception, tasks: Sequence[str]) -> ZhixingError:
    """Says what is wrong when lm-eval or the library of data sets fails on what the user gave."""
    kinds = " ".join(f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__)
    text = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
    if any(word in kinds for word in ("Connection", "HfHub", "DatasetNotFound", "Offline", "HTTP", "Timeout")):
        return MissingResource(
            f"the data of {', '.join(tasks)} cannot be reached: {text}",
            remedy="a task with data of your own needs no network: --tasks my-task.yaml (docs/benchmarking.md)",
        )
    root: BaseException = error
    while (cause := root.__cause__) is not None:  # the library of data says only that there was a fault
        root = cause
    if root is not error:
        text = (str(root).strip().splitlines() or [type(root).__name__])[0][:300]
    return BadInput(f"lm-eval cannot run {', '.join(tasks)}: {type(root).__name__}: {text}", where="--tasks")


def _figures(found: Mapping[str, Any], seed: int) -> Iterator[Figure]:
    """Yields every metric of every task, with an interval where it is a mean over examples."""
    for task, results in found["results"].items():
        higher = found.get("higher_is_better", {}).get(task, {})
        counts = found.get("n-samples", {}).get(task, {})
        for key, value in results.items():
            metric, comma, chosen = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            rows = [row for row in found.get("samples", {}).get(task, ()) if row.get("filter", "none") == chosen]
            each = [row[metric] for row in rows if isinstance(row.get(metric), int | float)]
            mean = len(each) > 1 and bool(np.isclose(np.mean(each), value))
            statistics = mean_of(each) if mean else None
            yield Figure(
                task,
                metric,
                chosen,
                float(value),
                int(counts.get("effective", len(rows))),
                interval(resampled_values(statistics, RESAMPLES, seed), CONFIDENCE, seed) if statistics else None,
                "higher" if higher.get(metric, True) is not False else "lower",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps lm-eval's and the data library's chatter away; warnings are still said."""
    import datasets
    from lm_eval.api import task as tasks

    logger = logging.getLogger("lm_eval")
    level, bars, bar = logger.level, datasets.utils.logging.is_progress_bar_enabled(), tasks.tqdm
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    tasks.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        tasks.tqdm = bar
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


@contextmanager
def _sandboxed_templates() -> Iterator[None]:
    """Lets lm-eval fill its templates in jinja2's sandbox: a task file is data and must not reach Python."""
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    before = utils.env
    sandbox = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    sandbox.filters |= before.filters
    utils.env = sandbox
    try:
        yield
    finally:
        utils.env = before
