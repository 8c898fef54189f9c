"""Mending a row in place: its texts, turns, tags and answers, by the shape that was found. Whole files are `examine`'s
concern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from zhixing.data.doctor.findings import Flaw
from zhixing.data.doctor.personal import mask
from zhixing.data.doctor.strings import ABOUT_MARKUP, ENTITY, map_texts, mend_text
from zhixing.data.doctor.turns import mend_turns, right_roles, role_of
from zhixing.data.shapes.detect import Detection
from zhixing.data.shapes.messages import looks_like_messages
from zhixing.data.shapes.records import (
    Chat,
    ImageText,
    Labelled,
    Message,
    Pair,
    Preference,
    Question,
    Record,
    Tagged,
    Text,
    UnpairedPreference,
    brief,
)

UNTOUCHED = frozenset(("id", "label", "tags", "image", "start"))
"""Roles whose values are no texts to mend."""


@dataclass(frozen=True)
class Mended:
    """A row after mending.

    Attributes:
        row: The row; None when nothing is left of it.
        flaws: What was wrong.
        changed: Whether it is another one than before.
    """

    row: Any
    flaws: tuple[Flaw, ...]
    changed: bool


def mend_row(row: Any, found: Detection, keep: frozenset[str] = frozenset()) -> Mended:
    """Mends one row.

    Args:
        row: The row, as the file holds it.
        found: How the file was understood.
        keep: Kinds of faults that are reported, but left as they are.
    """
    flaws: list[Flaw] = []
    mended = _texts(row, found, flaws, keep)
    if isinstance(mended, Mapping):
        mended = _structure(dict(mended), found, flaws, keep)
    return Mended(mended, tuple(flaws), mended is not None and mended != row)


def _texts(row: Any, found: Detection, flaws: list[Flaw], keep: frozenset[str]) -> Any:
    mend = partial(mend_text, entities=not _about_markup(row))

    def change(text: str, where: str) -> str:
        for step in (mend, mask):
            seen: list[Flaw] = []
            mended = step(text, seen, where)
            flaws.extend(seen)
            if not any(flaw.kind in keep for flaw in seen):
                text = mended
        return text

    if isinstance(row, str):
        return change(row, "the text")
    if not isinstance(row, Mapping):
        return row
    # Offsets of answers count characters: a context must not change its length.
    fixed = found.shape in ("qa", "tagged")
    columns = {column for role, column in found.columns.items() if role not in UNTOUCHED}
    if fixed:
        for column in columns:
            map_texts(row.get(column), _looked_at(flaws, mend), column)
        return row
    return {key: map_texts(value, change, str(key)) if key in columns else value for key, value in row.items()}


def _about_markup(row: Any) -> bool:
    """Tells whether a row has entities, and is about the markup in which they are meant."""
    found: list[str] = []

    def note(text: str, where: str) -> str:
        found.append(text)
        return text

    map_texts(row, note, "")
    return any(ENTITY.search(text) for text in found) and any(ABOUT_MARKUP.search(text) for text in found)


def _looked_at(flaws: list[Flaw], mend: Callable[[str, list[Flaw], str], str]) -> Any:
    def look(text: str, where: str) -> str:
        seen: list[Flaw] = []
        mask(mend(text, seen, where), seen, where)
        by_hand = "correct it by hand: answers and tags depend on every character"
        flaws.extend(Flaw(flaw.kind, flaw.message, by_hand) for flaw in seen)
        return text

    return look


def _structure(row: dict[str, Any], found: Detection, flaws: list[Flaw], keep: frozenset[str]) -> dict[str, Any] | None:
    if found.shape in ("chat", "preference", "unpaired_preference"):
        return _turns(row, found, flaws, keep)
    if found.shape == "tagged" and "tags: BIO" in found.notes and "tag" not in keep:
        return _tags(row, found, flaws)
    if found.shape == "qa":
        return _answers(row, found, flaws)
    return row


def _turns(row: dict[str, Any], found: Detection, flaws: list[Flaw], keep: frozenset[str]) -> dict[str, Any] | None:
    for role in ("messages", "prompt"):
        column = found.columns.get(role)
        turns: Any = row.get(column) if column else None
        if column and looks_like_messages(turns) and all(isinstance(turn, dict) for turn in turns):
            slips: list[Flaw] = []
            right = right_roles(turns, slips, column)
            flaws.extend(slips)
            if slips and "role" not in keep:
                turns = row[column] = right
        if (
            column is None
            or not looks_like_messages(turns)
            or not all(isinstance(t, dict) and role_of(t) for t in turns)
        ):
            continue
        open_end = role == "prompt"
        seen: list[Flaw] = []
        mended = mend_turns(turns, seen, column, open_end=open_end)
        flaws.extend(seen)
        if seen and not any(flaw.kind in keep for flaw in seen):
            if not mended:
                return None
            # What is judged in KTO's data is the last answer: a conversation that was cut is another one.
            if found.shape == "unpaired_preference" and mended[-1] != turns[-1]:
                return None
            row[column] = mended
    return row


def _tags(row: dict[str, Any], found: Detection, flaws: list[Flaw]) -> dict[str, Any]:
    column = found.columns["tags"]
    tags = row.get(column)
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        return row
    mended, before = [], "O"
    for number, tag in enumerate(tags):
        position, _, kind = tag.partition("-")
        if position == "I" and (before == "O" or before.partition("-")[2] != kind):
            flaws.append(Flaw("tag", f"tag {number + 1} is {tag} behind {before}", f"write B-{kind}"))
            tag = f"B-{kind}"
        mended.append(tag)
        before = tag
    return {**row, column: mended}


def _answers(row: dict[str, Any], found: Detection, flaws: list[Flaw]) -> dict[str, Any]:
    """Corrects the places of answers, in SQuAD's nested form and in rows of their own."""
    if "paragraphs" in found.columns or "questions" in found.columns:
        column = found.columns.get("paragraphs")
        paragraphs = row.get(column) if column else [row]
        if not isinstance(paragraphs, list):
            return row
        mended = [_paragraph(one, flaws) if isinstance(one, Mapping) else one for one in paragraphs]
        return {**row, column: mended} if column else mended[0]
    answers = row.get(found.columns.get("answers", ""))
    context = row.get(found.columns.get("context", ""))
    if isinstance(answers, Mapping) and isinstance(context, str) and isinstance(answers.get("text"), list):
        texts, starts = answers["text"], answers.get("answer_start")
        if isinstance(starts, list) and len(starts) == len(texts):
            moved = [
                _start(context, text, start, flaws, "the answer") for text, start in zip(texts, starts, strict=True)
            ]
            return {**row, found.columns["answers"]: {**answers, "answer_start": moved}}
    return row


