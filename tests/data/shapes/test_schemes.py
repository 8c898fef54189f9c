"""Schemes of tags: found, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.data.shapes.schemes import Chunk, chunks, convert, find_scheme, write_tags


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("B-X I-X O B-X", "BIO"),
        ("O I-X I-X B-X O I-Y", "IOB1"),
        ("B-X I-X O B-Y O B-X O I-X", "BIO"),  # one slip
        ("B-X E-X S-Y O", "BIOES"),
        ("B-X M-X E-X O", "BMES"),
        ("B-X L-X U-X O", "BILOU"),
        ("NOUN VERB", "none"),
        ("B I O", "BIO"),
    ],
)
def test_find_scheme(tags, scheme):
    assert find_scheme([tags.split()]) == scheme


def test_conversion():
    assert convert("I-X I-X B-X O".split(), "BIOES") == "B-X E-X S-X O".split()
    assert convert("B-X M-X E-X S-Y".split()) == "B-X I-X I-X B-Y".split()
    with pytest.raises(BadInput, match="'NOUN' is not a tag"):
        convert(["NOUN"])


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from("XY")), max_size=5),
    st.sampled_from(["BIO", "BIOES"]),
)
def test_chunks_survive_writing(parts, scheme):
    found, place = [], 0
    for gap, length, kind in parts:
        found.append(Chunk(place + gap, place + gap + length, kind))
        place += gap + length
    assert chunks(write_tags(found, place + 1, scheme)) == found
