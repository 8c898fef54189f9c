"""The user's own reward: a Python function that the recipe names as `module:function`.

It is imported from the user's own Python path, the folder of the command included; nothing but a recipe that the user
runs, or a line that the user types, can name one.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from zhixing.core.errors import BadInput, MissingResource
from zhixing.training.rewards.base import Attempt


class UserFunction:
    """Calls `function(attempt)` for each attempt.

    Args:
        reference: `module:function`.
    """

    def __init__(self, reference: str) -> None:
        self.name = reference
        self._function = _find(reference)
        self._tried = False

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        return [self._one(attempt) for attempt in attempts]

    def check(self, attempt: Attempt) -> None:
        """See `Reward`: the function is tried once, on the first record."""
        if not self._tried:
            self._one(attempt)
            self._tried = True

    def _one(self, attempt: Attempt) -> float:
        try:
            value = self._function(attempt)
        except Exception as error:  # the user's own code may raise anything
            raise BadInput(
                f"{self.name} failed on the answer {attempt.completion[:60]!r}: {type(error).__name__}: {error}",
                where=_place(error) or "task.rewards",
                remedy="mend the function; training goes on from the last checkpoint, if there is one",
            ) from error
        # Numbers of NumPy, PyTorch and the like are numbers, too; texts that look like one are a slip.
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            if hasattr(value, "__float__") and math.isfinite(number := float(value)):
                return number
        raise BadInput(
            f"{self.name} returned {str(value)[:60]!r} for the answer {attempt.completion[:60]!r}",
            where="task.rewards",
            remedy="a reward is one finite number",
        )


def _place(error: BaseException) -> str | None:
    """Returns the line of the user's code in which an error was raised; the last one that is no library's."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    mine = [frame for frame in frames if "site-packages" not in frame.filename and "<" not in frame.filename]
    return f"{mine[-1].filename}:{mine[-1].lineno}" if mine else None


def _import_place(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    return _place(error) or "task.rewards"


def _find(reference: str) -> Callable[[Attempt], object]:
    module, colon, name = reference.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise BadInput(
            f"{reference!r} is not MODULE:FUNCTION", where="task.rewards", remedy="for example: my_rewards:brevity"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise MissingResource(
            f"the module {module!r} cannot be imported: {error}", where="task.rewards", remedy=f"looked in {here} too"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        raise BadInput(
            f"the module {module!r} fails while it is imported: {type(error).__name__}: {error}",
            where=_import_place(error),
            remedy="mend it",
        ) from error
    found = getattr(imported, name, None)
    if not callable(found):
        own = [key for key, one in vars(imported).items() if callable(one) and not key.startswith("_")]
        raise BadInput(
            f"the module {module!r} ({getattr(imported, '__file__', None) or 'built in'}) has no function {name!r}",
            where="task.rewards",
            remedy=f"it has {', '.join(own[:10])}" if own else "it has none at all",
        )
    function: Callable[[Attempt], object] = found
    return function
