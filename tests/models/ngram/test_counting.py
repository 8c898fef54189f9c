"""Counts against a plain dictionary, in one piece and in many, and after an interruption."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from zhixing.core.errors import MissingResource
from zhixing.data.shards import TokenStore
from zhixing.models.ngram.counting import CountPlan, Counts, count_ngrams, passes

VOCABULARY = 12


def corpus(end: int | None = 11) -> list[list[int]]:
    generator = np.random.default_rng(3)
    documents = [generator.integers(0, 11, generator.integers(0, 30)).tolist() for _ in range(50)]
    return [[*document, end] if end is not None else document for document in documents]


def plain_counts(documents: list[list[int]], begin: int, order: int) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter()
    for document in documents:
        padded = [begin, *document]
        for last in range(1, len(padded)):
            if last + 1 >= order:
                found[tuple(padded[last + 1 - order : last + 1])] += 1
    return found


def spelled(counts: Counts, order: int) -> dict[tuple[int, ...], int]:
    grams = [(row,) for row in range(counts.unigram_rows)]
    for keys in counts.keys[: order - 1]:
        grams = [(*grams[key // VOCABULARY], int(key % VOCABULARY)) for key in keys.tolist()]
    return {gram: int(count) for gram, count in zip(grams, counts.counts[order - 1], strict=True) if count}


@pytest.mark.parametrize("end", [11, None])
@pytest.mark.parametrize("chunk", [40, 300, 1 << 16])
def test_counts_are_those_of_a_dictionary(chunk: int, end: int | None, tmp_path: Path) -> None:
    documents = corpus(end)
    store = TokenStore.from_documents(documents)
    plan = CountPlan(4, VOCABULARY, VOCABULARY if end is None else end, len(store), chunk)
    done: list[float] = []
    counts = count_ngrams(store, plan, tmp_path / "counts", lambda amount, _: done.append(amount))
    for order in range(1, 5):
        expected = plain_counts(documents, plan.begin, order)
        assert spelled(counts, order) == expected
        if order > 1:
            assert (np.diff(counts.keys[order - 2]) > 0).all()
    assert sum(done) == passes(plan) * len(store)
    assert not list((tmp_path / "counts").glob("*run*"))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop_after", range(1, 60, 7))
def test_an_interrupted_count_goes_on(stop_after: int, tmp_path: Path) -> None:
    documents = corpus()
    store = TokenStore.from_documents(documents)
    plan = CountPlan(3, VOCABULARY, 11, len(store), 64)
    calls = 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_after:
            raise Stopped

    try:
        count_ngrams(store, plan, tmp_path / "counts", stop)
    except Stopped:
        pass
    else:
        assert calls < stop_after
    counts = count_ngrams(store, plan, tmp_path / "counts")
    for order in range(1, 4):
        assert spelled(counts, order) == plain_counts(documents, 11, order)


def test_counts_of_another_plan_are_not_used(tmp_path: Path) -> None:
    first = TokenStore.from_documents(corpus())
    count_ngrams(first, CountPlan(3, VOCABULARY, 11, len(first), 64), tmp_path / "counts")
    documents = corpus()[:20]
    second = TokenStore.from_documents(documents)
    counts = count_ngrams(second, CountPlan(2, VOCABULARY, 11, len(second), 64), tmp_path / "counts")
    assert spelled(counts, 2) == plain_counts(documents, 11, 2)


def test_memory_decides_how_much_is_sorted_at_once() -> None:
    assert CountPlan.within(1 << 30, 5, 100, None, 10).chunk == 1 << 24
    assert CountPlan.within(1, 5, 100, 3, 10).begin == 3


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = TokenStore.from_documents(corpus())
    with pytest.raises(MissingResource, match="counting n-grams"):
        count_ngrams(store, CountPlan(2, VOCABULARY, 11, len(store), 64), tmp_path / "file" / "counts")


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from zhixing.models.ngram.counting import CountPlan, count_ngrams

folder, tokens, room = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

class Source:
    documents = np.array([0, tokens], np.uint64)
    def __len__(self):
        return tokens
    def read(self, start, count):
        mixed = np.arange(start, min(start + count, tokens), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        return (mixed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(52)).astype(np.uint16)

with open("/proc/self/status") as status:
    begun = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (begun + room, begun + room))
count_ngrams(Source(), CountPlan.within(room // 2, 4, 4096, None, tokens), folder)
print(sum(file.stat().st_size for file in folder.iterdir()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's data is Linux's")
def test_counts_are_larger_than_the_memory_that_the_process_may_take(tmp_path: Path) -> None:
    room = 24 << 20
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "counts"), "1500000", str(room)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 2 * room
