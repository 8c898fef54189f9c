"""The recipe's description of one reward; what each kind does is in `training.rewards`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from zhixing.core.recipe import Section


class RewardRecipe(Section):
    """One reward of reinforcement learning."""

    kind: str = Field(description="number, pattern, schema, tests or function")
    weight: float = Field(1.0, description="its part in the sum; 0: measured and shown, not trained on")
    field: str | None = Field(None, description="number, tests: the record's field to compare with")
    pattern: str | None = Field(None, description="pattern: a regular expression")
    whole: bool = Field(False, description="pattern: match the whole answer; tests: a part of them is worth nothing")
    json_schema: dict[str, Any] | None = Field(None, description="schema: the JSON schema")
    function: str | None = Field(None, description="function: your own, as MODULE:FUNCTION")
    isolation: Literal["auto", "namespaces", "landlock", "limits"] = Field(
        "auto", description="tests: how code is locked in; limits: not at all but for its size"
    )
