"""Faults inside of texts that can be seen in the text alone: bad characters, mojibake, special tokens, placeholders."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from typing import Any

from zhixing.data.doctor.findings import Flaw
from zhixing.data.shapes.records import brief

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")
"""Control characters but tab and line ends, byte-order marks, halves of surrogate pairs."""
SPECIAL = re.compile(
    r"<\|(?:endoftext|endofprompt|im_start|im_end|im_sep|begin_of_text|end_of_text|start_header_id|end_header_id"
    r"|eot_id|eom_id|python_tag|user|assistant|system|end|pad|fim_prefix|fim_middle|fim_suffix)\|>"
    r"|<(?:bos|eos|pad|start_of_turn|end_of_turn)>|</s>|\[/?INST\]|<<SYS>>|<</SYS>>"
)
"""Special tokens of well-known models, as text."""
PLACEHOLDER = re.compile(
    r"\{\{ ?[A-Za-z_][\w.]{0,30} ?\}\}|\[(?:insert|your|name|company|date) ?[\w ]{0,30}\]", re.IGNORECASE
)
ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|hellip|[mn]dash|[lr][ds]quo|middot|bull|copy|reg|times|deg|#\d{2,5}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)
ABOUT_MARKUP = re.compile(r"<[a-z!/][^<>]*>|html|xml|markup|entit|escap|转义|实体|轉義|實體|网页|網頁", re.IGNORECASE)
"""What a record says that is about markup: an entity is meant there."""
_INVISIBLE = re.compile("[\\s\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff\u00ad]+")
_NOTHING = re.compile(r"nan|none|null|n/?a|undefined|#(?:n/a|ref!|name\?|value!|div/0!)|<na>|\\N", re.IGNORECASE)
"""What programs write where there was nothing."""
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)

# Bytes of UTF-8 read as Windows-1252 (or Latin-1, where it has no character): a lead byte, then continuation bytes.
_HIGH = {byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0x100)}
_BYTE = {character: byte for byte, character in _HIGH.items()}
_LEAD = "".join(re.escape(_HIGH[byte]) for byte in range(0xC2, 0xF5))
_NEXT = "".join(re.escape(_HIGH[byte]) for byte in range(0x80, 0xC0))
_MOJIBAKE = re.compile(f"(?:[{_LEAD}][{_NEXT}]{{1,3}})+")
_CHINESE_MOJIBAKE = re.compile("[^\\x00-\\x7f。，！？、：；]{3,}")


def mend_text(text: str, flaws: list[Flaw], where: str, *, entities: bool = True) -> str:
    """Mends one text and notes what was wrong.

    Args:
        text: The text.
        flaws: Where the faults are added.
        where: The field, for messages.
        entities: Whether HTML's entities are faults in it.
    """
    if len(text) < 12 and _NOTHING.fullmatch(text.strip()):
        flaws.append(Flaw("placeholder", f"{where} is {text.strip()!r}, which may stand for nothing", "look at it"))
    if text.isascii() and text.isprintable() and not any(mark in text for mark in "<[{&"):
        return text
    if text.strip() and _INVISIBLE.fullmatch(text):
        flaws.append(Flaw("control", f"{where} holds nothing that can be seen", "remove it"))
        return ""
    if found := CONTROL.findall(text):
        shown = ", ".join(sorted({f"U+{ord(character):04X}" for character in found}))
        flaws.append(Flaw("control", f"{where} holds {len(found)} bad character(s): {shown}", "remove them"))
        text = CONTROL.sub("", text)
    if entities and (match := ENTITY.search(_CODE.sub("", text))) and (plain := _without_entities(text)) != text:
        flaws.append(Flaw("entity", f"{where} holds {match[0]}", f"write {_character(match)!r}"))
        text = plain
    for pattern, turn_back in ((_MOJIBAKE, _turn_back), (_CHINESE_MOJIBAKE, _turn_back_chinese)):
        for match in pattern.finditer(text):
            if turn_back(match) != match[0]:
                flaws.append(Flaw("mojibake", f"{where} holds {match[0]!r}", f"write {turn_back(match)!r}"))
                break
        text = pattern.sub(turn_back, text)
    if "\ufffd" in text:
        near = text[max(0, text.index("\ufffd") - 20) :][:40]
        flaws.append(
            Flaw("lost", f"{where}: {text.count(chr(0xFFFD))} lost character(s) in {brief(near)}", "write them anew")
        )
    return _without_special(text, flaws, where)


def _without_entities(text: str) -> str:
    """Writes the characters that entities stand for, those of entities of entities too; code stays."""
    for _ in range(3):
        pieces, last = [], 0
        for code in _CODE.finditer(text):
            pieces += [ENTITY.sub(_character, text[last : code.start()]), code[0]]
            last = code.end()
        text = "".join([*pieces, ENTITY.sub(_character, text[last:])])
    return text


def _character(match: re.Match[str]) -> str:
    found = html.unescape(match[0])
    if found == "\u00a0":  # what keeps words on one line means nothing here
        return " "
    return found if len(found) == 1 and (found.isprintable() or found.isspace()) and found != "\ufffd" else match[0]


def _turn_back(match: re.Match[str]) -> str:
    try:
        text = bytes(_BYTE[character] for character in match[0]).decode("utf-8")
    except UnicodeDecodeError:
        return match[0]
    # It may have happened more than once; but rare letters in a row can look like it by chance.
    further = _MOJIBAKE.sub(_turn_back, text)
    likely = "Ã" in text or "Â" in text or (len(further) > 1 and all("\u3000" <= one <= "\u9fff" for one in further))
    return further if likely else text


def _turn_back_chinese(match: re.Match[str]) -> str:
    """Turns back UTF-8 that was read as GBK. Bytes of real words of Chinese are no UTF-8 of ideographs."""
    try:
        text = match[0].encode("gb18030").decode("utf-8")
    except UnicodeError:
        return match[0]
    wide = sum("\u3000" <= character <= "\u9fff" or "\uff00" <= character <= "\uffef" for character in text)
    return text if wide > 0.8 * len(text) else match[0]


def _without_special(text: str, flaws: list[Flaw], where: str) -> str:
    bare = text
    found = SPECIAL.findall(_CODE.sub("", text))
    if found:
        # Only at the ends can they be taken away without changing what is said.
        while match := re.match(rf"\s*(?:{SPECIAL.pattern})\s*", bare):
            bare = bare[match.end() :]
        while match := re.search(rf"\s*(?:{SPECIAL.pattern})\s*$", bare):
            bare = bare[: match.start()]
        inside = SPECIAL.search(_CODE.sub("", bare))
        mend = f"look at {inside[0]} in the middle: it may split the record" if inside else "remove them"
        flaws.append(Flaw("special", f"{where} holds {', '.join(sorted(set(found)))}", mend))
    if match := PLACEHOLDER.search(_CODE.sub("", bare)):
        flaws.append(Flaw("placeholder", f"{where} holds {match[0]}", "fill it in"))
    return bare


def map_texts(value: Any, change: Callable[[str, str], str], where: str) -> Any:
    """Returns a value in which every text was passed through `change(text, where)`; the keys of objects stay."""
    if isinstance(value, str):
        return change(value, where)
    if isinstance(value, list):
        return [map_texts(part, change, f"{where}[{number}]") for number, part in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: map_texts(part, change, f"{where}.{key}" if where else str(key)) for key, part in value.items()}
    return value
