import lzma
import math
import random
import shutil
import subprocess

import numpy as np
import pytest

from zhixing.core.errors import BadInput
from zhixing.evaluation.yardsticks import unigram_yardstick, xz_yardstick


def words(seed: int, count: int) -> str:
    choose = random.Random(seed)
    known = ["知", "行", "合", "一", "know", "and", "do", "better", "learn"]
    return " ".join(choose.choice(known) for _ in range(count))


def test_xz_is_that_of_the_library_at_preset_9_extreme() -> None:
    text = words(0, 20_000)
    size = len(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    measured = xz_yardstick([text[:500], text[500:].encode()])
    assert measured.bits_per_byte == 8 * size / len(text.encode())
    assert measured.bytes == len(text.encode())
    assert "held-out text alone" in measured.description


@pytest.mark.skipif(shutil.which("xz") is None, reason="no xz command on this machine")
def test_xz_is_that_of_the_command() -> None:
    text = words(1, 20_000).encode()
    size = len(subprocess.run(["xz", "-9e", "-c"], input=text, capture_output=True, check=True).stdout)
    assert xz_yardstick([text]).bits_per_byte == pytest.approx(8 * size / len(text), rel=0.002)


def test_training_text_helps_xz_and_it_is_said() -> None:
    text = words(2, 5000)
    alone, primed = xz_yardstick([text]), xz_yardstick([text], primer=[words(3, 1000), text])
    assert primed.bits_per_byte < 0.1 * alone.bits_per_byte
    assert "training text" in primed.description


def test_xz_of_nothing() -> None:
    with pytest.raises(BadInput, match="empty"):
        xz_yardstick([])


def test_unigram_by_hand() -> None:
    measured = unigram_yardstick([np.array([0, 0]), np.array([1])], [np.array([0, 2], dtype=np.uint16)], 4, 6)
    # p(0) = (2 + 1) / (3 + 4), p(2) = (0 + 1) / (3 + 4)
    assert measured.bits_per_byte == pytest.approx(-(math.log2(3 / 7) + math.log2(1 / 7)) / 6)
    assert "3 training tokens" in measured.description


def test_unigram_of_impossible_input() -> None:
    with pytest.raises(BadInput, match="outside the vocabulary"):
        unigram_yardstick([np.array([9])], [np.array([0])], 4, 1)
    with pytest.raises(BadInput, match="empty"):
        unigram_yardstick([np.array([1])], [], 4, 1)
