"""The recipe: strict, overridable, and the same after it was written and read."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from zhixing.core.errors import BadInput, MissingResource, ZhixingError
from zhixing.core.recipe import Recipe, apply_override, build_recipe, load_recipe, parse_recipe

READY = [
    path
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    if not path.name.startswith("compare-")  # comparisons have a schema of their own
]


@pytest.mark.parametrize("path", READY, ids=lambda path: path.name)
def test_the_recipes_that_come_with_the_program_are_right(path):
    recipe = load_recipe(path)
    assert parse_recipe(recipe.to_yaml()) == recipe


def test_writing_and_reading_gives_the_same_recipe():
    recipe = build_recipe(
        {
            "name": "知行",
            "data": {"paths": ["文 件.txt", "b"], "separator": False},
            "train": {"minutes": 0.5, "clip": None},
        }
    )
    assert parse_recipe(recipe.to_yaml()) == recipe
    assert "知行" in recipe.to_yaml()


def test_recipes_share_nothing():
    first, second = Recipe(), Recipe()
    first.train.steps = 7
    first.data.paths.append("x")
    assert second.train.steps is None
    assert second.data.paths == []
    assert Recipe().data.paths == []


def test_values_are_checked_when_they_are_set_as_well():
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.train.steps = 0
    with pytest.raises(ValidationError):
        recipe.train.stepz = 3


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.steps=500", ("train", "steps"), 500),
        ("optimizer.learning_rate=3e-4", ("optimizer", "learning_rate"), 3e-4),
        ("optimizer.learning_rate=1", ("optimizer", "learning_rate"), 1.0),
        ("train.clip=null", ("train", "clip"), None),
        ("data.paths=[a, b c]", ("data", "paths"), ["a", "b c"]),
        ("data.field='a=b'", ("data", "field"), "a=b"),
        (" model.tied = true", ("model", "tied"), True),
        ("model.family=gpt2", ("model", "family"), "gpt2"),
    ],
)
def test_overrides(override, key, value):
    recipe = parse_recipe("name: x", [override])
    assert getattr(getattr(recipe, key[0]), key[1]) == value


def test_the_last_override_wins_and_makes_its_section():
    values = {}
    for override in ("train.steps=1", "train.steps=2", "train.keep=5"):
        apply_override(values, override)
    assert values == {"train": {"steps": 2, "keep": 5}}
    assert parse_recipe("train: {steps: 9}", ["train.steps=3"]).train.steps == 3


def test_numbers_that_yaml_takes_for_text_are_numbers_only_where_they_look_like_it():
    assert build_recipe({"optimizer": {"eps": "1e-8"}}).optimizer.eps == 1e-8
    assert build_recipe({"name": "e5"}).name == "e5"
    assert build_recipe({"data": {"paths": ["1e5"]}}).data.paths == ["1e5"], "a path stays a path"


def test_where_a_fault_stands():
    with pytest.raises(BadInput) as caught:
        parse_recipe("train: {steps: 0}", where="my.yaml")
    assert caught.value.where == "my.yaml"
    assert "--set train.steps=VALUE" in caught.value.remedy
    with pytest.raises(BadInput) as caught:
        parse_recipe("train: {steps: 5}", ["train.steps=0"], where="my.yaml")
    assert caught.value.where == "--set train.steps"


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingResource, match="no such recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match="this is a folder"):
        load_recipe(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.sampled_from([*Recipe.model_fields, "other"])
KEYS = st.sampled_from(["steps", "paths", "depth", "family", "kind", "eps", "shape", "nothing"])


@given(st.dictionaries(SECTIONS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_anything_gives_a_recipe_or_a_message(values):
    try:
        recipe = build_recipe(values)
    except ZhixingError as error:
        assert str(error).startswith("recipe: ")
    else:
        assert parse_recipe(recipe.to_yaml()) == recipe


@given(st.text(max_size=60) | st.text("[]{}:-,&*!|>'\"#%@ \nab01", max_size=40))
def test_any_text_gives_a_recipe_or_a_message(text):
    try:
        parse_recipe(text)
        parse_recipe("", [text])
    except ZhixingError as error:
        assert str(error)


def test_the_yaml_is_plain():
    assert yaml.safe_load(Recipe().to_yaml())["train"]["steps"] is None


def test_lists_of_sections_are_explained_and_overridden():
    rewards = {"task": {"rewards": [{"kind": "number", "weight": "1e-1"}]}}
    assert build_recipe(rewards).task.rewards[0].weight == 0.1
    with pytest.raises(BadInput, match=r"unknown key 'task\.rewards\.0\.patern'[\s\S]*task\.rewards\.0\.pattern\?"):
        build_recipe({"task": {"rewards": [{"kind": "pattern", "patern": "x"}]}})
    text = "task: {rewards: [{kind: number}, {kind: pattern, pattern: x}]}"
    assert parse_recipe(text, ["task.rewards.1.pattern=y"]).task.rewards[1].pattern == "y"
    for place in ("2", "one", "-1"):
        with pytest.raises(BadInput, match="names none of the 2 items"):
            parse_recipe(text, [f"task.rewards.{place}.pattern=y"])


@pytest.mark.parametrize(
    "value", ["task.rewards=[{kind: number, weight: .nan}]", "train.minutes=.inf", "tune.alpha=.inf"]
)
def test_figures_are_finite(value):
    with pytest.raises(BadInput, match="finite number"):
        parse_recipe("{}", [value])
    assert parse_recipe("{}", ["train.spike=.inf"]).train.spike == float("inf")
