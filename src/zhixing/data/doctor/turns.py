"""Conversations whose turns do not follow each other: missing, repeated and misplaced turns, and how they are mended.

Works on the turns as the file writes them, so that a mended copy keeps its form. An exchange is a turn of the user's
with all that follows up to the next one. What is missing inside cannot be made up: the conversation is cut before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.data.doctor.findings import Flaw
from zhixing.data.shapes.messages import CALL_ROLES, CONTENT_KEYS, ROLE_KEYS, ROLES, meant_role
from zhixing.data.shapes.records import brief

Turn = dict[str, Any]


def mend_turns(turns: list[Turn], flaws: list[Flaw], where: str, *, open_end: bool = False) -> list[Turn]:
    """Mends the turns of a conversation and notes what was wrong.

    Args:
        turns: The turns as they stand in the file; every one has a role that is known.
        flaws: Where the faults are added.
        where: The field, for messages.
        open_end: The conversation is a prompt: it must end with a turn of the user's (or a tool's).

    Returns:
        The turns that are left; none when nothing can be learnt from them.
    """
    system = [turn for turn in turns if role_of(turn) == "system"]
    rest = [turn for turn in turns if role_of(turn) != "system"]
    if system and turns[: len(system)] != system:
        place = next(k for k, turn in enumerate(turns) if role_of(turn) == "system" and k >= _leading(turns))
        flaws.append(
            Flaw("turn_order", f"{where}[{place}]: the system speaks in the middle", "move it to the beginning")
        )
    rest = _joined(rest, flaws, where)
    rest = _begun(rest, flaws, where)
    rest = _cut_at_gaps(rest, flaws, where, open_end)
    return [*system, *rest] if rest else []


def right_roles(turns: list[Turn], flaws: list[Flaw], where: str) -> list[Turn]:
    """Returns turns whose misspelled roles are written right, and notes them."""
    result = []
    for number, turn in enumerate(turns):
        key = next((key for key in ROLE_KEYS if key in turn), None)
        named = turn[key] if key else None
        if key and isinstance(named, str) and not role_of(turn) and (meant := meant_role(named)):
            flaws.append(Flaw("role", f"{where}[{number}] has the role {brief(named)}", f"write {meant}"))
            turn = {**turn, key: meant}
        result.append(turn)
    return result


def _leading(turns: list[Turn]) -> int:
    return next((k for k, turn in enumerate(turns) if role_of(turn) != "system"), len(turns))


def role_of(turn: Mapping[str, Any]) -> str:
    """Returns the role of a turn: system, user, assistant or tool; "" when it has none that is known."""
    named = next((turn[key] for key in ROLE_KEYS if key in turn), "")
    name = named.strip().lower() if isinstance(named, str) else ""
    return "assistant" if name in CALL_ROLES else ROLES.get(name, "")


def _content_key(turn: Mapping[str, Any]) -> str | None:
    return next((key for key in CONTENT_KEYS if key in turn), None)


def _said(turn: Mapping[str, Any]) -> Any:
    key = _content_key(turn)
    return turn[key] if key else None


def is_call(turn: Mapping[str, Any]) -> bool:
    """Tells whether the assistant calls a tool in this turn."""
    named = next((turn[key] for key in ROLE_KEYS if key in turn), "")
    called = isinstance(named, str) and named.strip().lower() in CALL_ROLES
    return called or bool(turn.get("tool_calls")) or bool(turn.get("function_call"))


def is_silent(turn: Mapping[str, Any]) -> bool:
    """Tells whether nothing is said or called in a turn."""
    said = _said(turn)
    return not is_call(turn) and (said is None or said == [] or (isinstance(said, str) and not said.strip()))


def _joined(turns: list[Turn], flaws: list[Flaw], where: str) -> list[Turn]:
    """Joins turns of the same speaker that follow each other; calls and answers of tools may."""
    result: list[Turn] = []
    for number, turn in enumerate(turns):
        before = result[-1] if result else None
        role = role_of(turn)
        same = before is not None and role == role_of(before) and role in ("user", "assistant")
        if before is None or not same or is_call(turn) or is_call(before) or is_silent(turn) or is_silent(before):
            result.append(turn)
            continue
        one, other = _said(before), _said(turn)
        if one == other:
            flaws.append(
                Flaw("repeated_turn", f"{where}[{number}] repeats the turn before: {brief(other)}", "remove it")
            )
        elif isinstance(one, str) and isinstance(other, str):
            flaws.append(
                Flaw("repeated_turn", f"{where}[{number}]: the {role} speaks twice in a row", "join both turns")
            )
            result[-1] = {**before, str(_content_key(before)): f"{one}\n\n{other}"}
        else:
            result.append(turn)
    return result


def _begun(turns: list[Turn], flaws: list[Flaw], where: str) -> list[Turn]:
    """Leaves out what comes before the user's first turn."""
    first = next((k for k, turn in enumerate(turns) if role_of(turn) == "user"), len(turns))
    if first:
        kind = "turn_order" if role_of(turns[0]) == "tool" else "missing_turn"
        flaws.append(Flaw(kind, f"{where} begins with a turn of the {role_of(turns[0])}'s", "leave it out"))
    return turns[first:]


def _cut_at_gaps(turns: list[Turn], flaws: list[Flaw], where: str, open_end: bool) -> list[Turn]:
    """Cuts before the first exchange in which something is missing."""
    exchanges: list[list[Turn]] = []
    for turn in turns:
        if role_of(turn) == "user" or not exchanges:
            exchanges.append([])
        exchanges[-1].append(turn)
    kept: list[Turn] = []
    for number, exchange in enumerate(exchanges):
        last = number == len(exchanges) - 1
        flaw = _gap(exchange, f"{where}, exchange {number + 1}", last, open_end)
        if flaw is not None:
            flaws.append(flaw)
            if open_end:  # what is asked is gone with the end of a prompt
                return []
            return kept
        kept += exchange
    if open_end and kept and role_of(kept[-1]) == "assistant":
        flaws.append(
            Flaw("missing_turn", f"{where} ends with the assistant's turn, so nothing is asked", "add the question")
        )
        return []
    return kept


def _gap(exchange: list[Turn], where: str, last: bool, open_end: bool) -> Flaw | None:
    mend = "cut the conversation before it"
    if is_silent(exchange[0]):
        return Flaw("empty", f"{where}: the user's turn is empty", mend)
    answers = exchange[1:]
    if open_end and last and not answers:
        return None
    if not answers:
        return Flaw("missing_turn", f"{where}: there is no answer to {brief(_said(exchange[0]))}", mend)
    waiting = False  # for the answer of a tool
    for turn in answers:
        role = role_of(turn)
        if is_silent(turn):
            return Flaw("empty", f"{where}: the {role}'s turn is empty", mend)
        if role == "tool" and not waiting:
            return Flaw("turn_order", f"{where}: a tool answers that was not called", mend)
        if (
            role == "assistant"
            and waiting
            and not is_call(turn)
            and role_of(answers[answers.index(turn) - 1]) != "tool"
        ):
            return Flaw("missing_turn", f"{where}: a tool is called, but its answer is missing", mend)
        waiting = is_call(turn) or (waiting and role == "tool")
    if role_of(answers[-1]) == "tool" and not (open_end and last):
        return Flaw("missing_turn", f"{where}: the tool answered, but the assistant says nothing to it", mend)
    if is_call(answers[-1]) and not last:
        return Flaw("missing_turn", f"{where}: a tool is called, but its answer is missing", mend)
    return None
