"""JSON held to a schema: whatever a model prefers, what it writes fits; `jsonschema` is the judge."""

import json
import random
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.chat_model import chat_network, chat_tokenizer

from zhixing.core.errors import BadInput
from zhixing.generation import Generator, SamplingOptions
from zhixing.generation.grammar import JsonConstraint, compile_schema
from zhixing.generation.grammar.machine import Machine
from zhixing.generation.grammar.tokens import TokenFilter, TokenTree

TOKENIZER = chat_tokenizer()
TREE = TokenTree(TOKENIZER, TOKENIZER.vocab_size + 3)
ENDS = [TOKENIZER.vocabulary["<|im_end|>"]]

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": ["integer", "null"], "minimum": 0},
        "kind": {"enum": ["friend", "朋友", 3]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
        "height": {"type": "number"},
        "near": {"$ref": "#/$defs/place"},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 4}, "in": {"$ref": "#/$defs/place"}},
            "required": ["city"],
        }
    },
}


VALUES = [
    {"name": "é知😀", "age": None, "kind": "朋友", "tags": ["x"], "height": -1.5e3},
    {"name": 'a"\\', "age": 7, "kind": 3, "tags": ["", "b"], "near": {"city": "x", "in": {"city": "y"}}},
]
MISFITS = [
    '{"name": ""',
    '{"age"',
    '{"name": "x", "age": -',
    '{"name":"x"',
    '{"name": "x", "age": 01',
    '{"name": "abcdefghijklm',
    '{"name": "x", "age": 1, "kind": "enemy',
]


def leaves() -> st.SearchStrategy[Any]:
    bounds = st.tuples(st.integers(0, 3), st.integers(3, 6))
    return st.one_of(
        st.sampled_from([{"type": "integer"}, {"type": "number", "minimum": 0}, {"type": "boolean"}, {"type": "null"}]),
        bounds.map(lambda pair: {"type": "string", "minLength": pair[0], "maxLength": pair[1]}),
        st.lists(st.one_of(st.text(max_size=4), st.integers(-9, 9), st.none()), min_size=1, max_size=3).map(
            lambda values: {"enum": values}
        ),
    )


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.tuples(inner, st.integers(0, 2), st.integers(2, 3)).map(
        lambda three: {"type": "array", "items": three[0], "minItems": three[1], "maxItems": three[2]}
    )
    objects = st.dictionaries(
        st.text(min_size=1, max_size=4), st.tuples(inner, st.booleans()), min_size=1, max_size=3
    ).map(
        lambda fields: {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in fields.items()},
            "required": [name for name, (_, needed) in fields.items() if needed],
            "additionalProperties": False,
        }
    )
    return st.one_of(arrays, objects, st.lists(inner, min_size=1, max_size=2).map(lambda many: {"anyOf": many}))


SCHEMAS = st.recursive(leaves(), deeper, max_leaves=5)


def walk(schema: Any, rng: random.Random, steps: int = 400) -> tuple[str, bool, JsonConstraint]:
    """Writes by choosing among the allowed tokens at random; returns the bytes as text and whether they ended."""
    constraint = JsonConstraint(compile_schema(schema), TREE, ENDS)
    state, data = constraint.machine.start, b""
    for _ in range(steps):
        tokens = torch.nonzero(constraint._filter.allowed(state))[:, 0].tolist()
        if () in state and (not tokens or rng.random() < 0.3):
            return data.decode(), True, constraint
        assert tokens, data
        piece = TREE.bytes_of[rng.choice(tokens)]
        data += piece
        state = constraint.machine.read(state, piece)
        assert state, data
    return data.decode(errors="ignore"), False, constraint


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32))
def test_what_is_written_at_random_fits(schema: Any, seed: int) -> None:
    text, ended, constraint = walk(schema, random.Random(seed))
    for cut in {len(text), *random.Random(seed).sample(range(len(text) + 1), min(3, len(text)))}:
        whole, mended = constraint.completed(text[:cut])
        jsonschema.validate(json.loads(whole), schema)
        assert whole.startswith(text[:cut])
        assert mended or whole == text[:cut]
    assert ended or len(text) > 20


@settings(max_examples=60, deadline=None)
@given(SCHEMAS, st.integers(0, 2**32))
def test_the_mask_allows_exactly_what_the_machine_can_read(schema: Any, seed: int) -> None:
    rng = random.Random(seed)
    machine = Machine(compile_schema(schema))
    judge = TokenFilter(machine, TREE)
    state = machine.start
    for _ in range(12):
        allowed = set(torch.nonzero(judge.allowed(state))[:, 0].tolist())
        for token, data in TREE.bytes_of.items():
            assert bool(machine.read(state, data)) == (token in allowed), data
        if not allowed:
            break
        state = machine.read(state, TREE.bytes_of[rng.choice(sorted(allowed))])


@pytest.mark.parametrize("value", VALUES)
def test_json_that_fits_can_be_written(value: Any) -> None:
    machine = Machine(compile_schema(PERSON))
    jsonschema.validate(value, PERSON)
    text = json.dumps(value, ensure_ascii=False).encode()
    assert () in machine.read(machine.start, text)


@pytest.mark.parametrize("text", MISFITS)
def test_what_does_not_fit_is_stopped(text: str) -> None:
    machine = Machine(compile_schema(PERSON))
    assert not machine.read(machine.start, text.encode())


@pytest.mark.parametrize("seed", range(3))
def test_a_model_writes_json_side_by_side(seed: int) -> None:
    model = chat_network(TOKENIZER)
    constraint = JsonConstraint(compile_schema(PERSON), TokenTree(TOKENIZER, model.config.vocab_size), ENDS)
    generator = Generator(model, TOKENIZER, processors=[constraint])
    options = SamplingOptions(temperature=1.5, seed=seed, max_tokens=150, end_tokens=tuple(ENDS))
    for answer in generator.generate([[1, 2, 3], [4, 5], [6]], options):
        whole, mended = constraint.completed(answer.text)
        assert mended == (answer.finish_reason != "stop")
        jsonschema.validate(json.loads(whole), PERSON)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (False, "false: nothing fits"),
        ([1], "a schema is an object"),
        ({}, "no type"),
        ({"type": "text"}, "unknown type 'text'"),
        ({"type": "string", "pattern": "a+"}, "'pattern' of string is not supported"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "nothing fits: minLength 5"),
        ({"type": "string", "maxLength": -1}, "whole number"),
        ({"type": "integer", "minimum": 7}, "minimum 7 is not supported"),
        ({"enum": []}, "nothing fits: no value of enum"),
        ({"type": "string", "enum": [1]}, "nothing fits: no value of enum"),
        ({"type": "object"}, "without properties"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "'b' is required"),
        ({"type": "array"}, "without items"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 1}, "minItems 3"),
        ({"$ref": "#/$defs/none"}, "names nothing"),
        ({"$ref": "other.json"}, "out of the schema"),
        ({"anyOf": []}, "not empty"),
        ({"allOf": [{"type": "null"}, {"type": "null"}]}, "allOf of several"),
        ({"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]}, "asks for itself without end"),
        ({"not": {"type": "null"}}, "no type"),
    ],
)
def test_schemas_that_cannot_be_met_or_are_not_known(schema: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        compile_schema(schema)
