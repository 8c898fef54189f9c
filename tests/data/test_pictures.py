"""Generated pictures: the same for the same seed, held-out pairs kept apart, captions that say what is drawn."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.data import shapes
from zhixing.data.pictures import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw,
    held_out_things,
    make_pictures,
    pictures,
    sample_scene,
)

PIL = pytest.importorskip("PIL.Image")


def test_captions():
    one, other = Thing("small", "red", "circle"), Thing("large", "blue", "star")
    assert Scene(one).caption() == "a small red circle"
    assert Scene(one, "left of", other).caption() == "a small red circle left of a large blue star"
    assert Scene(one).caption("zh") == "一个小的红色圆形"
    assert Scene(one, "above", other).caption("zh") == "一个小的红色圆形在一个大的蓝色星形的上面"


@given(st.integers(0, 2**62), st.booleans())
@settings(max_examples=50)
def test_training_never_shows_what_is_held_out_and_unseen_always_does(seed, unseen):
    held_out = held_out_things(seed)
    assert {(thing.size, thing.colour) for thing in held_out} == {
        (size, colour) for size in SIZES for colour in COLOURS
    }
    random = np.random.default_rng(seed)
    for _ in range(20):
        things = sample_scene(random, held_out, unseen).things
        assert any(thing in held_out for thing in things) == unseen


def test_every_word_is_seen_in_training():
    captions = " ".join(caption for _, caption in pictures(400))
    assert all(word in captions for word in [*COLOURS, *SHAPES, *SIZES, *RELATIONS])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_picture_has_the_colour_and_size_of_its_caption(shape, colour):
    counts = []
    for size in SIZES:
        image = np.asarray(draw(Scene(Thing(size, colour, shape)), 64, np.random.default_rng(1))).astype(int)
        near = np.abs(image - COLOURS[colour][0]).max(axis=2) < 40
        counts.append(int(near.sum()))
        others = [name for name in COLOURS if name not in (colour,)]
        wrong = [int((np.abs(image - COLOURS[name][0]).max(axis=2) < 20).sum()) for name in others]
        assert max(wrong) < counts[-1] / 4
    assert 10 < counts[0] < counts[1] / 2


def test_the_first_thing_is_where_the_caption_says():
    random = np.random.default_rng(3)
    red, blue = Thing("small", "red", "star"), Thing("large", "blue", "ring")
    for relation, axis in (("left of", 1), ("above", 0)):
        image = np.asarray(draw(Scene(red, relation, blue), 96, random)).astype(int)
        places = [
            np.argwhere(np.abs(image - COLOURS[colour][0]).max(axis=2) < 40).mean(axis=0)[axis]
            for colour in ("red", "blue")
        ]
        assert places[0] + 30 < places[1]


def test_the_same_seed_gives_the_same_pictures():
    assert list(pictures(5, seed=7)) == list(pictures(5, seed=7))
    assert list(pictures(5, seed=7)) != list(pictures(5, seed=8))


def test_a_data_set_is_read_as_records(tmp_path):
    made = make_pictures(tmp_path / "set", 12, unseen=5, side=32, language="zh")
    train, unseen = (list(shapes.read(path)) for path in (made.train, made.unseen))
    assert (len(train), len(unseen)) == (12, 5)
    assert all(placed.record.text.startswith("一个") for placed in train)
    assert PIL.open(io.BytesIO(train[3].record.image.read_bytes())).size == (32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "de"}, "unknown language"),
        ({"side": 8}, "from 32"),
        ({"count": 0}, "from 1"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_out_of_bounds(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        make_pictures(tmp_path / "set", **{"count": 2, **options})
    assert not (tmp_path / "set").exists()


def test_nothing_is_overwritten(tmp_path):
    with pytest.raises(BadInput, match="something already"):
        make_pictures(tmp_path, 2)
