"""How a chat template becomes Python code that pays as it goes.

jinja2's own compiler, with a payment written around everything that can be long or repeat itself. The payments are
methods of `template_budget.Budget`; everything that is a call, an operator or a filter pays in `template_sandbox`.
"""

from __future__ import annotations

from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame


class PayingGenerator(CodeGenerator):
    """Writes the Python code of a template, with a payment at everything that can be long or repeat itself."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._payments: dict[int, str] = {}

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:  # noqa: N802
        """Marks what has to pay, then writes the template."""
        for part in node.find_all(nodes.Node):
            if isinstance(part, nodes.For):
                self._payments[id(part.iter)] = "iterate"
            elif isinstance(part, nodes.Compare):
                for side in (part.expr, *(operand.expr for operand in part.ops)):
                    self._payments[id(side)] = "charge"
            elif isinstance(part, nodes.Concat):
                for side in part.nodes:
                    self._payments[id(side)] = "charge"
            elif isinstance(part, nodes.Getitem) and isinstance(part.arg, nodes.Slice):
                self._payments[id(part.node)] = "glance"
        for part in node.find_all((nodes.List, nodes.Dict, nodes.Tuple)):
            if getattr(part, "ctx", "load") == "load":
                self._payments.setdefault(id(part), "made")
        super().visit_Template(node, frame)

    def visit(self, node: nodes.Node, *arguments: Any, **options: Any) -> Any:
        """Writes one part of the template, inside a payment where one is due."""
        payment = self._payments.get(id(node))
        if payment is None:
            return super().visit(node, *arguments, **options)
        self.write(f"environment.budget.{payment}(")
        result = super().visit(node, *arguments, **options)
        self.write(")")
        return result

    def blockvisit(self, nodes: Any, frame: Frame) -> None:
        """Writes the body of a loop, a macro or a condition, which begins by paying for a step."""
        self.writeline("environment.budget.step()")
        super().blockvisit(nodes, frame)

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible  # nothing is computed while compiling: there is no budget yet
        return super()._output_child_to_const(node, frame, finalize)

    def _output_const_repr(self, group: Any) -> str:
        return f"environment.budget.made({super()._output_const_repr(group)})"