def _paragraph(paragraph: Mapping[str, Any], flaws: list[Flaw]) -> dict[str, Any]:
    context = paragraph.get("context", paragraph.get("context_text"))
    asked = paragraph.get("qas")
    if not isinstance(context, str) or not isinstance(asked, list):
        return dict(paragraph)
    kept = []
    for entry in asked:
        mended = _question(context, entry, flaws) if isinstance(entry, Mapping) else None
        if mended is not None:
            kept.append(mended)
        elif not isinstance(entry, Mapping):
            flaws.append(Flaw("misfit", f"a question is {brief(entry)}", "leave it out"))
    return {**paragraph, "qas": kept}


def _question(context: str, entry: Mapping[str, Any], flaws: list[Flaw]) -> dict[str, Any] | None:
    """Returns a question with its answers in place; None when it cannot be used."""
    asked = entry.get("question", entry.get("query_text"))
    named = f"question {entry.get('id', entry.get('query_id', '?'))}"
    if not isinstance(asked, str) or not asked.strip():
        flaws.append(Flaw("empty", f"{named}: the question is {brief(asked)}", "leave it out"))
        return None
    answers = entry.get("answers")
    if not isinstance(answers, list) or entry.get("is_impossible") is True:
        return dict(entry)
    mended = []
    for answer in answers:
        if isinstance(answer, Mapping) and isinstance(answer.get("text"), str) and "answer_start" in answer:
            text, start = answer["text"], answer["answer_start"]
            if not text or text not in context:
                flaws.append(Flaw("misfit", f"{named}: the answer {brief(text)} is not in the context", "leave it out"))
                continue
            answer = {**answer, "answer_start": _start(context, text, start, flaws, f"{named}: the answer")}
        mended.append(answer)
    if answers and not mended:
        return None
    return {**entry, "answers": mended}


