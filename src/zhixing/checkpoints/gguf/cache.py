"""What is computed from a file once and kept: arrays in the user's cache folder, named by what they were made from."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zhixing.checkpoints.hubs.store import cache_folder
from zhixing.core.errors import ZhixingError
from zhixing.core.files import atomic_write


def cached_array(
    name: str, compute: Callable[[], NDArray[Any]], usable: Callable[[NDArray[Any]], bool]
) -> NDArray[Any]:
    """Returns an array from the cache, or computes it and keeps it.

    A cache that cannot be read or written only costs time: nothing is said about it.

    Args:
        name: Its file in the cache folder; holds a hash of everything that the array depends on.
        compute: Makes the array.
        usable: Checks what the cache holds before it is used.
    """
    path = cache_folder() / name
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray) and usable(found):
            return found
    except (OSError, ValueError, EOFError):  # not there, or damaged
        pass
    array = compute()
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content.getvalue())
    except (OSError, ZhixingError):
        pass
    return array
