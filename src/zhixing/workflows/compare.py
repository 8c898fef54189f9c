"""Several architectures on one data set with one budget, trained and measured alike over several seeds.

Every run is an ordinary run folder below the comparison's; finished ones are kept, unfinished ones are resumed, so the
same command goes on wherever it stopped. What may be said of the figures is `evaluation.comparison`'s concern.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.core.comparison_recipe import ComparisonRecipe, build_comparison
from zhixing.core.errors import BadInput, Interrupted, MissingResource, command
from zhixing.core.files import FolderLock, atomic_write, check_writable, os_fault
from zhixing.core.recipe import Recipe
from zhixing.core.yaml_text import load_yaml
from zhixing.evaluation.comparison import Standings, compare_systems, in_words
from zhixing.evaluation.comparison_report import REPORT, Trial, write_comparison
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.run_folder import read_run
from zhixing.training.fit import TrainingDiverged
from zhixing.training.resolve import resolve
from zhixing.training.resolve_counting import FAMILY as COUNTED
from zhixing.training.resolve_counting import MEANT
from zhixing.workflows.comparison_checks import check_variants
from zhixing.workflows.console import say
from zhixing.workflows.prepare import relative
from zhixing.workflows.pretrain import resume_run, start_run
from zhixing.workflows.run_scores import run_cost, run_score

RECIPE = "comparison.yaml"
RESULT = "comparison.json"
FEW = 20
"""Fewer examples than this are worth a warning."""


@dataclass
class Comparison:
    """What a comparison came to.

    Attributes:
        folder: Its folder.
        standings: The figures; None where fewer than one variant could be measured.
        sentences: What may be said.
        trials: Every run.
        failed: Runs that diverged, with the reason.
    """

    folder: Path
    standings: Standings | None
    sentences: list[str]
    trials: list[Trial]
    failed: list[Trial] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain data."""
        return {
            "folder": str(self.folder),
            "report": str(self.folder / REPORT),
            "sentences": self.sentences,
            "failed": {trial.name: trial.reason for trial in self.failed},
            "runs": {trial.name: trial.facts() for trial in self.trials},
            **(self.standings.to_json() if self.standings else {}),
        }


def compare(recipe: ComparisonRecipe, folder: Path) -> Comparison:
    """Runs a comparison, or goes on with it.

    Args:
        recipe: The comparison's recipe.
        folder: Where to; a comparison of the same recipe that is there already is completed.

    Raises:
        BadInput: A variant's recipe contradicts itself, or the folder holds another comparison.
        MissingResource: Text, disk space or a permission is missing.
        Interrupted: Ctrl-C; what was done is kept.
    """
    plan = list(_plan(recipe))
    for _, _, one in plan[: len(recipe.variants)]:  # a fault in the last variant is said before the first is trained
        checked = one.model_copy(deep=True)
        if checked.model.family != COUNTED:
            checked.train.matmul = "torch"  # which library is the fastest is measured by each run itself
        resolve(checked)
    check_variants(plan[: len(recipe.variants)])
    check_writable(folder, "making the folder of the comparison", folder=True)
    with FolderLock(folder):
        _keep_recipe(recipe, folder)
        trials: list[Trial] = []
        scores: dict[str, list[Score]] = {}
        for number, (variant, seed, one) in enumerate(plan, 1):
            place = folder / "runs" / f"{variant}-seed{seed}"
            say(f"\n[{number} of {len(plan)}] {variant}" + ("" if _counted(recipe, variant) else f", seed {seed}"))
            try:
                trial, score = _one(place, variant, seed, one)
            except Interrupted as stop:
                again = command("zhixing", "compare", relative(folder))
                raise Interrupted(stop.cause, remedy=f"go on with the comparison: {again}") from None
            trials.append(trial)
            if score is not None:
                scores.setdefault(variant, []).append(score)
        return _conclude(recipe, folder, trials, scores)


