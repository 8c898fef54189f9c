"""Stop texts: the same answer wherever the borders of the pieces are, and nothing held back without need."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.generation.stopping import StopTexts

TEXTS = st.text(alphabet="ab知", max_size=25)
STOPS = st.lists(st.text(alphabet="ab知", min_size=1, max_size=4), max_size=4)


def by_definition(text: str, stops: list[str]) -> tuple[str, bool]:
    """Cuts before the stop text that is completed first, the longest one when there are several."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    matcher, given_out = StopTexts(stops), []
    for piece in pieces:
        given_out.append(matcher.push(piece))
        if matcher.found is not None:
            return given_out, True
    return [*given_out, matcher.finish()], False


@given(TEXTS, STOPS, st.lists(st.integers(0, 25), max_size=8))
def test_any_cutting_gives_the_answer_of_the_definition(text, stops, cuts):
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in itertools.pairwise(borders)]
    given_out, found = run(pieces, stops)
    assert ("".join(given_out), found) == by_definition(text, stops)


@given(TEXTS, STOPS)
def test_only_what_could_become_a_stop_text_is_held_back(text, stops):
    matcher, shown, seen = StopTexts(stops), "", ""
    for character in text:
        shown += matcher.push(character)
        seen += character
        if matcher.found is not None:
            return
        held = seen[len(shown) :]
        assert seen == shown + held
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@pytest.mark.parametrize("pieces", [["He said: E", "N", "D and"], ["He said: END and"], list("He said: END and")])
def test_across_borders(pieces):
    given_out, found = run(pieces, ["END", "STOP"])
    assert "".join(given_out) == "He said: " and found


def test_held_text_is_given_back_at_the_end():
    assert run(["a", "知"], ["知行合一"]) == (["a", "", "知"], False)
