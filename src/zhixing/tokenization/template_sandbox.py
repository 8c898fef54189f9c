"""The sandbox that chat templates run in: jinja2's, with the settings that published templates are written for, and
with a budget that no template can escape.

jinja2's `ImmutableSandboxedEnvironment` keeps a template from Python's insides and from changing what it is given. What
it does not bound is work and memory: `'a' * 10**9`, loops within loops, `|center(10**9)`. Here every loop, operator,
call, filter and piece of output goes through a `Budget` (loops and output by the code that `template_compiler` writes,
the rest here). What each costs is in `template_limits`; running a template is in `template_program`.
"""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace, generate_lorem_ipsum, pass_eval_context

from zhixing.tokenization import template_limits as limits
from zhixing.tokenization.template_budget import STEP, Budget, Counted, TemplateLimit, is_plain_iterator
from zhixing.tokenization.template_compiler import PayingGenerator


class Refused(TemplateError):
    """The template itself says that it does not accept these messages (`raise_exception`)."""


class _Generation(Extension):
    """The tag `{% generation %}`, by which some templates mark what the assistant has said.

    Nothing is changed by it. The marked part's place in the text is noted.
    """

    tags = {"generation"}  # noqa: RUF012 (jinja2 reads it so)

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """Reads the tag and its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_note"), [], [], body)
        block.set_lineno(line)
        return block

    @pass_eval_context
    def _note(self, context: Any, caller: Callable[[], str]) -> str:
        text = caller()
        environment = self.environment
        if isinstance(environment, Sandbox):
            environment.generations.append((environment.written, environment.written + len(text)))
        return text


class TemplateNamespace(Namespace):
    """The `namespace` of a template: values that outlive the loop they were set in."""

    def __init__(self, /, *arguments: Any, **options: Any) -> None:
        values = dict(*arguments, **options)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)

    def __repr__(self) -> str:
        return "<namespace>"  # never its content: two that hold each other would be written for ever


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold the name {name[:50]!r}, which begins with an underscore")


class _Dict:
    """The `dict` of a template, without what else Python's class can do."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[Any, Any]:
        return dict(*arguments, **options)

    def fromkeys(self, *arguments: Any) -> dict[Any, Any]:
        """Returns a dict with all these keys and one value."""
        return dict.fromkeys(*arguments)


