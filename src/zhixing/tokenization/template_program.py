"""Compiling and running a chat template: what it raises becomes one message that names its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateSyntaxError

from zhixing.core.errors import BadInput
from zhixing.tokenization.template_budget import Budget, TemplateLimit
from zhixing.tokenization.template_sandbox import Refused, Sandbox
from zhixing.tokenization.utf8 import utf8_size

MAX_SOURCE = 100_000
"""Characters of a template; the longest published ones have some 30,000."""

MAX_NODES = 20_000
"""Parts of a parsed template."""

FILE_NAME = "<chat template>"


def compile_template(source: str) -> CodeType:
    """Compiles a template, within bounds.

    Raises:
        BadInput: It is too long, or not a template; the message names the line.
    """
    if len(source) > MAX_SOURCE:
        raise BadInput(f"the chat template has {len(source):,} characters; {MAX_SOURCE:,} are the most that is read")
    utf8_size(source)
    sandbox = Sandbox()
    try:
        parsed = sandbox.parse(source, filename=FILE_NAME)
        if sum(1 for _ in parsed.find_all(nodes.Node)) > MAX_NODES:
            raise BadInput(f"the chat template has more than {MAX_NODES:,} parts")
        return sandbox.compile(parsed, filename=FILE_NAME)
    except TemplateSyntaxError as error:
        raise BadInput(f"the chat template is broken: line {error.lineno}: {_short(error.message or '')}") from error
    except ValueError as error:  # a number of thousands of digits
        raise BadInput(f"the chat template is broken: {_short(str(error))}") from error
    except (SyntaxError, RecursionError, MemoryError) as error:  # Python's own compiler has bounds of nesting
        raise BadInput("the chat template is nested beyond all bounds") from error


class Program:
    """A compiled template in a sandbox of its own; for one rendering at a time.

    Args:
        code: From `compile_template`.
    """

    def __init__(self, code: CodeType) -> None:
        self.sandbox = Sandbox()
        self._template = Template.from_code(self.sandbox, code, self.sandbox.make_globals(None))

    def run(self, values: Mapping[str, Any], budget: Budget) -> tuple[str, list[tuple[int, int]]]:
        """Renders the template.

        Args:
            values: What it may know; plain values only.
            budget: What it may cost.

        Returns:
            The text, and the places in it that the template marks as the assistant's (`{% generation %}`).

        Raises:
            BadInput: The template refuses the messages, fails, or costs too much.
        """
        sandbox = self.sandbox
        sandbox.budget, sandbox.written, sandbox.generations = budget, 0, []
        try:
            pieces = list(self._pieces(values))
        except Refused as error:
            raise BadInput(f"the chat template refuses these messages: {_short(str(error))}") from error
        except TemplateLimit as error:
            raise TemplateLimit(f"{error.cause}{self._place(error)}") from error
        except RecursionError as error:
            raise TemplateLimit(f"the chat template calls itself without end{self._place(error)}") from error
        except (SecurityError, MemoryError) as error:
            raise BadInput(
                f"the chat template does what it may not{self._place(error)}: {_short(str(error))}"
            ) from error
        except Exception as error:  # whatever an operator or a method of Python's raises on values that do not fit
            name = "" if isinstance(error, TemplateError) else f"{type(error).__name__}: "
            raise BadInput(f"the chat template fails{self._place(error)}: {name}{_short(str(error))}") from error
        finally:
            generations = sandbox.generations
            sandbox.budget, sandbox.generations = Budget(), []  # lets go of what was measured
        return "".join(pieces), generations

    def _pieces(self, values: Mapping[str, Any]) -> Iterator[str]:
        context = self._template.new_context(dict(values))
        for piece in self._template.root_render_func(context):
            self.sandbox.budget.write(piece)
            self.sandbox.written += len(piece)
            yield piece

    def _place(self, error: BaseException) -> str:
        """Returns the line of the template where it failed, in words."""
        line, trace = None, error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == FILE_NAME:
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            trace = trace.tb_next
        return f" (line {line})" if line else ""


def _short(message: str) -> str:
    """Returns an error's message, of a length that can be read."""
    message = message.strip()
    return message if len(message) <= 500 else f"{message[:500]}…"
