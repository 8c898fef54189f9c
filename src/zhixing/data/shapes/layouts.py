"""Layouts: how rows with certain fields map onto the shapes. One entry for each way that data sets are written.

A layout names its fields with the column names that they usually have, best first, and a test for their values. Turning
rows into records is `build`' concern; choosing among layouts that of `detect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zhixing.data.fields import TEXT_FIELDS
from zhixing.data.shapes import build
from zhixing.data.shapes.build import Built, Context
from zhixing.data.shapes.messages import looks_like_messages
from zhixing.data.shapes.records import Shape

Test = Callable[[Any], bool]


def _words(names: str) -> tuple[str, ...]:
    return tuple(names.split())


def is_text(value: Any) -> bool:
    """A text, also an empty one."""
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    """A text, or a list of lines."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(line, str) for line in value))


def is_label(value: Any) -> bool:
    """A label: a word or number, or a list of them."""
    if isinstance(value, list):
        return all(is_label(one) and not isinstance(one, list) for one in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 200)


def is_judgement(value: Any) -> bool:
    """Good or bad: true, false, 0, 1, or such a word."""
    return build.as_judgement(value) is not None


def is_turn(value: Any) -> bool:
    """A turn, or a list of turns."""
    return looks_like_messages(value if isinstance(value, list) else [value])


def is_messages(value: Any) -> bool:
    """A list of turns."""
    return looks_like_messages(value)


def is_reply(value: Any) -> bool:
    """What an assistant says: a text, a turn or turns."""
    return is_text(value) or is_turn(value)


def is_answers(value: Any) -> bool:
    """Accepted answers: a text, a list, or SQuAD's object."""
    return isinstance(value, str | list) or (isinstance(value, dict) and "text" in value)


def is_list(value: Any) -> bool:
    """A list."""
    return isinstance(value, list)


def is_image(value: Any) -> bool:
    """A picture: a path, bytes, or an object that holds one of both."""
    return isinstance(value, str | bytes) or (isinstance(value, dict) and bool({"path", "bytes"} & set(value)))


def is_anything(value: Any) -> bool:
    """Any value."""
    return True


@dataclass(frozen=True)
class Field:
    """A field of a layout.

    Attributes:
        role: What it is, as in an explicit mapping of columns.
        names: Names of columns that hold it, best first, in lower case.
        test: Whether a value can be it.
        required: Whether a row must have it.
    """

    role: str
    names: tuple[str, ...]
    test: Test = is_text
    required: bool = True


