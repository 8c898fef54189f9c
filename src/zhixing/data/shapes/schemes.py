"""Schemes of tags: BIO, IOB1, BIOES, BMES. Which scheme a file uses, the chunks that tags mean, and tags from chunks.

The rules of where a chunk begins and ends are conlleval's (Tjong Kim Sang and Buchholz 2000), which read IOB1, BIO
(IOB2) and mixtures of them without being told, extended to E and S (BIOES) as seqeval does. M of BMES and L and U of
BILOU are read as I, E and S.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from zhixing.core.errors import BadInput

Scheme = Literal["BIO", "IOB1", "BIOES", "BMES", "BILOU", "none"]
"""How tags are written; "none" when each token has a class of its own (parts of speech)."""

_SAME = {"M": "I", "L": "E", "U": "S"}
_LETTERS = frozenset("BIESMLU")


class Chunk(NamedTuple):
    """Tokens [begin, end) of one type."""

    begin: int
    end: int
    type: str


def split_tag(tag: str) -> tuple[str, str]:
    """Returns position and type of a tag: B-PER -> B, PER; O -> O, "".

    Raises:
        BadInput: The tag is of no known scheme.
    """
    position, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    position = _SAME.get(position, position)
    if position not in ("B", "I", "E", "S", "O") or (position == "O" and kind):
        raise BadInput(f"{tag!r} is not a tag", remedy="tags are O, or B- I- E- S- (also M- L- U-) and a type: B-PER")
    return position, kind


def chunks(tags: Sequence[str]) -> list[Chunk]:
    """Returns the chunks of a sentence by conlleval's rules.

    A chunk of IOB1 begins with I, and with B only where it follows another one of its type; an I of another type than
    the token before, or after O, begins a new chunk.

    Raises:
        BadInput: A tag is of no known scheme.
    """
    found: list[Chunk] = []
    begin = -1  # of the open chunk; -1 when there is none
    before, kind_before = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        position, kind = split_tag(tag)
        if begin >= 0 and _ends(before, position, kind_before, kind):
            found.append(Chunk(begin, place, kind_before))
            begin = -1
        if _begins(before, position, kind_before, kind):
            begin = place
        before, kind_before = position, kind
    return found


def _ends(before: str, position: str, kind_before: str, kind: str) -> bool:
    return before in ("E", "S") or position in ("B", "S", "O") or kind_before != kind


def _begins(before: str, position: str, kind_before: str, kind: str) -> bool:
    if position in ("B", "S"):
        return True
    return position in ("I", "E") and (before in ("O", "E", "S") or kind_before != kind)


def find_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Tells how the tags of sentences are written, by the letters that occur."""
    letters: set[str] = set()
    inside, begun = 0, 0  # chunks that begin with I, and those that begin with B where IOB1 would write I
    for tags in sentences:
        before = "O"
        for tag in tags:
            position, hyphen, kind = tag.partition("-")
            if tag != "O" and (position not in _LETTERS or not (hyphen or not kind)):
                return "none"
            letters.add(position)
            if before == "O" or before.partition("-")[2] != kind:
                inside += position == "I"
                begun += position == "B"
            before = tag
    if not letters - {"O"}:
        return "BIO" if letters else "none"
    if "M" in letters:
        return "BMES"
    if letters & {"L", "U"}:
        return "BILOU"
    if letters & {"E", "S"}:
        return "BIOES"
    return "IOB1" if inside > begun else "BIO"  # a few slips do not make another scheme


def allowed(tags: Sequence[str]) -> tuple[list[list[bool]], list[bool], list[bool]]:
    """Returns which tags of a BIO or BIOES label set may follow each other, begin and end a sentence.

    Args:
        tags: The label set, with O.

    Returns:
        For each tag whether each other may come next; whether it may come first; whether it may come last.
    """
    closed = any(tag[:1] in ("E", "S") for tag in tags)  # BIOES: a chunk says itself where it ends

    def follows(before: str, after: str) -> bool:
        (end, kind_before), (begin, kind) = split_tag(before), split_tag(after)
        inside = begin in ("I", "E")
        if closed:
            is_open = end in ("B", "I")
            return inside == is_open and (not inside or kind == kind_before)
        return not inside or (end in ("B", "I") and kind == kind_before)

    return (
        [[follows(one, other) for other in tags] for one in tags],
        [follows("O", tag) for tag in tags],
        [not closed or split_tag(tag)[0] not in ("B", "I") for tag in tags],
    )


def write_tags(found: Iterable[Chunk], length: int, scheme: Literal["BIO", "BIOES"] = "BIO") -> list[str]:
    """Writes chunks as tags.

    Args:
        found: Chunks that do not overlap.
        length: Number of tokens.
        scheme: How to write them.
    """
    tags = ["O"] * length
    for begin, end, kind in found:
        suffix = f"-{kind}" if kind else ""
        tags[begin:end] = [f"I{suffix}"] * (end - begin)
        tags[begin] = f"B{suffix}"
        if scheme == "BIOES":
            tags[end - 1] = f"E{suffix}" if end - begin > 1 else f"S{suffix}"
    return tags


def convert(tags: Sequence[str], scheme: Literal["BIO", "BIOES"] = "BIO") -> list[str]:
    """Writes tags of any scheme in another one, with the same chunks.

    Raises:
        BadInput: A tag is of no known scheme.
    """
    return write_tags(chunks(tags), len(tags), scheme)
