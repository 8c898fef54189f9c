"""Unit tests: the share of a record's tests that the code in an answer passes, run in the sandbox."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zhixing.core.sandbox import Limits, available_isolation, run_tests
from zhixing.training.rewards.base import Attempt, RecordFault, wanted

_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def find_code(text: str) -> str:
    """Returns the code of an answer: its fenced blocks in a row, else the whole text."""
    blocks = _FENCED.findall(text)
    return "\n".join(blocks) if blocks else text


def _listed(tests: str) -> list[Any]:
    """Reads a JSON list of tests; any other text is one test."""
    try:
        values = json.loads(tests)
    except (ValueError, RecursionError):
        values = None
    return values if isinstance(values, list) else [tests]


class UnitTests:
    """The share of the tests that pass, or 1 only where all do.

    Args:
        field: The record's field with the tests: one Python text, a list of them, or such a list as JSON.
        all_or_nothing: Whether a part of the tests is worth nothing.
        limits: What each answer may take.
        isolation: See `core.sandbox.run_python`; "limits" is no wall.
        workers: Answers that run at once.
    """

    name = "tests"

    def __init__(
        self,
        field: str = "answer",
        *,
        all_or_nothing: bool = False,
        limits: Limits | None = None,
        isolation: str = "auto",
        workers: int = 2,
    ) -> None:
        self.isolation = available_isolation() if isolation == "auto" else isolation  # refused before training
        self.field, self.all_or_nothing, self.limits, self.workers = field, all_or_nothing, limits, workers

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._one, attempts))

    def check(self, attempt: Attempt) -> None:
        """See `Reward`: tests must be Python, or no answer could ever pass them."""
        tests = self._tests(attempt)
        for number, test in enumerate(tests, 1):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    compile(test, f"test {number}", "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                told = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
                raise RecordFault(
                    f"test {number} of {len(tests)}, {test[:60]!r}, is no Python: {told}",
                    where=f"record field {self.field!r}",
                    remedy="mend it, name the field that holds the tests with `field`, or leave the record out",
                ) from None

    def _tests(self, attempt: Attempt) -> list[str]:
        tests = wanted(attempt, self.field, self.name)
        if isinstance(tests, str):
            tests = _listed(tests)
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise RecordFault(
                f"tests are Python texts, not {str(tests)[:60]!r}",
                where=f"record field {self.field!r}",
                remedy="write a text or a list of texts, name another field with `field`, or leave the record out",
            )
        return tests

    def _one(self, attempt: Attempt) -> float:
        tests = self._tests(attempt)
        verdict = run_tests(find_code(attempt.completion), tests, limits=self.limits, isolation=self.isolation)
        return float(verdict.share == 1) if self.all_or_nothing else verdict.share
