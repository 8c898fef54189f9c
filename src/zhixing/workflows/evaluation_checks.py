"""What an evaluation cannot do, found before its work begins: `zhixing eval --task`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zhixing.core.errors import BadInput, unknown_name
from zhixing.data.shapes.layouts import LAYOUTS
from zhixing.evaluation.metrics.registry import FAMILIES, find, plan
from zhixing.evaluation.task_measures import Example, TaskMeasure

if TYPE_CHECKING:
    from zhixing.workflows.evaluate import Options

USED_BY = {"labels": ("classify", "tag"), "index": ("search",)}
"""Options that mean something for some tasks only."""


def check_options(measure: TaskMeasure, options: Options) -> None:
    """Makes sure that measures are known and fit the task, and that no option is given that would do nothing.

    Raises:
        BadInput: One does not.
    """
    for name, tasks in USED_BY.items():
        if getattr(options, name) and measure.name not in tasks:
            raise BadInput(f"this is for --task {' and '.join(tasks)}", where=f"--{name}", remedy="leave it out")
    if options.task and measure.name == "search":
        raise BadInput("the task 'search' has no options", where="--option", remedy="leave it out")
    if not options.names:
        return
    fitting = [family for family in FAMILIES if family.kind in measure.kinds]
    for name in options.names:
        try:
            find(name)
        except BadInput as error:
            known = dict.fromkeys([one for family in fitting for one in (family.name, *family.members)])
            raise unknown_name("measure", name, known, where="--measures") from error
    for family, members in plan(options.names):
        if family.kind not in measure.kinds:
            raise BadInput(
                f"{members[0]} measures {family.kind}, which --task {measure.name} does not give",
                where="--measures",
                remedy=f"usual ones: {','.join(measure.measures([]))}",
            )


def check_examples(measure: TaskMeasure, examples: Sequence[Example], options: Options) -> None:
    """Makes sure that the measures that were asked for can be computed from the data.

    Raises:
        BadInput: They cannot.
    """
    if measure.name != "classify" or not options.names or not isinstance(examples[0].reference, list):
        return
    for _, members in plan(options.names):
        if single := [name for name in members if name in ("mcc", "ece")]:
            raise BadInput(
                f"{single[0]} is for one label each, and these records have several",
                where="--measures",
                remedy="accuracy,macro_f1,micro_f1",
            )


def check_arguments(task: str, make: Callable[..., Any], given: Mapping[str, Any], own: Sequence[str]) -> None:
    """Makes sure that a task takes the options that were given.

    Args:
        task: The task.
        make: What opens it.
        given: The options.
        own: Parameters that are no options: the model, what the data say.

    Raises:
        BadInput: It does not know one.
    """
    known = [name for name in inspect.signature(make).parameters if name not in own]
    for name in given:
        if name not in known:
            raise unknown_name(f"option of the task {task}", name, known, where="--option")


def in_flags(fault: BadInput, measure: TaskMeasure) -> BadInput:
    """Says of data that do not fit what the command line can do about it, instead of a recipe."""
    remedy = fault.remedy or ""
    if "columns:" in remedy and "{" in remedy:
        required = min((layout.required for layout in LAYOUTS if layout.shape == measure.shapes[0]), key=len)
        flags = " ".join(f"--column {role}=NAME" for role in required)
        _, found, columns = remedy.partition("; columns: ")
        remedy = f"name the columns: {flags}" + (f"; columns: {columns}" if found else "")
    return BadInput(
        f"{measure.name} is measured on records of the shape {' or '.join(measure.shapes)}: {fault.cause}",
        where=fault.where,
        remedy=remedy or None,
    )
