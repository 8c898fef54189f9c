"""Rewards: what is right gets its due, and what only looks right does not."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.recipe import RewardRecipe
from zhixing.core.sandbox import available_isolation
from zhixing.training.rewards import Attempt, build_rewards
from zhixing.training.rewards.code import UnitTests, find_code
from zhixing.training.rewards.numeric import ExactNumber, extract_number
from zhixing.training.rewards.pattern import Pattern
from zhixing.training.rewards.schema import JsonSchema, allows, check_schema


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("#### 42", 42),
        ("5 + 3 = 8\n#### 8\nThat took 2 steps.", 8),
        ("#### $1,234.50", Fraction("1234.5")),
        ("The answer is \\boxed{17}. There were 3 apples.", 17),
        ("\\boxed{\\frac{3}{4}}", Fraction(3, 4)),
        ("\\boxed{-\\dfrac{1}{2}}", Fraction(-1, 2)),
        ("\\boxed{\\text{no number}} but 9", 9),
        ("first \\boxed{1}, then \\boxed{2}, at last \\boxed{", 2),
        ("x = -3", -3),
        ("10-3", 3),
        ("(4)-3", 3),
        ("it is −7 degrees", -7),
        ("3/4 of it", Fraction(3, 4)),
        ("12.", 12),
        ("12. Then done", 12),
        ("1,000,000", 10**6),
        ("1, 2, 3", 3),
        ("12,34", 34),
        ("1{,}234", 1234),
        ("6.02e3", 6020),
        ("答案是４２。", 42),
        ("答案是一百二十三。", 123),
        ("一共两千零三个", 2003),
        ("三点一四", Fraction("3.14")),
        ("负五", -5),
        ("十二", 12),
        ("二〇二六年", 2026),
        ("一亿二千万", 120_000_000),
        ("三万亿", 3 * 10**12),
        ("五万六千零七", 56007),
        ("no number at all", None),
        ("", None),
        ("1/0", None),
        ("v1.2.3 gave 7", 7),
    ],
)
def test_numbers_as_they_are_written(text: str, number: int | Fraction | None) -> None:
    assert extract_number(text) == number


@given(st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**6))
def test_any_number_is_found_again(number: Fraction) -> None:
    for written in (f"It is {number.numerator}/{number.denominator}.", f"so \\boxed{{{number}}}"):
        assert extract_number(written) == number
    assert extract_number(f"the sum of 3 and 4: {number.numerator:,} apples") == number.numerator


@given(st.text(max_size=300))
def test_any_text_is_read_without_a_fault(text: str) -> None:
    extract_number(text)


def test_long_texts_take_no_long_time() -> None:
    begun = time.monotonic()
    for text in ("1," * 50_000, "9" * 100_000, "\\boxed{" * 14_000, "\\frac{" * 16_000, "####" * 25_000, "一" * 4000):
        extract_number(text)
    assert time.monotonic() - begun < 20


def test_the_right_number_is_worth_one() -> None:
    attempts = [Attempt("2+2", text, answer="so it is\n#### 4") for text in ("4", "#### 4.0", "5", "4 or 5", "")]
    assert ExactNumber()(attempts) == [1, 1, 0, 0, 0]
    with pytest.raises(BadInput, match="holds no number"):
        ExactNumber()([Attempt("q", "4", answer="four")])
    with pytest.raises(BadInput, match="needs the field 'value'"):
        ExactNumber("value")([Attempt("q", "4", answer="4")])
    assert ExactNumber("value")([Attempt("q", "4", record={"value": 4})]) == [1]


def test_patterns() -> None:
    attempts = [Attempt("q", text) for text in ("<think>a\nb</think> 4", "4", "x<think></think>")]
    assert Pattern(r"<think>.*</think>")(attempts) == [1, 0, 1]
    assert Pattern(r"<think>.*</think>.*", whole=True)(attempts) == [1, 0, 0]
    assert Pattern("字+")([Attempt("q", "汉字字")]) == [1]
    with pytest.raises(BadInput, match="no regular expression"):
        Pattern("(")


def test_a_pattern_that_never_ends_is_given_up() -> None:
    pattern = Pattern("(a+)+b", whole=True)
    begun = time.monotonic()
    assert pattern([Attempt("q", "a" * 60), Attempt("q", "aab"), Attempt("q", "a" * 60)]) == [0, 1, 0]
    assert pattern.late == 2
    assert time.monotonic() - begun < 20


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"name": "Li", "age": 3}', 1),
        ('Here it is:\n```json\n{"name": "李"}\n```\nDone.', 1),
        ('{"name": "Li", "age": 3.0}', 1),
        ('{"name": "Li", "age": true}', 0),
        ('{"name": "", "age": 3}', 0),
        ('{"age": 3}', 0),
        ('{"name": "Li", "more": 1}', 0),
        ('{"name": "Li", "age": NaN}', 0),
        ('{"name": "Li"', 0),
        ("[" * 100_000, 0),
    ],
)
def test_json_of_a_form(text: str, value: float) -> None:
    assert JsonSchema(SCHEMA)([Attempt("q", text)]) == [value]


def test_json_that_is_valid_but_of_another_form_can_be_worth_a_part() -> None:
    attempts = [Attempt("q", text) for text in ('{"name": "Li"}', "{}", "nothing")]
    assert JsonSchema(SCHEMA, valid_share=0.25)(attempts) == [1, 0.25, 0]


def test_a_schema_is_checked_in_full_or_refused() -> None:
    with pytest.raises(BadInput, match=r"schema\.properties\.a: the keyword 'patternProperties'"):
        JsonSchema({"properties": {"a": {"patternProperties": {}}}})
    for wrong in ({"type": "int"}, {"required": "a"}, {"minimum": "3"}, {"anyOf": []}, {"items": 3}):
        with pytest.raises(BadInput):
            JsonSchema(wrong)


_SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2, width=16) | st.text("ab", max_size=3)
_VALUES = st.recursive(_SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from("ab"), v))
_SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"]),
            "enum": st.lists(_SCALARS, min_size=1, max_size=3),
            "const": _SCALARS,
            "minimum": st.integers(-2, 2),
            "exclusiveMaximum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
            "minItems": st.integers(0, 2),
            "uniqueItems": st.booleans(),
            "required": st.lists(st.sampled_from("ab"), max_size=2, unique=True),
        },
    ),
    lambda s: st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("ab"), s),
            "items": s,
            "additionalProperties": s | st.booleans(),
            "anyOf": st.lists(s, min_size=1, max_size=2),
            "oneOf": st.lists(s, min_size=1, max_size=2),
            "not": s,
        },
    ),
    max_leaves=5,
)


@given(_SCHEMAS, _VALUES)
def test_schemas_mean_what_the_reference_says(schema: dict[str, Any], value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check_schema(schema)
    assert allows(schema, value) == jsonschema.Draft202012Validator(schema).is_valid(value)


def test_an_integer_may_be_longer_than_any_float() -> None:
    assert JsonSchema({"type": "integer"})([Attempt("q", "9" * 400), Attempt("q", "1e999")]) == [1, 0]


def test_code_is_judged_by_its_tests() -> None:
    try:
        available_isolation()
    except MissingResource as error:
        pytest.skip(str(error))
    tests = '["assert double(2) == 4", "assert double(-1) == -2"]'
    answers = (
        "Here:\n```python\ndef double(x):\n    return 2 * x\n```\nDone.",
        "def double(x): return x + 2",
        "no code at all",
        "```\nimport os; os._exit(0)\n```",
    )
    attempts = [Attempt("q", answer, tests) for answer in answers]
    assert UnitTests()(attempts) == [1, 0.5, 0, 0]
    assert UnitTests(all_or_nothing=True)(attempts) == [1, 0, 0, 0]
    with pytest.raises(BadInput, match="tests are Python texts"):
        UnitTests("tests")([Attempt("q", "x", record={"tests": [1]})])


def test_code_is_found_in_unfinished_blocks_too() -> None:
    assert find_code("```python\nx = 1\n```\nand\n```\ny = 2") == "x = 1\n\ny = 2"
    assert find_code("x = 1") == "x = 1"


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules can be imported, and in which the user is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_your_own_function(importable: Path) -> None:
    (importable / "reward_of_mine.py").write_text(
        "def brevity(attempt): return -len(attempt.completion)\n"
        "def broken(attempt): return 1 / 0\n"
        "def wrong(attempt): return 'good'\n"
    )
    attempts = [Attempt("q", "abc")]
    rewards = build_rewards([RewardRecipe(kind="function", function="reward_of_mine:brevity")])
    assert rewards(attempts).total == [-3]
    for name, message in (("broken", "ZeroDivisionError"), ("wrong", "returned 'good'")):
        rewards = build_rewards([RewardRecipe(kind="function", function=f"reward_of_mine:{name}")])
        with pytest.raises(BadInput, match=message):
            rewards(attempts)
    for reference in ("reward_of_mine", "reward_of_mine:nothing", "os.path;x:y", "a b:c"):
        with pytest.raises(BadInput):
            build_rewards([RewardRecipe(kind="function", function=reference)])
    with pytest.raises(MissingResource, match="cannot be imported"):
        build_rewards([RewardRecipe(kind="function", function="no_such_module_here:f")])
    (importable / "reward_unfinished.py").write_text("def f(attempt:\n")
    (importable / "reward_raises.py").write_text("1 / 0\n")
    for module, message in (("reward_unfinished", "SyntaxError"), ("reward_raises", "ZeroDivisionError")):
        with pytest.raises(BadInput, match=f"fails while it is imported: {message}"):
            build_rewards([RewardRecipe(kind="function", function=f"{module}:f")])


def test_rewards_are_weighted_and_watched() -> None:
    rewards = build_rewards(
        [
            RewardRecipe(kind="number"),
            RewardRecipe(kind="pattern", pattern="so", weight=0.5),
            RewardRecipe(kind="pattern", pattern="x", weight=0),
        ]
    )
    scores = rewards([Attempt("q", "so 4", answer="4"), Attempt("q", "x 4", answer="4"), Attempt("q", "", answer="4")])
    assert scores.total == [1.5, 1.0, 0.0]
    assert scores.parts == {"number": [1, 1, 0], "pattern": [1, 0, 0], "pattern-2": [0, 1, 0]}
    assert rewards.watched == ("pattern-2",)


def test_faults_of_the_recipe() -> None:
    with pytest.raises(BadInput, match="did you mean 'pattern'"):
        build_rewards([RewardRecipe(kind="patern")])
    with pytest.raises(BadInput, match="needs `pattern`"):
        build_rewards([RewardRecipe(kind="pattern")])
    with pytest.raises(BadInput, match="nothing to learn from"):
        build_rewards([RewardRecipe(kind="number", weight=0)])
    for values, place, message in (
        ({"kind": "number", "pattern": "x"}, "task.rewards.1", "has no option 'pattern'"),
        ({"kind": "pattern", "pattern": "("}, "task.rewards.1", "no regular expression"),
        (
            {"kind": "schema", "json_schema": {"properties": {"a": {"typ": "string"}}}},
            "task.rewards.1.json_schema.properties.a",
            "keyword 'typ' is not known",
        ),
    ):
        with pytest.raises(BadInput, match=message) as caught:
            build_rewards([RewardRecipe(kind="number"), RewardRecipe.model_validate(values)])
        assert caught.value.where == place


def test_a_function_says_where_it_fails_and_takes_any_number(importable: Path) -> None:
    (importable / "reward_in_numbers.py").write_text(
        "import numpy, torch\ndef a(attempt): return numpy.float32(0.5)\ndef b(attempt): return torch.tensor(0.25)\n"
        "def c(attempt):\n    return attempt.record['none']\ndef d(attempt): return numpy.array([1.0, 2.0])\n"
        "def e(attempt): return float('nan')\ndef f(attempt): return '1'\n"
    )

    def made(name: str) -> Any:
        return build_rewards([RewardRecipe(kind="function", function=f"reward_in_numbers:{name}")])

    assert made("a")([Attempt("q", "x")]).total == [0.5]
    assert made("b")([Attempt("q", "x")]).total == [0.25]
    for name in "def":
        with pytest.raises(BadInput, match="a reward is one finite number"):
            made(name).check(Attempt("q", "x"))
    with pytest.raises(BadInput, match="KeyError") as caught:
        made("c").check(Attempt("q", "x"))
    assert str(caught.value.where).endswith("reward_in_numbers.py:5")
    with pytest.raises(BadInput, match="it has a, b, c, d, e, f") as caught:
        made("g")
