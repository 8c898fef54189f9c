"""A hostile chat template ends in one clear message, soon, and in little memory; an honest long one does not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from zhixing.core.errors import BadInput
from zhixing.tokenization import template_budget
from zhixing.tokenization.chat_template import ChatTemplate
from zhixing.tokenization.template_budget import Budget, TemplateLimit

from .chat_samples import TEMPLATES, says

MESSAGES = [says("user", "hi"), says("assistant", "yo")]
GROW = "{% set ns = namespace(x=START) %}{% for i in range(99999) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"


def growing(start: str, step: str) -> str:
    return GROW.replace("START", start).replace("STEP", step)


BOMBS = {
    "multiplied text": "{{ 'a' * 10**9 }}",
    "multiplied list": "{{ ([1] * 10**9)|length }}",
    "multiplied after a filter": "{{ ('a'|upper) * 10**9 }}",
    "center filter": "{{ 'a'|center(10**9) }}",
    "center method": "{{ 'a'.center(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "loop that skips": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "range": "{{ range(10**12)|list }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (10**9, 1) }}",
    "percent precision": "{{ '%.1000000000f' % 1.0 }}",
    "percent filter": "{{ '%1000000000d'|format(1) }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format nested width": "{{ '{:>{w}}'.format(1, w=10**9) }}",
    "format map": "{{ '{a:>1000000000}'.format_map({'a': 1}) }}",
    "macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "block that calls itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "json indent": "{{ messages|tojson(indent=10**9) }}",
    "json separators": "{{ messages|tojson(separators=('a' * 10**6, 'b' * 10**6)) }}",
    "doubling list": growing("[1]", "[ns.x, ns.x]"),
    "doubling dict": growing("{'a': 1}", "{'a': ns.x, 'b': ns.x}"),
    "deep list": growing("[1]", "[ns.x]"),
    "deep tuple as a key": growing("(1,)", "(ns.x,)") + "{{ {}[ns.x] }}",
    "doubling by ~": growing("'a'", "ns.x ~ ns.x"),
    "doubling by +": growing("'a'", "ns.x + ns.x"),
    "doubling by join": growing("'a'", "[ns.x, ns.x]|join"),
    "doubling by replace": growing("'ab'", "ns.x.replace('a', 'aab')"),
    "doubling by percent": growing("'a'", "'%s%s' % (ns.x, ns.x)"),
    "doubling by format": growing("'a'", "'{0}{0}'.format(ns.x)"),
    "doubling by escapes": growing("'<'", "ns.x|forceescape|forceescape"),
    "block": "{% set x %}{% for i in range(99999) %}" + "a" * 5000 + "{% endfor %}{% endset %}",
    "chained filters": growing("[1]", "ns.x|map('string')") + "{{ ns.x|list }}",
    "long list": growing("[]", "ns.x + [i]"),
    "power": "{{ 10**(10**9) }}",
    "product": "{{ 2**4000 * 2**4000 }}",
    "number from text": "{{ ('f' * 100000)|int(base=16) }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "lipsum words": "{{ lipsum(max=10**9) }}",
    "join method": "{{ ('a' * 1000).join(['a' * 1000] * 99999) }}",
    "join filter": "{{ ([''] * 99999)|join('a' * 99999) }}",
    "join of a generator": "{{ range(99999)|map('string')|join('a' * 99999) }}",
    "round": "{{ 15|round(-10**9) }}",
    "strip tags": "{{ ('<!--' * 99999)|striptags }}",
    "word wrap": "{{ ('a' * 99999)|wordwrap(1) }}",
    "links": "{{ ('a@' * 99999)|urlize }}",
    "tabs": "{{ ('\\t' * 1000).expandtabs(10**9) }}",
    "indent": "{{ 'a'|indent(10**9) }}",
    "indent by text": "{{ ('\\n' * 99999)|indent('a' * 999, true, true) }}",
    "date": "{{ strftime_now('%1000000000Y') }}",
    "long date": "{{ strftime_now('%c' * 99999) }}",
    "comparisons": "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{{ s == 'x' * 10**6 }}{% endfor %}",
    "searches": "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{{ 'y' in s }}{% endfor %}",
    "reversals": "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{% set t = s[::-1] %}{% endfor %}",
    "tests": "{% set s = 'x' * 10**6 %}{% for i in range(99999) %}{{ s is upper }}{% endfor %}",
    "sorts": "{% for i in range(9999) %}{{ (range(9999)|sort)[0] }}{% endfor %}",
    "sums of lists": "{{ ([[1] * 999] * 999)|sum(start=[]) }}",
    "nested parentheses": "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
    "endless sum": "{{ 1" + " + 1" * 20000 + " }}",
    "nested ifs": "{% if a %}" * 300 + "{% endif %}" * 300,
    "long number": "{{ " + "9" * 9000 + " }}",
    "many variables": "".join("{%if a%}{%set x" + str(i) + "=1%}{%endif%}" for i in range(2800)) + "{{ 1 / 0 }}",
    "long source": "a" * 300_000,
    "many parts": "{{ a }}" * 28_000,
    "much output": "{% for i in range(99999) %}" + "word " * 100 + "{% endfor %}",
    "namespaces that hold each other": growing("1", "namespace(a=ns.x, b=ns.x)") + "{{ 'a' * 10**9 }}",
}  # fmt: skip


CHILD = """
import json, resource, sys, time
from zhixing.core.errors import BadInput
from zhixing.tokenization.chat_template import ChatTemplate
bombs, messages = json.load(sys.stdin)
ChatTemplate("{{ messages }}").render(messages)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 2**30
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
for name, source in bombs.items():
    started, message = time.process_time(), None
    try:
        ChatTemplate(source).render(messages)
    except BadInput as error:
        message = f"{type(error.__cause__).__name__}: {error}"
    print(json.dumps([name, message, time.process_time() - started]), flush=True)
