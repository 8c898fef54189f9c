"""Completes what a run takes from the machine: device, threads, number type, library of products."""

from __future__ import annotations

import os
import shutil

import torch

from zhixing.core.device import choose_device, choose_precision
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.recipe import TrainRecipe
from zhixing.models import ops

COMPILERS = (os.environ.get("CXX", "g++"), "g++", "clang++")


def resolve_machine(train: TrainRecipe) -> None:
    """Fills in the machine's part of the training section.

    Raises:
        BadInput: The device is not there.
        MissingResource: A compiler is asked for and missing.
    """
    device = choose_device(train.device)
    train.device = str(device)
    train.threads = train.threads or torch.get_num_threads()
    train.precision = choose_precision(train.precision, device)
    if train.matmul == "auto":
        train.matmul = ops.select_matmul(training=True) if device.type == "cpu" else "torch"
    if train.compile and device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        raise MissingResource(
            "torch.compile needs a C++ compiler, and there is none on the path",
            where="train.compile",
            remedy="install g++ or clang++, or set train.compile: false",
        )


def check_length(train: TrainRecipe, *names: str) -> list[str]:
    """Returns which fields say how long to train: one at most.

    Raises:
        BadInput: Two do.
    """
    given = [name for name in names if getattr(train, name) is not None]
    if len(given) > 1:
        raise BadInput(
            f"train.{given[0]} and train.{given[1]} both say how long to train",
            where="train",
            remedy="give one of them",
        )
    return given
