"""The user's own reward: a Python function that the recipe names as `module:function`.

It is imported from the user's own Python path, the folder of the command included; nothing but a recipe that the user
runs, or a line that the user types, can name one.
"""

from __future__ import annotations

import importlib
import math
import sys
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

    def __call__(self, attempts: Sequence[Attempt]) -> list[float]:
        """See `Reward`."""
        return [self._one(attempt) for attempt in attempts]

    def _one(self, attempt: Attempt) -> float:
        try:
            value = self._function(attempt)
        except Exception as error:  # the user's own code may raise anything
            raise BadInput(
                f"{self.name} failed on the answer {attempt.completion[:60]!r}: {type(error).__name__}: {error}",
                where="task.rewards",
                remedy="mend the function; training goes on from the last checkpoint",
            ) from error
        if isinstance(value, bool | int | float) and math.isfinite(value):
            return float(value)
        raise BadInput(
            f"{self.name} returned {str(value)[:60]!r} for the answer {attempt.completion[:60]!r}",
            where="task.rewards",
            remedy="a reward is one finite number",
        )


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
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise MissingResource(
            f"the module {module!r} cannot be imported: {error}", where="task.rewards", remedy=f"looked in {here} too"
        ) from error
    except Exception as error:  # the user's own code may raise anything
        raise BadInput(
            f"the module {module!r} fails while it is imported: {type(error).__name__}: {error}",
            where="task.rewards",
            remedy="mend it",
        ) from error
    if not callable(found):
        raise BadInput(f"the module {module!r} has no function {name!r}", where="task.rewards")
    function: Callable[[Attempt], object] = found
    return function