@dataclass(frozen=True)
class Layout:
    """One way of writing records.

    Attributes:
        name: Its name.
        shape: The shape that it maps onto.
        fields: Its fields.
        prior: How sure the names of its fields make one, from 0 to 1.
        build: From a row and its columns to records.
        whole: Whether further columns of text make it unlikely, because they must mean something.
        decisive: Whether its fields leave no doubt, so that no other layout is considered.
    """

    name: str
    shape: Shape
    fields: tuple[Field, ...]
    prior: float
    build: Callable[[Any, Mapping[str, str], Context], Iterator[Built]]
    whole: bool = False
    decisive: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all fields."""
        return tuple(field.role for field in self.fields)

    @property
    def required(self) -> tuple[str, ...]:
        """The roles of the fields that a row must have."""
        return tuple(field.role for field in self.fields if field.required)


PROMPT = _words("prompt query question instruction user input")
RESPONSE = _words("completion response output answer reply assistant target")
TEXT_NAMES = (
    *TEXT_FIELDS,
    *_words("review comment tweet title query utterance headline text_a sentence1 string 评论 标题"),
)
LABEL_NAMES = _words("label labels category class sentiment intent target tag topic rating stars score 标签 类别 分类")
SYSTEM = Field("system", _words("system system_prompt"), is_text, required=False)
TOOLS = Field("tools", _words("tools functions"), is_anything, required=False)
INPUT = Field("input", _words("input context"), is_text, required=False)

LAYOUTS: tuple[Layout, ...] = (
    Layout("preference by turns", "preference", (
        Field("prompt", _words("conversations messages prompt conversation"), is_messages),
        Field("chosen", _words("chosen preferred accepted"), is_reply),
        Field("rejected", _words("rejected dispreferred"), is_reply), SYSTEM, TOOLS,
    ), 0.98, build.preference, decisive=True),
    Layout("preference", "preference", (
        Field("prompt", _words("instruction prompt question query input")),
        Field("chosen", _words("chosen preferred accepted response_j better"), is_reply),
        Field("rejected", _words("rejected dispreferred response_k worse"), is_reply), INPUT, SYSTEM,
    ), 0.97, build.preference, decisive=True),
    Layout("preference without prompt", "preference", (
        Field("chosen", _words("chosen"), is_reply), Field("rejected", _words("rejected"), is_reply),
    ), 0.93, build.dialogue_preference, decisive=True),
    Layout("KTO by turns", "unpaired_preference", (
        Field("messages", _words("messages conversations conversation"), is_messages),
        Field("label", _words("label kto_tag desirable good"), is_judgement), SYSTEM, TOOLS,
    ), 0.985, build.unpaired, decisive=True),
    Layout("KTO", "unpaired_preference", (
        Field("prompt", _words("prompt instruction question query"), is_reply),
        Field("completion", _words("completion response output answer"), is_reply),
        Field("label", _words("label kto_tag desirable good"), is_judgement), INPUT, SYSTEM,
    ), 0.96, build.unpaired, decisive=True),
    Layout("messages", "chat", (
        Field("messages", _words("messages conversations conversation dialog dialogue chat turns"), is_messages),
        SYSTEM, TOOLS,
    ), 0.97, build.chat),
    Layout("self-instruct", "chat", (
        Field("prompt", _words("instruction")), Field("instances", _words("instances"), is_list),
    ), 0.96, build.self_instruct),
    Layout("alpaca", "chat", (
        Field("prompt", _words("instruction")), Field("response", _words("output response")), INPUT, SYSTEM,
        Field("history", _words("history"), is_anything, required=False),
    ), 0.96, build.prompted),
    Layout("prompt and completion", "chat", (
        Field("prompt", _words("prompt"), is_reply),
        Field("response", _words("completion response output answer"), is_reply), SYSTEM,
    ), 0.92, build.prompted),
    Layout("SQuAD", "qa", (Field("paragraphs", _words("paragraphs"), is_list),), 0.98, build.squad),
    Layout("CMRC", "qa", (
        Field("context", _words("context_text context")), Field("questions", _words("qas"), is_list),
    ), 0.98, build.squad),
    Layout("question, context, answers", "qa", (
        Field("context", _words("context passage paragraph document article 文章 上下文")),
        Field("question", _words("question query 问题")),
        Field("answers", _words("answers answer gold_answers answer_text 答案"), is_answers),
        Field("start", _words("answer_start start start_position"), is_anything, required=False),
        Field("id", _words("id qid query_id"), is_anything, required=False),
    ), 0.965, build.question),
    Layout("tokens and tags", "tagged", (
        Field("tokens", _words("tokens words chars"), is_list),
        Field("tags", _words("ner_tags tags labels pos_tags chunk_tags ner"), is_list),
    ), 0.97, build.tagged),
    Layout("picture and text", "image_text", (
        Field("image", _words("image img picture image_path file_name filename 图片"), is_image),
        Field("text", _words("caption text captions description sentence 描述"), is_texts),
    ), 0.95, build.image_text),
    Layout("two texts and a label", "labelled", (
        Field("text", _words("sentence1 premise text_a text1 question1 s1")),
        Field("second", _words("sentence2 hypothesis text_b text2 question2 s2")),
        Field("label", LABEL_NAMES, is_label),
    ), 0.95, build.labelled),
    Layout("text and label", "labelled", (
        Field("text", TEXT_NAMES), Field("label", LABEL_NAMES, is_label),
    ), 0.94, build.labelled, whole=True),
    Layout("source and target", "pair", (
        Field("source", _words("source src input_text original dialogue document article 源文 原文")),
        Field("target", _words("target tgt target_text output_text summary highlights translation simplified corrected "
                               "译文 摘要")),
    ), 0.93, build.pair),
    Layout("translation by language", "pair", (
        Field("translation", _words("translation"), lambda value: isinstance(value, dict)),
    ), 0.9, build.translation),
    Layout("prompt and completion", "pair", (
        Field("source", _words("prompt instruction query input")),
        Field("target", _words("completion response output")), INPUT,
    ), 0.8, build.pair),
    Layout("question and answer", "pair", (
        Field("source", _words("question query 问题")), Field("target", _words("answer response 答案 回答")),
    ), 0.8, build.pair, whole=True),
    Layout("question and answer", "chat", (
        Field("prompt", _words("question query 问题")), Field("response", _words("answer response 答案 回答")), SYSTEM,
    ), 0.65, build.prompted, whole=True),
    Layout("words", "text", (Field("tokens", _words("tokens words"), is_list),), 0.4, build.words),
    Layout("text", "text", (Field("text", TEXT_FIELDS, is_texts),), 0.75, build.text),
)  # fmt: skip

KNOWN = frozenset(name for layout in LAYOUTS for field in layout.fields for name in field.names)
"""All names of columns that a layout knows."""
