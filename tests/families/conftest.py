"""Tiny published models, built once per case and module."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

from benchmarks.family_parity import CASES, published  # noqa: E402

from zhixing.checkpoints.folder import load_folder  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def quiet_and_on_one_thread():
    """Products of a few hundred numbers are slower on two threads; progress bars would fill the log."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def opened(request, tmp_path_factory):
    """A case, its model in `transformers`, and the same opened here; parametrised with names of cases."""
    case = CASES[request.param]
    folder = tmp_path_factory.mktemp("published")
    theirs = published(case, folder)
    return case, theirs, load_folder(folder)
