"""Settings for all tests: two threads, no network, quiet progress."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def loud():
    """Progress is as loud as at the start of every test, whatever a command of an earlier one asked for."""
    from zhixing.core.progress import set_quiet

    set_quiet(False)