def open_comparison(folder: Path) -> ComparisonRecipe:
    """Reads the recipe that a comparison's folder keeps.

    Raises:
        MissingResource: There is none.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise MissingResource(
            "no comparison here (no comparison.yaml)", where=str(folder), remedy="give a recipe: zhixing compare RECIPE"
        )
    try:
        values = load_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8 text: this is no comparison's recipe any more", where=str(path)) from error
    except OSError as error:
        raise os_fault(error, path, "reading the comparison") from error
    if not isinstance(values, dict):
        raise BadInput("this is no comparison's recipe any more: it is no mapping", where=str(path))
    return build_comparison(values, str(path))


def _plan(recipe: ComparisonRecipe) -> Iterator[tuple[str, int, Recipe]]:
    """Yields every run: variant, seed and recipe, all variants of one seed before the next seed."""
    for number, seed in enumerate(recipe.seeds):
        for variant in recipe.variants:
            if not _counted(recipe, variant):
                yield variant, seed, recipe.variant(variant, seed)
            elif number == 0:  # counting draws no numbers: every seed would give the same model
                yield variant, seed, recipe.variant(variant, seed, spends=False, ignored=_without_meaning(recipe))


def _counted(recipe: ComparisonRecipe, variant: str) -> bool:
    return recipe.family(variant) == COUNTED


def _without_meaning(recipe: ComparisonRecipe) -> list[str]:
    """Returns the fields of the base that counting does not know."""
    sections = ((name, recipe.base.get(name)) for name in MEANT)
    return [
        f"{name}.{key}"
        for name, values in sections
        if isinstance(values, dict)
        for key in values
        if key not in MEANT[name]
    ]


def _keep_recipe(recipe: ComparisonRecipe, folder: Path) -> None:
    """Writes the recipe into the folder, or makes sure that it is the one that is there."""
    path, text = folder / RECIPE, recipe.to_yaml()
    if not path.exists():
        if any(child.name != ".lock" for child in folder.iterdir()):
            raise BadInput("not an empty folder", where=str(folder), remedy="give another folder: --run FOLDER")
        atomic_write(path, text)
        return
    if not any((folder / "runs").glob("*/recipe.yaml")):  # no run began: there is nothing that would be lost
        atomic_write(path, text)
        return
    if path.read_text(encoding="utf-8", errors="replace") != text:
        raise BadInput(
            "this folder holds a comparison by another recipe, which is never overwritten",
            where=str(folder),
            remedy=f"go on with it: {command('zhixing', 'compare', relative(folder))}; or give another: --run FOLDER",
        )


def _one(place: Path, variant: str, seed: int, recipe: Recipe) -> tuple[Trial, Score | None]:
    """Does what is missing of one run; returns what it came to."""
    reason = ""
    state = read_run(place).state if (place / "recipe.yaml").exists() else {}
    try:
        if not state:
            start_run(recipe, place)
        elif state.get("state") not in ("finished", "failed"):
            resume_run(place)
        elif state.get("state") == "failed":
            reason = str(state.get("reason") or "it failed")
    except TrainingDiverged as error:
        reason = error.cause
    if reason:
        say(f"  {variant}, seed {seed}: {reason}; the comparison goes on without it")
        return Trial.of(place, variant, seed, reason=reason), None
    score = run_score(place)
    cost = run_cost(place)
    return Trial.of(place, variant, seed, value=score.value, flops=cost.flops, shape=cost.shape), score


def _conclude(
    recipe: ComparisonRecipe, folder: Path, trials: list[Trial], scores: dict[str, list[Score]]
) -> Comparison:
    fixed = [variant for variant in recipe.variants if _counted(recipe, variant)]
    standings = compare_systems(scores, fixed=fixed) if scores else None
    sentences = in_words(standings) if standings else ["No run could be measured."]
    failed = [trial for trial in trials if trial.reason]
    sentences += _reservations(recipe, standings, failed)
    result = Comparison(folder, standings, sentences, trials, failed)
    atomic_write(folder / RESULT, json.dumps(result.to_json(), indent=1, ensure_ascii=False))
    write_comparison(folder, recipe, standings, sentences, trials)
    return result


def _reservations(recipe: ComparisonRecipe, standings: Standings | None, failed: Sequence[Trial]) -> list[str]:
    """Says what the figures leave open."""
    sentences = [
        f"{trial.name} failed ({trial.reason}) and is not in the figures, which favours {trial.variant}."
        for trial in failed
    ]
    if standings is None:
        return sentences
    if standings.examples < FEW:
        sentences.append(
            f"The held-out text gives only {standings.examples} examples: hold out more for firmer figures."
        )
    if len(recipe.seeds) == 1:
        sentences.append("With one seed, the intervals cover other examples but no other seed.")
    if any(one.fixed for one in standings.standings):
        sentences.append("A counted model has no seed and no budget: it reads the training text once.")
    sentences.append("All this holds for this data, this budget and these settings.")
    return sentences
