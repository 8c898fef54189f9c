"""Settings for all tests: two threads, no network, quiet progress, no deadline for examples of hypothesis."""

import os
import signal

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
# The models of most tests are not worth keeping packed in the user's cache.
os.environ.setdefault("ZHIXING_PACKED_BYTES", "0")

# What a shell without job control starts behind "&" ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that does other things as well is slow now and then; that is no defect of the code.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def loud():
    """Progress is as loud as at the start of every test, whatever a command of an earlier one asked for."""
    from zhixing.core.progress import set_quiet

    set_quiet(False)
