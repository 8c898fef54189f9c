"""What is wrong with a benchmark's task, found before the model works. This module imports lm_eval."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api import metrics  # noqa: F401  # fills the registry
from lm_eval.api.registry import METRIC_REGISTRY
from lm_eval.config.task import TaskConfig

from zhixing.core.errors import BadInput, unknown_name

if TYPE_CHECKING:
    from zhixing.evaluation.benchmarks.backend import NetworkLM

LOOKED_AT = 20
"""Examples of a task whose right answers are looked at."""


def check_file(values: Mapping[str, Any], path: Path) -> None:
    """Makes sure that lm-eval knows the keys and measures of a task file.

    A measure that it does not know it would fetch from the network, and run.

    Raises:
        BadInput: It does not know one.
    """
    known = [field.name for field in dataclasses.fields(TaskConfig)]
    for key in values:
        if key not in known:
            raise unknown_name("key of a task", str(key), known, where=str(path))
    listed = values.get("metric_list") or ()
    if not isinstance(listed, list | tuple) or any(not isinstance(one, dict) or "metric" not in one for one in listed):
        raise BadInput("metric_list is a list of mappings", where=str(path), remedy="metric_list: [{metric: acc}]")
    for one in listed:
        if one["metric"] not in METRIC_REGISTRY:
            raise unknown_name("metric", str(one["metric"]), list(METRIC_REGISTRY.keys()), where=str(path))


def check_names(files: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Makes sure that no two task files name the same task, of which lm-eval would run one.

    Raises:
        BadInput: Two do.
    """
    seen: dict[str, str] = {}
    for path, values in files:
        name = str(values["task"])
        if name in seen:
            raise BadInput(
                f"two files name the task {name!r}: {seen[name]} and {path}",
                where="--tasks",
                remedy="give each its own `task:`",
            )
        seen[name] = path


def check_task(name: str, task: Any, lm: NetworkLM, own: bool) -> None:
    """Makes sure that a task can be run, before the first request is answered.

    Args:
        name: The task.
        task: As lm-eval loaded it, with its number of solved examples set.
        lm: The model.
        own: Whether it is from a file of the user's, whose templates are tried out.

    Raises:
        BadInput: It cannot.
    """
    if task.OUTPUT_TYPE == "generate_until":
        lm.check_generation(task.config.generation_kwargs or {})
    _check_shots(name, task)
    if own:
        _check_examples(name, task)


def _check_shots(name: str, task: Any) -> None:
    wanted = task.config.num_fewshot or 0
    if not wanted:
        return
    solved = task.fewshot_docs()
    if solved is None:
        return  # lm-eval says itself that there is no part to take them from
    shared = task.config.fewshot_split is None or task.config.fewshot_split == task.config.test_split
    available = len(list(solved)) - shared
    if wanted > available:
        raise BadInput(
            f"{wanted} solved examples are wanted, its data give {max(0, available)}",
            where=name,
            remedy=f"--few-shot {max(0, available)}, or give it more data",
        )


def _check_examples(name: str, task: Any) -> None:
    """Fills the templates of the first examples, and looks whether their right answers are among the choices."""
    right = 0
    docs = list(islice(task.eval_docs, LOOKED_AT))
    if not docs:
        raise BadInput("its data hold no example", where=name)
    golds: list[Any] = []
    for doc in docs:
        try:
            text, gold = task.doc_to_text(doc), task.doc_to_target(doc)
            choices = task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else None
        except Exception as error:
            raise BadInput(
                f"its templates cannot be filled: {error or type(error).__name__}",
                where=name,
                remedy=f"an example has: {', '.join(map(str, doc))}",
            ) from error
        if choices is None or isinstance(text, int):  # the choices are the beginnings: the answer is the end
            return
        golds.append(gold)
        several = gold if isinstance(gold, list) else [gold]
        right += any(one in choices or (isinstance(one, int) and 0 <= one < len(choices)) for one in several)
    if not right:
        raise BadInput(
            f"doc_to_target is {golds[0]!r}, which is none of the choices ({', '.join(map(str, choices or ()))[:100]})",
            where=name,
            remedy="let it be the number of the right choice, from 0, or the choice itself",
        )
