"""What every tokenizer needs of a text: that UTF-8 can spell it."""

from __future__ import annotations

from zhixing.core.errors import BadInput


def utf8_size(text: str) -> int:
    """Returns the number of UTF-8 bytes of a text.

    Raises:
        BadInput: The text holds half a character (a lone surrogate, as broken JSON escapes give), which UTF-8 lacks.
    """
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise BadInput(
            f"the text holds half a character (lone surrogate U+{ord(text[error.start]):04X} at {error.start})",
            remedy="mend the encoding of the source: text.encode('utf-16', 'surrogatepass').decode('utf-16')",
        ) from error
