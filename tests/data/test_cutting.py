from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.data.cutting import LONGEST, SHORTEST, cut_text

WORDS = ["知", "行", "合", "一", "the", "of", "model", "language", "train,", "data.", "学而时习之", "不亦说乎"]


def paragraphs(seed: int, count: int, line_end: str = "\n", blank: bool = True) -> str:
    generator = random.Random(seed)
    lines = []
    for _ in range(count):
        lines.append(" ".join(generator.choices(WORDS, k=generator.randint(3, 150))) + line_end)
        if blank:
            lines.append(line_end)
    return "".join(lines)


def in_parts(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def test_short_text_is_one_piece() -> None:
    text = paragraphs(0, 60)[:LONGEST]
    assert list(cut_text([text])) == [text]
    assert list(cut_text([])) == []
    assert list(cut_text(["", ""])) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["\n", "\r\n", "\r", " "]),
    st.booleans(),
    st.integers(0, 1500),
    st.integers(1, 300_000),
)
def test_pieces_join_to_the_text_whatever_the_chunks(seed: int, end: str, blank: bool, count: int, size: int) -> None:
    text = paragraphs(seed, count, end, blank)
    pieces = list(cut_text([text]))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= LONGEST for piece in pieces)
    assert all(len(piece) >= SHORTEST for piece in pieces[:-1])
    assert list(cut_text(in_parts(text, size))) == pieces


def test_cuts_are_after_blank_lines_else_lines_else_words_else_anywhere() -> None:
    for piece in list(cut_text([paragraphs(1, 3000)]))[:-1]:
        assert piece.endswith("\n\n")
    for piece in list(cut_text([paragraphs(1, 3000, "\r\n", blank=False)]))[:-1]:
        assert piece.endswith("\r\n")
    for piece in list(cut_text([paragraphs(1, 3000, " ", blank=False)]))[:-1]:
        assert piece.endswith(" ")
    assert list(map(len, cut_text(["x" * (2 * LONGEST + 5)]))) == [LONGEST, LONGEST, 5]


def test_appending_changes_only_the_last_piece() -> None:
    for blank in (True, False):
        text = paragraphs(2, 3000, blank=blank)
        before = list(cut_text([text]))
        after = list(cut_text([text + paragraphs(3, 500, blank=blank)]))
        assert len(before) > 10
        assert after[: len(before) - 1] == before[:-1]


def test_inserting_leaves_most_other_pieces_as_they_were() -> None:
    text = paragraphs(4, 6000)
    before = set(cut_text([text]))
    after = set(cut_text([paragraphs(5, 7) + text]))
    assert len(before) > 30
    assert len(before & after) >= len(before) - 5


def test_an_endless_line_is_cut_as_it_comes() -> None:
    taken = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal taken
        while True:
            taken += 1
            yield "知" * 10_000

    pieces = cut_text(endless())
    for _ in range(5):
        assert len(next(pieces)) == LONGEST
    assert taken <= 34
