"""Which field of a record holds its text. Reading the records is `records`' concern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput, nearest

TEXT_FIELDS = (
    *("text", "content", "document", "body", "passage", "article", "story", "raw_content", "paragraphs", "sentence"),
    *("para", "lines", "code", "文本", "正文", "内容", "文章", "段落", "句子"),
)
"""Names of a field that holds text, best first. Its value is a string, or a list of strings: its lines."""
HOPELESS = 1000
"""When so many records in a row from the beginning have no text, the file has none."""

Record = Any
"""A dict of named values as a rule; whatever else the file holds otherwise."""


class TextField:
    """Finds the text of a record: a string itself, the field that was asked for, or one with a usual name.

    Args:
        asked: The name of the field; None looks for a usual one in the first records.
    """

    def __init__(self, asked: str | None) -> None:
        self.asked = asked
        self.name: str | None = asked
        self.columns: list[str] = []
        self.found = False
        self._misses = 0

    @property
    def hopeless(self) -> bool:
        """Whether so many records had no text that the file must be of another kind."""
        return not self.found and self._misses >= HOPELESS

    def choose(self, columns: list[str], record: Mapping[str, Any] | None = None) -> str | None:
        """Returns the column that holds the text, if any; in `record`, if given, its value must be text."""
        self.columns = columns
        if self.asked is None:
            lowered = {column.strip().lower(): column for column in reversed(columns)}
            usual = [lowered[name] for name in TEXT_FIELDS if name in lowered]
            fitting = [name for name in usual if record is None or _as_text(record[name]) is not None]
            self.name = next(iter([*fitting, *usual]), None)
        return self.name if self.name in columns else None

    def needs(self, column: str) -> bool:
        """Tells whether a column of a table is read, so that no other one may have its name."""
        return column == self.name

    def text(self, record: Record) -> str | None:
        """Returns the text of a record, or None when it has none."""
        value: Any = record
        if isinstance(record, dict):
            if not self.found:
                self.choose(list(record), record)
            value = record.get(self.name)
        elif self.asked is not None:
            value = None
        text = _as_text(value)
        if text is None:
            self._misses += 1
        else:
            self.found = True
        return text

    def why(self, record: Record) -> str:
        """Says why a record has no text."""
        if not isinstance(record, dict):
            return f"a record with named fields is expected, this is {_kind(record)}"
        if self.name is None:
            return f"no field with a usual name ({', '.join(TEXT_FIELDS[:4])}, ...) among: {_list(record)}"
        if self.name not in record:
            return f"no field {self.name!r} among: {_list(record)}"
        return f"field {self.name!r} is {_kind(record[self.name])}, not text"

    def error(self, where: str) -> BadInput:
        """Builds the error for a file none of whose fields is the text."""
        if self.asked is not None:
            guess = nearest(self.asked, self.columns)
            hint = f"did you mean {guess!r}? " if guess else ""
            return BadInput(
                f"no text in a field {self.asked!r}", where=where, remedy=f"{hint}fields: {_list(self.columns)}"
            )
        return BadInput(
            "no field has one of the usual names of text",
            where=where,
            remedy="name the field of the text with --field, in a recipe with data.field"
            f" (its number, if there is no header row); found: {_list(self.columns)}",
        )


def _as_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return None


def _list(names: Any) -> str:
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in map(str, names)]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
