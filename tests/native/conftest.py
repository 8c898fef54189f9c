"""Tests of the C++ core: skipped, with the reason, where it is not built; run with every kernel of this machine."""

import pytest

from zhixing import native
from zhixing.native import library


def pytest_collection_modifyitems(items):
    if (reason := native.absence()) is None:
        return
    for item in items:
        if "native" in item.path.parts and not item.name.startswith("test_without_the_core"):
            item.add_marker(pytest.mark.skip(reason=reason))


def _kernels():
    return library.supported_kernels() if native.is_available() else ["scalar"]


@pytest.fixture(params=_kernels())
def kernels(request):
    """Every set of kernels in turn."""
    before = library.kernels()
    library.use_kernels(request.param)
    yield request.param
    library.use_kernels(before)
