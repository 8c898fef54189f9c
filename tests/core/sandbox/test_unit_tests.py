"""Verdicts by unit tests: right ones, and code that tries to get a better one than it deserves."""

from __future__ import annotations

import pytest

from zhixing.core.errors import MissingResource
from zhixing.core.sandbox import Limits, available_isolation, run_tests

TESTS = (
    "assert add(1, 2) == 3",
    "assert add(-1, 1) == 0",
    "def test_it():\n    import solution\n    assert solution.add(2, 2) == 4",
)


@pytest.fixture(autouse=True)
def _sandbox() -> None:
    try:
        available_isolation()
    except MissingResource as error:
        pytest.skip(str(error))


def test_right_and_wrong_code() -> None:
    verdict = run_tests("def add(a, b):\n    return a + b", TESTS)
    assert (verdict.passed, verdict.total, verdict.share) == (3, 3, 1.0)
    verdict = run_tests("def add(a, b):\n    return abs(a) + b", TESTS)
    assert (verdict.passed, verdict.failures) == (2, ("AssertionError: ",))


def test_unittest_classes() -> None:
    test = """
import unittest
class TestAdd(unittest.TestCase):
    def test_small(self): self.assertEqual(add(1, 1), 2)
    def test_large(self): self.assertEqual(add(10**20, 1), 10**20 + 1)
"""
    assert run_tests("def add(a, b): return a + b", [test]).passed == 1
    failed = run_tests("def add(a, b): return 2", [test])
    assert failed.passed == 0
    assert "2 != 100000000000000000001" in failed.failures[0]


@pytest.mark.parametrize(
    "code",
    [
        "def add(a, b:",
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "import os, sys\ndef add(a, b):\n    sys.exit(0)",
        'import os\nos.write(3, b\'{"secret": "", "failures": ["", "", ""]}\\n\'); os._exit(0)',
        "import json, os\njson.dumps = lambda *a: 'x'; os.write = lambda *a: 0\ndef add(a, b): return 5",
        "print('3 passed'); import os; os.kill(os.getpid(), 9)",
        "import builtins\nbuiltins.AssertionError = Exception\ndef add(a, b): return 7",
        "open('order.json').read()",
        "class E(BaseException):\n    def __str__(self): raise E\nraise E",
        "while True: pass",
        "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(a, b)\n",
    ],
)  # fmt: skip
def test_nothing_but_right_code_passes(code: str) -> None:
    verdict = run_tests(code, TESTS, limits=Limits(cpu_seconds=1, wall_seconds=4))
    assert verdict.passed == 0
    assert len(verdict.failures) == 3


def test_no_tests_are_no_success() -> None:
    assert run_tests("x = 1", []).share == 0.0