def _start(context: str, text: Any, start: Any, flaws: list[Flaw], what: str) -> Any:
    if not isinstance(text, str) or not text or not isinstance(start, int):
        return start
    if (start >= 0 and context.startswith(text, start)) or text not in context:
        return start
    places = [place for place in range(len(context)) if context.startswith(text, place)]
    best = min(places, key=lambda place: abs(place - start))
    flaws.append(Flaw("offset", f"{what} {brief(text)} stands at {best}, not at {start}", f"write answer_start {best}"))
    return best


def whole_text(record: Record) -> str:
    """Returns all that a record says, for measuring it."""
    return "\n".join(_parts(record))


def alike_parts(record: Record) -> list[str]:
    """Returns the texts that must all be alike for two records to be near duplicates; none when they never are.

    What is said of a text (its label, good or bad) is a part of its own.
    """
    if isinstance(record, Question):
        return []  # questions on one text are alike, and yet all wanted
    if isinstance(record, Labelled):
        return [record.text, record.second or "", repr(record.label)]
    if isinstance(record, Tagged):
        return [" ".join(record.tokens), " ".join(record.tags)]
    if isinstance(record, Chat):
        spoken: tuple[list[str], list[str]] = ([], [])
        for message, text in zip(record.messages, said(record.messages), strict=True):
            spoken[message.role == "assistant"].append(text)
        return ["\n".join(part) for part in spoken]
    if isinstance(record, Preference):
        return ["\n".join(said(part)) for part in (record.prompt, record.chosen, record.rejected)]
    if isinstance(record, UnpairedPreference):
        return ["\n".join(said(record.prompt)), "\n".join(said(record.completion)), repr(record.good)]
    return list(_parts(record))


def _parts(record: Record) -> Iterator[str]:
    if isinstance(record, Text):
        yield record.text
    elif isinstance(record, Pair):
        yield from (record.source, record.target)
    elif isinstance(record, Labelled):
        yield record.text
        yield record.second or ""
    elif isinstance(record, Tagged):
        yield " ".join(record.tokens)
    elif isinstance(record, Question):
        yield from (record.context, record.question, *(answer.text for answer in record.answers))
    elif isinstance(record, ImageText):
        yield record.text
    elif isinstance(record, Chat):
        yield from said(record.messages)
    elif isinstance(record, Preference):
        yield from (*said(record.prompt), *said(record.chosen), *said(record.rejected))
    else:
        yield from (*said(record.prompt), *said(record.completion))


def said(messages: tuple[Message, ...]) -> list[str]:
    """Returns what is said and called in turns."""
    return [
        f"{message.content}{brief([vars_of(call) for call in message.calls], 10_000) if message.calls else ''}"
        for message in messages
    ]


def vars_of(call: Any) -> dict[str, Any]:
    """Returns a call as plain data."""
    return {"name": call.name, "arguments": dict(call.arguments)}


def asked_text(record: Record) -> str:
    """Returns what a record asks: the part of it that an evaluation set must not share."""
    if isinstance(record, Pair):
        return record.source
    if isinstance(record, Question):
        return record.question
    if isinstance(record, Chat):
        return "\n".join(message.content for message in record.messages if message.role == "user")
    if isinstance(record, Preference | UnpairedPreference):
        return "\n".join(message.content for message in record.prompt if message.role == "user")
    return whole_text(record)
