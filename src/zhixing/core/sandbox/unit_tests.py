"""Judges Python code by unit tests, in the sandbox.

Tests are Python text: plain assertions, functions whose names begin with `test`, or `unittest.TestCase` classes; they
find the code's names in their own, and as the module `solution`. A test passes when it ran to its end. Leaving early
(`sys.exit`, `os._exit`), writing "passed" to the output, or replacing the output counts for nothing: the verdict comes
with a number that the judged code has not been told. Code that takes the interpreter apart to find it, or that makes
the assertions themselves meaningless (an `__eq__` that is always true), is beyond this: measure with other tests than
those that you train on.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from zhixing.core.sandbox.limits import Limits
from zhixing.core.sandbox.run import SandboxResult, run_python


@dataclass(frozen=True)
class TestVerdict:
    """How a piece of code did.

    Attributes:
        passed: Tests that ran to their end.
        total: Tests given.
        failures: The first line of what went wrong, for each test that failed.
        result: The run in the sandbox.
    """

    __test__ = False  # not a test itself, whatever pytest thinks of its name

    passed: int
    total: int
    failures: tuple[str, ...]
    result: SandboxResult

    @property
    def share(self) -> float:
        """The share of the tests that passed."""
        return self.passed / self.total if self.total else 0.0


def run_tests(code: str, tests: Sequence[str], *, limits: Limits | None = None, isolation: str = "auto") -> TestVerdict:
    """Runs code, then each test behind it.

    Args:
        code: The code to judge.
        tests: Each a piece of Python text; see the module's description.
        limits: What all of it together may take.
        isolation: See `run_python`.

    Raises:
        MissingResource: This system can build no sandbox.
    """
    secret = secrets.token_hex(16)
    order = json.dumps({"secret": secret, "tests": list(tests)})
    program = resources.files("zhixing.core.sandbox").joinpath("judge.py").read_text(encoding="utf-8")
    files = {"solution.py": code, "order.json": order}
    result = run_python(program, files=files, limits=limits, isolation=isolation)
    verdict = _verdict(result.report, secret)
    if verdict is None:
        cause = "left before the tests were over" if result.ending == "exit" else f"killed: {result.ending}"
        return TestVerdict(0, len(tests), (cause,) * len(tests), result)
    failures = tuple(failure for failure in verdict if failure)
    return TestVerdict(len(tests) - len(failures), len(tests), failures, result)


def _verdict(report: bytes, secret: str) -> list[str] | None:
    """Finds the judge's own line in a report that the judged code can write to, too."""
    for line in report.splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and values.get("secret") == secret:
            return [str(failure) for failure in values["failures"]]
    return None
