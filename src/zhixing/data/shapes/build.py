"""From rows to records, one function for each layout. What does not fit is a `Misfit`, with the value and the mend."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zhixing.data.shapes.captioned import Surroundings, check_begin
from zhixing.data.shapes.messages import check_chat, looks_like_messages, parse_messages, parse_tools
from zhixing.data.shapes.records import (
    Answer,
    Chat,
    ImageText,
    Labelled,
    Message,
    Misfit,
    Pair,
    Preference,
    Question,
    Record,
    Tagged,
    Text,
    UnpairedPreference,
    brief,
)

Built = Record | Misfit
Columns = Mapping[str, str]
"""From role to the column that holds it."""

_GOOD = frozenset(("true", "1", "yes", "good", "desirable", "chosen", "+1", "thumbs_up"))
_BAD = frozenset(("false", "0", "no", "bad", "undesirable", "rejected", "-1", "thumbs_down"))
_TURN = re.compile(r"\n*(Human|Assistant): ?")
PLACED = re.compile(r"(.|\ufffd+)\d{1,2}")
"""A character with its place in its word, as in Weibo's NER data."""


@dataclass(frozen=True)
class Context:
    """What building may have to know of a row's surroundings.

    Attributes:
        around: Where paths in the file lead.
        strip_place: Tokens end in a digit that says which character of a word they are (Weibo's NER data).
        direction: Source and target language, where a row holds its texts by language.
    """

    around: Surroundings = field(default_factory=lambda: Surroundings(Path()))
    strip_place: bool = False
    direction: tuple[str, str] | None = None


def _get(row: Any, columns: Columns, role: str) -> Any:
    column = columns.get(role)
    return row.get(column) if column is not None and isinstance(row, Mapping) else None


def _turns(row: Any, columns: Columns) -> Any:
    """Returns the turns of a row, which must have them.

    Raises:
        Misfit: It is of another shape than the file's other rows.
    """
    column = columns["messages"]
    if isinstance(row, Mapping) and column not in row:
        remedy = "all records of a file have one shape: put it into a file of its own, or leave it out"
        raise Misfit(f"no field {column!r} among {brief(list(row))}", remedy)
    return _get(row, columns, "messages")


def _text(row: Any, columns: Columns, role: str, *, empty: bool = False) -> str:
    """Returns a field that is a text.

    Raises:
        Misfit: It is missing, of another type, or empty.
    """
    column = columns[role]
    if not isinstance(row, Mapping):
        raise Misfit(f"a record with named fields is expected, this is {brief(row)}", f"give {column!r} a name")
    if column not in row:
        raise Misfit(f"no field {column!r} among {brief(list(row))}", f"add it, or map {role} to another column")
    value = row[column]
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Misfit(f"{column!r} is {brief(value)}", "a text is expected")
    if not empty and not value.strip():
        raise Misfit(f"{column!r} is empty", "write its text, or leave the record out", "empty")
    return value


