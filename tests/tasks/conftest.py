"""Tiny models in folders, one of each kind that tasks work with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tasks.support import save_chat, save_encoder_model
from zhixing.models import ops
from zhixing.models.heads import HeadConfig
from zhixing.tasks.files import run as run_module


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="package", autouse=True)
def no_measuring() -> Iterator[None]:
    """The choice of the library for products takes seconds on a busy machine, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "select_matmul", lambda training=False: "torch")
        patch.setattr(run_module, "settled_matmul", lambda: "torch")
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one model of each kind."""
    folder = tmp_path_factory.mktemp("models")
    save_encoder_model(folder / "classifier", HeadConfig(kind="classify", labels=("bad", "good")))
    save_encoder_model(folder / "several", HeadConfig(kind="classify", labels=("a", "b", "c"), problem="multi"))
    save_encoder_model(folder / "tagger", HeadConfig(kind="tag", labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC")))
    save_encoder_model(folder / "span", HeadConfig(kind="span"))
    save_encoder_model(folder / "pool", HeadConfig(kind="pool", normalise=True))
    save_encoder_model(folder / "other-pool", HeadConfig(kind="pool", normalise=True), seed=5)
    save_encoder_model(folder / "crf", HeadConfig(kind="tag", labels=("O", "B-PER", "I-PER"), crf=True))
    save_encoder_model(folder / "masked", HeadConfig(kind="masked"))
    save_chat(folder / "chat", context=900)
    save_chat(folder / "chat-long", context=900)
    return folder
