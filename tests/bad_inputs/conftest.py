"""One tiny run, trained once; a copy of it for every test; and the command line in this process."""

import contextlib
import shutil
import sys
import types

import pytest
import torch

from tests.bad_inputs.support import RECIPE, TEXT, main_code
from zhixing.core import progress


@contextlib.contextmanager
def one_thread():
    """Tiny products are faster on one thread, and the rounding is then the same in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    progress.set_quiet(False)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a text, a recipe, and the finished run of both."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "tiny.yaml").write_text(RECIPE)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["zhixing", "--quiet", "train", "tiny.yaml", "--run", "run"])
        with one_thread():
            assert main_code() == 0
    shutil.rmtree(folder / "run" / "tensorboard", ignore_errors=True)
    return folder


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.delenv("ZHIXING_DEBUG", raising=False)
    monkeypatch.setattr("zhixing.models.ops.matmul_peak", lambda: 1.0)  # measuring takes longer than all the rest
    with one_thread():
        yield


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A copy of the text, the recipe and the run, as the present folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["zhixing", "--quiet", *map(str, arguments)])
        code = main_code()
        out, err = capsys.readouterr()
        return types.SimpleNamespace(code=code, out=out, err=err)

    return call
