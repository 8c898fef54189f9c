"""Whatever a chat template says, it gives a text or one clear message: grammar-made and damaged templates."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zhixing.core.errors import BadInput
from zhixing.tokenization.chat_template import ChatTemplate

from .chat_samples import TEMPLATES, says

MESSAGES = [says("user", "hi"), says("assistant", "yo")]


def tag(name: str, argument: str, body: str | None = None) -> str:
    opened = "{% " + name + " " + argument + " %}"
    return opened if body is None else opened + body + "{% end" + name.split()[0] + " %}"


ATOMS = st.sampled_from(
    "messages messages[0] messages[0].content 'ab<c' '' 7 -3 1.5 none true [1,2] (1,'b') {'a':[1]} range(99999) ns.x i"
    " x bos_token 10**9 loop namespace(a=1) dict(a=1) 'a%5sb{0:>3}' messages[-1]['role'][::-1] cycler('a','b')".split()
)
FILTERS = st.sampled_from(
    "upper trim length list string tojson first last join sort sum reverse map('upper') select unique center(999)"
    " indent(99) batch(3) slice(4) wordwrap(2) int float round default('d') replace('a','bb') items dictsort min max"
    " pprint safe escape urlize striptags title wordcount format(1,2) groupby('role') selectattr('role')"
    " attr('content') random filesizeformat truncate(3) xmlattr urlencode abs map(attribute='role')".split()
)
OPERATORS = st.sampled_from("+ - * / // % ** ~ == < in and or is".split())
METHODS = st.sampled_from(
    "upper() strip() split('a') join(['a','b']) replace('','ab') format(1,2) items() get('role') center(99) index(1)"
    " count('a') splitlines() ljust(10**8) keys() zfill(9) startswith('a') title() encode() bit_length() copy()".split()
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, FILTERS).map("|".join),
        st.tuples(inner, OPERATORS, inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, METHODS).map(lambda parts: f"({parts[0]}).{parts[1]}"),
        st.tuples(inner, inner).map(lambda parts: f"[{parts[0]}, {parts[1]}]"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}]"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})"),
    ),
    max_leaves=6,
)
STATEMENTS = st.recursive(
    st.one_of(
        EXPRESSIONS.map(lambda text: "{{ " + text + " }}"),
        EXPRESSIONS.map(lambda text: tag("set x =", text)),
        EXPRESSIONS.map(lambda text: tag("set ns.x =", text)),
        st.text("{}%# \nab'\"-<|", max_size=8),
        st.sampled_from(["{% break %}", "{{ f(i) }}", "{{ loop(x) }}", "{{ f(f(x)) }}"]),
    ),
    lambda inner: st.one_of(
        st.tuples(EXPRESSIONS, inner).map(lambda parts: tag("for i in", *parts)),
        st.tuples(EXPRESSIONS, inner).map(lambda parts: tag("if", *parts)),
        st.tuples(inner, inner).map("".join),
        inner.map(lambda body: tag("macro", "f(x)", body)),
        inner.map(lambda body: tag("set", "x", body)),
        inner.map(lambda body: tag("generation", "", body)),
        inner.map(lambda body: tag("for", "i in [1, 2, [3]] recursive", body)),
    ),
    max_leaves=6,
)


def survive(source: str) -> None:
    """A template gives a text or one clear message, in little time; nothing else ever leaves the sandbox."""
    started = time.process_time()
    try:
        text: Any = ChatTemplate("{% set ns = namespace(x='x') %}" + source).render(MESSAGES).text
    except BadInput as error:
        text = str(error)
    assert isinstance(text, str)
    assert time.process_time() - started < 15


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STATEMENTS)
def test_any_template_gives_a_text_or_one_message(source: str) -> None:
    survive(source)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(sorted(TEMPLATES)), st.data())
def test_damaged_templates_give_a_text_or_one_message(name: str, data: st.DataObject) -> None:
    source = TEMPLATES[name]
    cut = data.draw(st.integers(0, len(source)))
    length = data.draw(st.integers(0, 40))
    survive(source[:cut] + data.draw(st.text("{}%# \n'\"-|", max_size=3)) + source[cut + length :])


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STATEMENTS)
def test_any_of_very_many_templates(source: str) -> None:
    survive(source)