def text(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A text to model."""
    yield Text(row) if isinstance(row, str) else Text(_text(row, columns, "text"))


def words(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """The words of tagged text, with spaces between them, as a text."""
    for record in tagged(row, {**columns, "tags": columns["tokens"]}, context):
        yield Text(" ".join(record.tokens)) if isinstance(record, Tagged) else record


def pair(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """Source and target; an `input` is put behind the source, and a target that is an object is written as JSON."""
    source = _text(row, columns, "source")
    more = _get(row, columns, "input")
    if isinstance(more, str) and more.strip():
        source = f"{source}\n\n{more}"
    target = row.get(columns["target"]) if isinstance(row, Mapping) else None
    if isinstance(target, Mapping):  # key information, as JSON
        yield Pair(source, json.dumps(target, ensure_ascii=False))
    else:
        yield Pair(source, _text(row, columns, "target"))


def translation(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """Texts by language: {"translation": {"en": ..., "de": ...}}."""
    texts = _get(row, columns, "translation")
    if not isinstance(texts, Mapping) or context.direction is None:
        raise Misfit(f"{columns['translation']!r} is {brief(texts)}", 'an object by language is expected: {"en": ...}')
    source, target = context.direction
    yield Pair(
        _text(texts, {"source": source}, "source"),
        _text(texts, {"target": target}, "target"),
    )


def labelled(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A text, or two, with a label."""
    first = _text(row, columns, "text")
    second = _text(row, columns, "second") if "second" in columns else None
    value = _get(row, columns, "label")
    if isinstance(value, list | tuple):
        yield Labelled(first, tuple(_label(one, columns["label"]) for one in value), second)
    else:
        yield Labelled(first, _label(value, columns["label"]), second)


def _label(value: Any, column: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise Misfit(f"the label {column!r} is {brief(value)}", "give it a word or a number")
    return value.strip()


def tagged(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """Tokens and their tags."""
    tokens, tags = _get(row, columns, "tokens"), _get(row, columns, "tags")
    for role, values in (("tokens", tokens), ("tags", tags)):
        if not isinstance(values, list | tuple) or not values:
            raise Misfit(f"{columns[role]!r} is {brief(values)}", "a list with an entry for each token is expected")
    if len(tokens) != len(tags):
        raise Misfit(f"{len(tokens)} token(s) but {len(tags)} tag(s): {brief(tokens)}", "give every token one tag")
    words = [str(token) for token in tokens]
    for number, word in enumerate(words):
        if not word:
            raise Misfit(f"token {number + 1} is empty", "leave it out, with its tag")
    if context.strip_place:
        words = [match[1] if (match := PLACED.fullmatch(word)) else word for word in words]
    yield Tagged(tuple(words), tuple(str(tag) for tag in tags))


def chat(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A list of turns."""
    messages = parse_messages(_turns(row, columns), columns["messages"])
    messages = _system(row, columns) + messages
    check_chat(messages, columns["messages"])
    tools = parse_tools(_get(row, columns, "tools"), columns["tools"]) if "tools" in columns else ()
    yield Chat(messages, tools)


def _system(row: Any, columns: Columns) -> tuple[Message, ...]:
    value = _get(row, columns, "system")
    return (Message("system", value),) if isinstance(value, str) and value.strip() else ()


def _asked(row: Any, columns: Columns) -> tuple[Message, ...]:
    """Returns what comes before the answer: system, earlier turns, and the question with its input."""
    value = _get(row, columns, "prompt")
    if not isinstance(value, str) and value is not None and looks_like_messages(value):
        return _system(row, columns) + parse_messages(value, columns["prompt"])
    question = _text(row, columns, "prompt", empty=True)
    more = _get(row, columns, "input")
    if isinstance(more, str) and more.strip():
        question = f"{question}\n{more}" if question.strip() else more
    if not question.strip():
        raise Misfit(f"{columns['prompt']!r} is empty", "write the question, or leave the record out", "empty")
    earlier: list[Message] = []
    history = _get(row, columns, "history") or []
    if not isinstance(history, list):
        raise Misfit(f"{columns['history']!r} is {brief(history)}", 'a list is expected: [["question", "answer"], ...]')
    for turn in history:
        if not isinstance(turn, list | tuple) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise Misfit(f"{columns['history']!r} holds {brief(turn)}", "a question and its answer are expected")
        earlier += [Message("user", turn[0]), Message("assistant", turn[1])]
    return (*_system(row, columns), *earlier, Message("user", question))


def _reply(value: Any, column: str) -> tuple[Message, ...]:
    """Returns what the assistant says, from a text, a turn or turns."""
    if isinstance(value, str):
        if not value.strip():
            raise Misfit(f"{column!r} is empty", "write the answer, or leave the record out", "empty")
        return (Message("assistant", value),)
    messages = parse_messages(value, column)
    if messages[-1].role != "assistant":
        raise Misfit(f"{column!r} ends with a turn of {messages[-1].role}", "it must end with the assistant's")
    if not messages[-1].content.strip() and not messages[-1].calls:
        raise Misfit(f"{column!r} is empty", "write the answer, or leave the record out", "empty")
    return messages


def prompted(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A question and its answer: alpaca, prompt and completion."""
    answer = _get(row, columns, "response")
    if answer is None:
        if columns["response"] in row:
            raise Misfit(f"{columns['response']!r} is null", "write the answer, or leave the record out", "empty")
        raise Misfit(f"no field {columns['response']!r} among {brief(list(row))}", "add the answer")
    yield Chat(_asked(row, columns) + _reply(answer, columns["response"]))


def self_instruct(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """An instruction with several inputs and outputs."""
    instances = _get(row, columns, "instances")
    if not isinstance(instances, list) or not instances:
        raise Misfit(f"{columns['instances']!r} is {brief(instances)}", "a list of inputs and outputs is expected")
    for instance in instances:
        try:
            if not isinstance(instance, Mapping):
                raise Misfit(f"{columns['instances']!r} holds {brief(instance)}", '{"input": ..., "output": ...}')
            values = {"prompt": _get(row, columns, "prompt"), **instance}
            names = {"prompt": "prompt", "input": "input", "response": "output"}
            yield from prompted(values, names, context)
        except Misfit as misfit:
            yield misfit


def preference(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A question and two answers, one better than the other."""
    prompt = _asked(row, columns)
    chosen, rejected = (_reply(_get(row, columns, role), columns[role]) for role in ("chosen", "rejected"))
    # Both may repeat the conversation so far.
    sides = [reply[len(prompt) :] if reply[: len(prompt)] == prompt else reply for reply in (chosen, rejected)]
    yield _unlike(Preference(prompt, sides[0], sides[1]), columns)


def _unlike(record: Preference, columns: Columns) -> Preference:
    if not record.chosen or not record.rejected:
        raise Misfit(f"{columns['chosen']!r} or {columns['rejected']!r} adds nothing to the prompt", "add the answers")
    if _bare(record.chosen) == _bare(record.rejected):
        raise Misfit(
            f"{columns['chosen']!r} and {columns['rejected']!r} are the same: {brief(record.chosen[-1].content)}",
            "nothing can be learnt from it: leave it out",
        )
    return record


def _bare(answer: tuple[Message, ...]) -> list[tuple[str, str, str]]:
    return [(turn.role, turn.content.strip(), repr(turn.calls)) for turn in answer]


def dialogue_preference(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """Two whole conversations that part at the end; what they share is the prompt."""
    sides = []
    for role in ("chosen", "rejected"):
        value = _get(row, columns, role)
        if isinstance(value, str):
            sides.append(_spoken(value, columns[role]))
        else:
            sides.append(_reply(value, columns[role]))
    chosen, rejected = sides
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise Misfit("chosen and rejected share no question", "add a field with the prompt")
    if shared == len(chosen) == len(rejected):
        shared -= 1
    yield _unlike(Preference(chosen[:shared], chosen[shared:], rejected[shared:]), columns)


def _spoken(value: str, column: str) -> tuple[Message, ...]:
    """Reads "Human: ... Assistant: ..." as turns."""
    parts = _TURN.split(value)
    if parts[0].strip() or len(parts) < 3:
        raise Misfit(f"{column!r} is {brief(value)}", "turns are expected, or a text of 'Human: ... Assistant: ...'")
    turns = zip(parts[1::2], parts[2::2], strict=True)
    messages = tuple(Message("user" if who == "Human" else "assistant", said.strip()) for who, said in turns)
    if messages[-1].role != "assistant" or not messages[-1].content:
        raise Misfit(f"{column!r} ends without an answer", "write the answer, or leave the record out", "empty")
    return messages


def as_judgement(value: Any) -> bool | None:
    """Returns whether a value says good or bad; None when it says neither."""
    word = str(value).strip().lower() if isinstance(value, bool | int | str) else ""
    return True if word in _GOOD else False if word in _BAD else None


def unpaired(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A conversation whose last answer is good or bad."""
    good = as_judgement(_get(row, columns, "label"))
    if good is None:
        raise Misfit(f"{columns['label']!r} is {brief(_get(row, columns, 'label'))}", "true or false is expected")
    if "messages" in columns:
        whole = _system(row, columns) + parse_messages(_turns(row, columns), columns["messages"])
        completion = _reply([message.to_json() for message in whole[-1:]], columns["messages"])
        if len(whole) < 2:
            raise Misfit(f"{columns['messages']!r} holds no question", "add the user's turn")
        yield UnpairedPreference(whole[:-1], whole[-1:] if completion else (), good)
    else:
        reply = _reply(_get(row, columns, "completion"), columns["completion"])
        yield UnpairedPreference(_asked(row, columns), reply, good)


def image_text(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A picture and what it shows; several captions are several records."""
    value = _get(row, columns, "image")
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    image: Path | bytes
    if isinstance(value, bytes):
        check_begin(value[:12], repr(value[:12]))
        image = value
    elif isinstance(value, str) and value.strip():
        image = context.around.picture(value)
    else:
        raise Misfit(f"{columns['image']!r} is {brief(value)}", "the path of a picture is expected, or its bytes")
    captions = _get(row, columns, "text")
    for caption in captions if isinstance(captions, list) else [captions]:
        yield ImageText(image, _text({columns["text"]: caption}, columns, "text"))


def question(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """A question with its context on one row."""
    value: Any = _get(row, columns, "answers")
    starts: Any = _get(row, columns, "start")
    identity = _get(row, columns, "id")
    if isinstance(value, Mapping):
        starts = value.get("answer_start", starts)
        value = value.get("text")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise Misfit(f"{columns['answers']!r} is {brief(value)}", "a text or a list of texts is expected")
    places = list(starts) if isinstance(starts, list | tuple) else [starts] * len(texts)
    if len(places) != len(texts):
        raise Misfit(f"{len(texts)} answer(s) but {len(places)} place(s)", "give each answer one answer_start")
    given = [
        one if isinstance(one, Mapping) else {"text": one, "answer_start": place}
        for one, place in zip(texts, places, strict=True)
        if one != ""
    ]
    context_text = _text(row, columns, "context")
    yield from _question(context_text, _text(row, columns, "question"), given, str(identity or ""))


def squad(row: Any, columns: Columns, context: Context) -> Iterator[Built]:
    """An article with its paragraphs and their questions: SQuAD, CMRC, XQuAD, DRCD."""
    paragraphs = _get(row, columns, "paragraphs") if "paragraphs" in columns else [row]
    if not isinstance(paragraphs, list):
        raise Misfit(f"{columns['paragraphs']!r} is {brief(paragraphs)}", "a list of paragraphs is expected")
    for number, paragraph in enumerate(paragraphs):
        where = f"paragraphs[{number}]"
        if not isinstance(paragraph, Mapping):
            yield Misfit(f"{where} is {brief(paragraph)}", '{"context": ..., "qas": [...]} is expected')
            continue
        text_of = paragraph.get("context", paragraph.get("context_text"))
        asked = paragraph.get("qas")
        if not isinstance(text_of, str) or not text_of.strip() or not isinstance(asked, list):
            cause = f"{where} has no context or no questions, only {brief(list(paragraph))}"
            yield Misfit(cause, "add context and qas")
            continue
        for place, entry in enumerate(asked):
            try:
                yield from _squad_question(text_of, entry, f"{where}.qas[{place}]")
            except Misfit as misfit:
                yield misfit


def _squad_question(context_text: str, entry: Any, where: str) -> Iterator[Built]:
    if not isinstance(entry, Mapping):
        raise Misfit(f"{where} is {brief(entry)}", '{"question": ..., "answers": [...]} is expected')
    asked = entry.get("question", entry.get("query_text"))
    if not isinstance(asked, str) or not asked.strip():
        raise Misfit(f"{where}: the question is {brief(asked)}", "write it, or leave it out", "empty")
    answers = entry.get("answers")
    if entry.get("is_impossible") is True:
        answers = []
    if not isinstance(answers, list):
        raise Misfit(f"{where}.answers is {brief(answers)}", "a list is expected, empty when there is no answer")
    identity = entry.get("id", entry.get("query_id", ""))
    yield from _question(context_text, asked, answers, str(identity))


def _question(context_text: str, asked: str, answers: Sequence[Any], identity: str) -> Iterator[Built]:
    """Checks that every answer stands where it is said to; one that stands elsewhere is moved, and that is reported."""
    named = f"question {identity or brief(asked)}"
    found: dict[Answer, None] = {}
    for entry in answers:
        wanted = entry.get("text") if isinstance(entry, Mapping) else entry
        start = entry.get("answer_start") if isinstance(entry, Mapping) else None
        if not isinstance(wanted, str) or not wanted:
            raise Misfit(f"{named}: an answer is {brief(entry)}", "give its text, or leave it out")
        if isinstance(start, str) and start.lstrip("-").isdigit():
            start = int(start)
        if isinstance(start, bool) or not isinstance(start, int):
            start = None
        if start is not None and start >= 0 and context_text.startswith(wanted, start):
            found[Answer(wanted, start)] = None
            continue
        place = _nearest(context_text, wanted, start or 0)
        if place is None and start is None:
            found[Answer(wanted, None)] = None  # an answer in other words
            continue
        if place is None:
            stands = brief(context_text[max(0, start or 0) : max(0, start or 0) + len(wanted)])
            raise Misfit(f"{named}: the answer {brief(wanted)} is not in the context; at {start} stands {stands}",
                         "correct the answer or the context")  # fmt: skip
        if start is not None and start >= 0:
            yield Misfit(f"{named}: the answer {brief(wanted)} stands at {place}, not at {start}",
                         "it is read from there; correct answer_start", "moved")  # fmt: skip
        found[Answer(wanted, place)] = None
    yield Question(context_text, asked, tuple(found), identity)


def _nearest(context_text: str, wanted: str, start: int) -> int | None:
    """Returns where a text stands in another one, nearest to a place."""
    after = context_text.find(wanted, max(0, start))
    before = context_text.rfind(wanted, 0, max(0, start) + len(wanted))
    places = [place for place in (before, after) if place >= 0]
    return min(places, key=lambda place: abs(place - start)) if places else None