"""


@pytest.fixture(scope="module")
def exploded() -> dict[str, tuple[str | None, float]]:
    """What became of every bomb, in a process that cannot get more than 300 MB: the message and the seconds."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input=json.dumps([BOMBS, MESSAGES]), capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return {name: (message, seconds) for name, message, seconds in map(json.loads, child.stdout.splitlines())}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_soon_and_in_little_memory(name: str, exploded: dict[str, tuple[str | None, float]]) -> None:
    message, seconds = exploded[name]
    assert message is not None and "chat template" in message and len(message) < 800
    assert not message.startswith("MemoryError")  # not even near what the process may have
    assert seconds < 8


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'].__base__ }}",
    "{{ (''|attr('__class__')).__base__ }}",
    "{{ '{0.__class__.__base__}'.format(1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ range.__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ namespace(__class__=1) }}",
    "{{ namespace({'_x': 1}) }}",
    "{{ raise_exception.__globals__['x'] }}",
    "{{ strftime_now.__globals__['x'] }}",
    "{{ loop.x.y }}",
    "{{ (1).to_bytes(9, 'big') }}",
    "{{ 'a'.encode().ljust(9) }}",
    "{{ 'abc'.translate({97: 'x'}) }}",
    "{{ ''.maketrans({}) }}",
    "{% for x in [1] %}{{ loop._iterator.x }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "{% import 'x' as y %}",
    "{% extends '/etc/passwd' %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_leads_out_of_the_sandbox(source: str) -> None:
    with pytest.raises(BadInput):
        ChatTemplate(source + "!").render([dict(message) for message in MESSAGES])


@pytest.mark.parametrize(
    "expression",
    ["''.__class__", "messages|attr('__len__')", "'a'|map(attribute='__class__')|first", "namespace.__init__"],
)
def test_underscored_attributes_are_as_good_as_absent(expression: str) -> None:
    assert ChatTemplate("{{ " + expression + " }}|").render(MESSAGES).text == "|"


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "everything"])
def test_honest_templates_stay_far_below_the_limits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand long messages cost less than a third of what they may, in every published style."""
    budgets: list[Budget] = []
    monkeypatch.setattr(
        "zhixing.tokenization.chat_template.Budget", lambda *size: budgets.append(Budget(*size)) or budgets[-1]
    )
    turns = [says("user", "word and more " * 20), says("assistant", "an answer, 知行合一 " * 30)] * 500
    ChatTemplate(TEMPLATES[name], {"bos_token": "<s>", "eos_token": "</s>"}).render(turns)
    budget = budgets[0]
    assert budget.total - budget.left < 0.3 * budget.total
    assert budget.output > 0


def test_the_clock_stops_what_the_prices_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "BASE_WORK", 10**15)
    monkeypatch.setattr(
        "zhixing.tokenization.chat_template.Budget", lambda characters: Budget(characters, seconds=0.05)
    )
    with pytest.raises(TemplateLimit, match="takes too long"):
        ChatTemplate(BOMBS["loops in loops"]).render(MESSAGES)
