from __future__ import annotations

import json
from pathlib import Path

import pytest

from zhixing.core.errors import BadInput
from zhixing.data.sums import make_sums


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_sum_is_right_and_nothing_held_out_is_shown(tmp_path: Path) -> None:
    made = make_sums(tmp_path / "sums")
    train, held_out = _rows(made.train), _rows(made.held_out)
    assert (len(train), len(held_out)) == made.counts

    def pair(row: dict[str, str]) -> tuple[int, ...]:
        return tuple(sorted(int(part) for part in row["source"].rstrip("=").split("+")))

    for row in [*train, *held_out]:
        assert sum(pair(row)) == int(row["target"])
    shown = {pair(row) for row in train}
    assert len(held_out) == 300
    assert not shown & {pair(row) for row in held_out}
    assert len(shown) + 300 == 90 * 91 // 2
    assert [row["text"] for row in _rows(made.texts)] == [row["source"] + row["target"] for row in train]


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    one, two, other = (make_sums(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert one.held_out.read_bytes() == two.held_out.read_bytes() != other.held_out.read_bytes()
    with pytest.raises(BadInput, match="already"):
        make_sums(tmp_path / "a")
