"""Tokens for people: raw spellings become readable text, never the mojibake of a byte alphabet."""

from __future__ import annotations

import unicodedata

from zhixing.tokenization.decoding import ALPHABET, BYTE_PIECE
from zhixing.tokenization.definition import Definition, is_byte_level, parts

MARKS = {" ": "␣", "\n": "⏎", "\r": "␍", "\t": "⇥", "\u3000": "<U+3000>", "\ufffd": "<U+FFFD>"}
"""What stands for characters that cannot be seen. ␣ rather than ·, which Chinese uses inside names."""


def readable_character(character: str, alone: bool) -> str:
    """Returns one character as it can be seen; a combining mark that stands alone gets a dotted circle to sit on."""
    if character in MARKS:
        return MARKS[character]
    category = unicodedata.category(character)
    if category == "Cc":
        return f"<{ord(character):02X}>"
    if category in ("Cf", "Cn", "Co", "Cs", "Zs", "Zl", "Zp"):
        return f"<U+{ord(character):04X}>"
    return "◌" + character if alone and category.startswith("M") else character


def readable_text(text: str) -> str:
    """Returns a text with everything invisible made visible."""
    return "".join(readable_character(character, index == 0) for index, character in enumerate(text))


def readable_bytes(content: bytes) -> str:
    """Returns bytes as text where they are whole UTF-8 characters, and as <E4><BD> where they are not."""
    shown = ""
    while content:
        try:
            return shown + readable_text(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            shown += readable_text(content[: error.start].decode("utf-8"))
            shown += "".join(f"<{byte:02X}>" for byte in content[error.start : error.end])
            content = content[error.end :]
    return shown


def spells_spaces(definition: Definition) -> bool:
    """Tells whether the vocabulary spells a space as ▁, as SentencePiece does."""
    steps = parts(definition.get("decoder"), "decoders")
    return any(step.get("replacement") == "▁" or step.get("pattern") == {"String": "▁"} for step in steps)


def readable_piece(piece: str, definition: Definition) -> str:
    """Returns the readable form of a token by its raw spelling in a vocabulary."""
    if is_byte_level(definition):
        codes = [ALPHABET.get(character) for character in piece]
        return (
            readable_text(piece) if None in codes else readable_bytes(bytes(code for code in codes if code is not None))
        )
    model = definition["model"]
    if model.get("byte_fallback") and (match := BYTE_PIECE.fullmatch(piece)):
        return readable_bytes(bytes([int(match[1], 16)]))
    return readable_text(piece.replace("▁", " ") if spells_spaces(definition) else piece)
