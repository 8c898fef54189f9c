"""Plans that lie: every one is refused with a reason, or runs within its memory; none crashes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing import native
from zhixing.native import weights
from zhixing.native.library import library
from zhixing.native.packing import address
from zhixing.native.plan import transformer_plan
from zhixing.native.runtime import KV_CACHES, Batch, Pages, Runtime

if not native.is_available():
    pytest.skip(native.absence() or "", allow_module_level=True)

from tests.native.test_network import network

STEP = 8


@pytest.fixture(scope="module")
def sound():
    """A sound plan as numbers, its factors, and its weights."""
    plan = transformer_plan(network("gemma3"), weights.Packing())
    matrices, vectors, size = weights.layout(plan)
    memory = weights.HugeMemory(size).bytes
    weights.fill(plan, matrices, vectors, memory)
    return *plan.encode(matrices, vectors, STEP), memory


def open_plan(numbers, factors, memory):
    handle = library().zx_model_new(
        address(numbers), len(numbers), address(factors), len(factors), address(memory), len(memory)
    )
    if not handle:
        assert library().zx_error().decode()
    return handle


def run(handle, kv_cache=0):
    """Runs a step of a plan that was accepted; whatever comes out, memory must hold."""
    cache = library().zx_cache_new(handle, 2, kv_cache)
    ids = np.arange(STEP, dtype=np.int32)
    zero, pages = np.zeros(STEP, np.int32), np.array([[0, 1]], np.int32)
    table = np.ones((64, 512), np.float32)
    for number in range(4):
        library().zx_model_table(handle, number, address(table), address(table), 64)
    out, inputs = np.empty((STEP, 1 << 15), np.float32), np.zeros((STEP, 1 << 12), np.float32)
    library().zx_step(
        handle, cache, STEP, address(ids), address(inputs), address(zero), address(ids), 1, address(pages), 2, STEP,
        address(ids), address(out),
    )  # fmt: skip
    library().zx_cache_free(cache)
    library().zx_model_free(handle)


def test_the_sound_plan_runs(sound):
    for kv_cache in KV_CACHES.values():
        handle = open_plan(*sound)
        assert handle
        run(handle, kv_cache)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_plans_are_refused_or_run_within_their_memory(sound, data):
    numbers, factors, memory = sound
    numbers, factors = numbers.copy(), factors.copy()
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(numbers) - 1))
        old = int(numbers[place])
        numbers[place] = data.draw(
            st.sampled_from([-1, 0, 1, 2, 3, 31, 32, 64, old + 1, old - 1, old * 2, 1 << 20, 1 << 45, -(1 << 62)])
        )
    if data.draw(st.booleans()):
        factors[data.draw(st.integers(0, len(factors) - 1))] = data.draw(st.floats())
    handle = open_plan(numbers, factors, memory)
    if handle and int(numbers[2]) >= STEP and max(numbers[10:]) < 1 << 40:
        run(handle, data.draw(st.sampled_from(list(KV_CACHES.values()))))
    elif handle:
        library().zx_model_free(handle)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 400))
def test_cut_plans_are_refused(sound, length):
    numbers, factors, memory = sound
    assert not open_plan(np.ascontiguousarray(numbers[:length]), factors, memory)


def test_weights_outside_of_their_memory_are_refused(sound):
    numbers, factors, memory = sound
    assert not open_plan(numbers, factors, np.ascontiguousarray(memory[: len(memory) // 2]))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tokens", [97], "vocabulary"),
        ("tokens", [-1], "vocabulary"),
        ("sequences", [1], "sequence"),
        ("positions", [16], "pages"),
        ("positions", [-1], "pages"),
        ("pages", [[4]], "page"),
        ("pages", [[-1]], "page"),
        ("wanted", [1], "output"),
    ],
)
def test_batches_out_of_order_are_refused(field, value, reason):
    runtime = Runtime(transformer_plan(network("llama"), weights.Packing()))
    runtime.reach(64)
    parts = {"tokens": [1], "sequences": [0], "positions": [0], "pages": [[0]], "wanted": [0], field: value}
    with pytest.raises(ValueError, match=reason):
        runtime.step(Batch(**{name: np.array(part, np.int32) for name, part in parts.items()}), Pages(runtime, 4))


def test_pages_are_shared_copied_and_freed():
    runtime = Runtime(transformer_plan(network("llama"), weights.Packing()))
    pages = Pages(runtime, 3)
    first = pages.take()
    assert pages.writable(first) == first
    pages.share(first)
    copy = pages.writable(first)
    assert copy != first
    assert pages.writable(first) == first
    pages.drop(first)
    pages.drop(copy)
    assert pages.free == 3
