"""Answers held to a JSON schema while they are written: no token is allowed that could not lead to JSON that fits.

`schema` reads a schema, `machine` follows JSON byte by byte, `tokens` says which tokens may come, `constraint` is the
logits processor.
"""

from zhixing.generation.grammar.constraint import JsonConstraint
from zhixing.generation.grammar.schema import compile_schema

__all__ = ["JsonConstraint", "compile_schema"]
