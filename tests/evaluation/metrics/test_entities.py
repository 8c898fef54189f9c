"""Entities: conlleval's chunk rules by a table, and seqeval."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from zhixing.core.errors import BadInput
from zhixing.data.shapes.schemes import chunks
from zhixing.evaluation.metrics.entities import entities

TABLE = [
    # IOB1: I begins a chunk after O or another type; B only between two chunks of one type.
    ("I-PER I-PER O", [(0, 2, "PER")]),
    ("I-PER B-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ("I-PER I-LOC", [(0, 1, "PER"), (1, 2, "LOC")]),
    ("O I-LOC O I-LOC", [(1, 2, "LOC"), (3, 4, "LOC")]),
    # BIO
    ("B-PER I-PER B-PER O", [(0, 2, "PER"), (2, 3, "PER")]),
    ("B-PER I-LOC", [(0, 1, "PER"), (1, 2, "LOC")]),  # a type that changes begins a chunk, whatever the letter
    ("B-PER O I-PER", [(0, 1, "PER"), (2, 3, "PER")]),
    ("B-LOC", [(0, 1, "LOC")]),
    # BIOES
    ("B-PER I-PER E-PER", [(0, 3, "PER")]),
    ("S-PER S-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ("E-PER E-PER", [(0, 1, "PER"), (1, 2, "PER")]),
    ("B-PER E-PER I-PER", [(0, 2, "PER"), (2, 3, "PER")]),
    ("S-LOC I-LOC E-LOC", [(0, 1, "LOC"), (1, 3, "LOC")]),
    ("O E-LOC", [(1, 2, "LOC")]),
    # BMES, BILOU, types with hyphens, no types
    ("B-PER M-PER E-PER S-ORG", [(0, 3, "PER"), (3, 4, "ORG")]),
    ("B-PER L-PER U-ORG", [(0, 2, "PER"), (2, 3, "ORG")]),
    ("B-work-of-art I-work-of-art", [(0, 2, "work-of-art")]),
    ("B I O I", [(0, 2, ""), (3, 4, "")]),
    ("O O", []),
    ("", []),
]


@pytest.mark.parametrize(("tags", "expected"), TABLE)
def test_chunks(tags, expected):
    assert chunks(tags.split()) == expected


TAGS = st.sampled_from(["O", *(f"{position}-{kind}" for position in "BIES" for kind in ("PER", "LOC"))])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=9), min_size=1, max_size=5))
def test_as_seqeval(sentences):
    ours = [[pair[0] for pair in sentence] for sentence in sentences]
    true = [[pair[1] for pair in sentence] for sentence in sentences]
    for tags in ours:
        assert chunks(tags) == [(begin, end + 1, kind) for kind, begin, end in get_entities(tags)]
    (score,) = entities(ours, true)
    assert score.value == pytest.approx(f1_score(true, ours, zero_division=0))
    assert score.details["precision"] == pytest.approx(precision_score(true, ours, zero_division=0))
    assert score.details["recall"] == pytest.approx(recall_score(true, ours, zero_division=0))


def test_conlleval_by_hand():
    true = ["B-PER I-PER O B-LOC".split(), "O B-ORG I-ORG".split(), "O O".split()]
    ours = ["B-PER I-PER O B-ORG".split(), "O B-ORG O".split(), "O B-LOC".split()]
    f1, accuracy = entities(ours, true, ["entity_f1", "tag_accuracy"])
    # 3 true chunks, 4 predicted, 1 right: precision 1/4, recall 1/3.
    assert (f1.details["right"], f1.details["predicted"], f1.details["true"]) == (1, 4, 3)
    assert f1.value == pytest.approx(2 / 7)
    assert f1.details["types"]["PER"]["f1"] == 1
    assert f1.details["types"]["LOC"] == {"precision": 0, "recall": 0, "f1": 0, "right": 0, "predicted": 1, "true": 1}
    assert accuracy.value == pytest.approx(6 / 9)
    assert f1.per_example == pytest.approx([0.5, 0, 0])


def test_what_cannot_be():
    with pytest.raises(BadInput, match=r"sentence 2: 1 predicted tag\(s\) but 2"):
        entities([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(BadInput, match="sentence 1: 'X-PER' is not a tag"):
        entities([["X-PER"]], [["O"]])
    with pytest.raises(BadInput, match="'O-PER' is not a tag"):
        entities([["O-PER"]], [["O"]])
    with pytest.raises(BadInput, match="all sentences are empty"):
        entities([[]], [[]])
