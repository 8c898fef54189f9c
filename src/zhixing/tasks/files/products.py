"""Which library computes the products of file runs on this machine: measured once, then always the same.

Two libraries round differently. Which is faster is measured when a model is opened, and a busy machine can turn the
answer; a file that is computed twice shall be the same twice. So the first answer is kept beside the fetched models.
"""

from __future__ import annotations

import json
import platform
from typing import cast, get_args

import torch

from zhixing.checkpoints.hubs.store import cache_folder
from zhixing.core.errors import ZhixingError
from zhixing.core.files import atomic_write, read_json
from zhixing.models import ops


def settled_matmul() -> ops.Matmul:
    """Returns the library for this machine, PyTorch and number of threads; where it cannot be kept, PyTorch's own."""
    key = f"{platform.machine()} {platform.node()} torch {torch.__version__} threads {torch.get_num_threads()}"
    path = cache_folder() / "products.json"
    try:
        known = read_json(path) if path.is_file() else {}
        if isinstance(known, dict) and known.get(key) in get_args(ops.Matmul):
            return cast(ops.Matmul, known[key])
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {**(known if isinstance(known, dict) else {}), key: ops.matmul_backend()}
        atomic_write(path, json.dumps(kept, indent=1) + "\n")
    except (OSError, ZhixingError):
        return "torch"
    return ops.matmul_backend()