def _raise_exception(message: object) -> None:
    raise Refused(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > limits.MAX_WIDTH:
        raise TemplateLimit(f"the chat template asks for a date in a form of {len(form):,} characters")
    limits.check_format_spec(form)
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    limits.check_width(n, "number of paragraphs")
    limits.check_width(max, "paragraph")
    return generate_lorem_ipsum(n, html, min, max)


class _Formatter(SandboxedFormatter):
    """`str.format` within the budget."""

    def __init__(self, environment: Sandbox) -> None:
        super().__init__(environment)
        self._budget = environment.budget

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        self._budget.step()
        value, first = super().get_field(field_name, args, kwargs)
        return self._budget.charge(value), first

    def format_field(self, value: Any, format_spec: str) -> Any:
        limits.check_format_spec(format_spec)
        return self._budget.made(super().format_field(value, format_spec))


class _Format:
    """The method `format` (or `format_map`) of one text."""

    def __init__(self, environment: Sandbox, text: str, mapped: bool) -> None:
        self._environment, self._text, self._mapped = environment, text, mapped

    def __call__(self, *arguments: Any, **options: Any) -> str:
        self._environment.budget.charge(self._text)
        formatter = _Formatter(self._environment)
        if not self._mapped:
            return type(self._text)(formatter.vformat(self._text, arguments, options))
        if len(arguments) != 1 or options:
            raise TypeError("format_map() takes exactly one argument")
        return type(self._text)(formatter.vformat(self._text, (), arguments[0]))


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering at a time: set `budget`, then take `written` and `generations` from it."""

    code_generator_class = PayingGenerator
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        self.budget = Budget()
        self.written = 0
        self.generations: list[tuple[int, int]] = []
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=self._finalize,
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: self._guarded_filter(name, function) for name, function in self.filters.items()}
        self.tests = {name: self._guarded_test(name, test) for name, test in dict[str, Any](self.tests).items()}
        self.globals.update(
            raise_exception=_raise_exception,
            strftime_now=_strftime_now,
            dict=_Dict(),
            namespace=TemplateNamespace,
            lipsum=_lipsum,
        )
        self._functions = frozenset(id(value) for value in self.globals.values())

    def _finalize(self, value: Any) -> Any:
        return self.budget.charge(value)

    def _guarded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        cost, deep = limits.FILTERS.get(name), name not in limits.SHALLOW_FILTERS
        hidden = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> Any:
            budget = self.budget
            budget.step()
            values, depth = self._taken(arguments[hidden:], deep)
            for key, value in options.items():
                options[key] = budget.charge(value)
            if name in limits.LISTING_FILTERS and values and isinstance(values[0], Counted):
                values = (list(values[0]), *values[1:])
            if cost is not None:
                budget.spend(cost(budget, values, options))
            return self._given(function(*arguments[:hidden], *values, **options), depth)

        return guarded

    def _guarded_test(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        hidden = 1 if hasattr(function, "jinja_pass_arg") else 0
        if name in limits.FREE_TESTS:
            return function

        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> Any:
            self.budget.step()
            values, _ = self._taken(arguments[hidden:], True)
            return function(*arguments[:hidden], *values, **options)

        return guarded

    def _taken(self, arguments: tuple[Any, ...], deep: bool) -> tuple[tuple[Any, ...], int]:
        """Pays for reading arguments; returns them, iterators counted, and how deep they are nested."""
        budget, depth, taken = self.budget, 0, []
        for index, value in enumerate(arguments):
            if is_plain_iterator(value):
                value = budget.counted(value, 0)
            elif deep or index:
                budget.charge(value)
            else:
                budget.glance(value)
            depth = max(depth, value.depth if isinstance(value, Counted) else 0)
            taken.append(value)
        return tuple(taken), depth

    def _given(self, value: Any, depth: int) -> Any:
        """Pays for what a function returns."""
        return self.budget.counted(value, depth) if is_plain_iterator(value) else self.budget.made(value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: D102
        budget = self.budget
        if operator == "*":
            limits.multiply(budget, left, right)
        elif operator == "**":
            limits.power(left, right)
        elif operator == "%" and isinstance(left, str | bytes):
            limits.percent(budget, left, right)
        elif operator == "+":
            budget.glance(left)
            budget.glance(right)
        else:
            budget.spend(1)
        return budget.made(BINARY[operator](left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:  # noqa: D102
        if isinstance(argument, str | tuple):
            self.budget.charge(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:  # noqa: D102
        if isinstance(value, MethodType | BuiltinMethodType) and value.__name__ in ("format", "format_map"):
            owner = value.__self__
            if isinstance(owner, str):
                return _Format(self, owner, value.__name__ == "format_map")
        return None

    def call(self, context: Context, function: Any, /, *arguments: Any, **options: Any) -> Any:
        """Calls what a template may call, and pays for it."""
        budget = self.budget
        budget.step()
        depth = 0
        if (
            isinstance(function, Undefined | Macro | BlockReference | _Format | Joiner)
            or id(function) in self._functions
        ):
            values: tuple[Any, ...] = arguments
            budget.spend(STEP * (len(arguments) + len(options)))
        elif isinstance(function, LoopContext):
            values = tuple(budget.iterate(value) for value in arguments)
        elif isinstance(function, MethodType | BuiltinMethodType):
            values, depth = self._method_arguments(function, arguments, options)
        else:
            raise SecurityError(f"a {type(function).__name__} cannot be called")
        return self._given(super().call(context, function, *values, **options), depth)

    def _method_arguments(
        self, function: Any, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], int]:
        owner, budget = function.__self__, self.budget
        values, depth = self._taken(arguments, True)
        if isinstance(owner, LoopContext | Cycler | _Dict | _Generation):
            return values, depth
        cost = limits.method_cost(owner, function.__name__)
        if cost is None:
            raise SecurityError(f"the method {function.__name__!r} of a {type(owner).__name__} cannot be called")
        if isinstance(owner, str | bytes):
            budget.spend(len(owner))
        elif isinstance(owner, list | tuple) and function.__name__ in ("count", "index"):
            budget.charge(owner)
        if function.__name__ == "join" and values and isinstance(values[0], Counted):
            values = (list(values[0]), *values[1:])
        named = {key: value for key, value in options.items() if key not in ("_loop_vars", "_block_vars")}
        budget.spend(cost(budget, (owner, *values), named))
        return values, depth


BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
