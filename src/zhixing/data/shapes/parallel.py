"""Parallel texts: two files whose lines belong together, line N of one to line N of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from zhixing.core.errors import BadInput
from zhixing.data.problems import Problems
from zhixing.data.readers import bad_character
from zhixing.data.shapes.forms import Form
from zhixing.data.shapes.records import Pair, Placed, Shape
from zhixing.data.shapes.rows import Row, read_rows
from zhixing.data.sources import Source
from zhixing.data.streams import open_source

NO_LANGUAGES = frozenset("txt md py rst log dev raw tok bio iob".split())
"""Endings of names that look like codes of languages and are none."""
LINES = Form("lines", why="two files with the same lines")


class Twins(NamedTuple):
    """Two files with the same lines."""

    source: Source
    target: Source


def find_twins(
    sources: Sequence[Source],
    named: Sequence[str | Path],
    shape: Shape | None,
    columns: Mapping[str, str] | None,
    problems: Problems,
) -> list[Twins]:
    """Finds parallel files: train.en and train.de, or two text files that were named in order as a pair.

    Args:
        sources: What was found.
        named: The paths that the user gave.
        shape: The shape that is wanted.
        columns: The languages, as {"source": "en", "target": "de"}.
        problems: Where files in other languages are counted.

    Returns:
        The files in pairs; nothing when the sources are not parallel files.

    Raises:
        BadInput: They are, but which is the source cannot be seen.
    """
    if shape not in (None, "pair") or len(sources) < 2 or any(source.format != "text" for source in sources):
        return []
    groups: dict[tuple[Path, str], dict[str, Source]] = {}
    for source in sources:
        stem, language = _language(source)
        groups.setdefault((source.path.parent, stem), {})[language] = source
    several = {key: found for key, found in groups.items() if len(found) > 1 and "" not in found}
    languages = [_language(source)[1] for source in sources]
    told_apart = len(set(languages)) == 2 and "" not in languages
    if columns is None and len(named) == len(sources) == 2 and (told_apart or shape == "pair"):
        return [Twins(*sources)]  # the user's own order
    if not several:
        return []
    languages = sorted({language for found in several.values() for language in found})
    if columns is None:
        raise BadInput(
            f"parallel files in {', '.join(languages)}: which is the source cannot be seen",
            where=str(named[0]),
            remedy=f"columns: {{source: {languages[0]}, target: {languages[-1]}}}",
        )
    wanted = (str(columns.get("source", "")).lower(), str(columns.get("target", "")).lower())
    twins = [Twins(found[wanted[0]], found[wanted[1]]) for found in several.values() if set(wanted) <= set(found)]
    if not twins:
        raise BadInput(
            f"no parallel files in {wanted[0]!r} and {wanted[1]!r}",
            where=str(named[0]),
            remedy=f"languages found: {', '.join(languages)}",
        )
    taken = {source for pair in twins for source in pair}
    for source in sources:
        if source not in taken:
            problems.report("unsupported", source.name, "not in one of the two languages that were asked for")
    return twins


def _language(source: Source) -> tuple[str, str]:
    """Returns stem and language of names like train.en, train.de.gz and train.zh.txt; "" when there is none."""
    name = (source.member or source.path.name).lower()
    for ending in (".gz", ".zst", ".zstd", ".txt"):
        name = name.removesuffix(ending)
    stem, dot, language = name.rpartition(".")
    if dot and 2 <= len(language) <= 3 and language.isalpha() and language not in NO_LANGUAGES:
        return stem, language
    return name, ""


def read_twins(twins: Twins, problems: Problems, advance: Callable[[int], None] | None = None) -> Iterator[Placed]:
    """Reads the pairs of two files. A line that is empty or cannot be read costs its pair, which is reported.

    Raises:
        BadInput: One file has more lines than the other.
    """
    with ExitStack() as stack:
        streams = [stack.enter_context(open_source(source, advance=advance)) for source in twins]
        sides = [
            read_rows(source, stream, LINES, problems) for source, stream in zip(twins, streams, strict=True)
        ]  # fmt: skip
        last = 0
        one, other = (next(side, None) for side in sides)
        while one is not None and other is not None:
            # A line that does not decode was reported and is missing here: the other file's line goes with it.
            if one[0] == other[0]:
                last = one[0]
                yield from _pair(twins, one, other, problems)
            behind = one[0] - other[0]
            one = next(sides[0], None) if behind <= 0 else one
            other = next(sides[1], None) if behind >= 0 else other
        for left, side, short in ((one, sides[0], twins.target), (other, sides[1], twins.source)):
            rest = max((number for number, _ in side), default=left[0] if left else 0)
            if left is not None and rest > last:
                raise BadInput(
                    f"it ends after {last:,} line(s), the other file has {rest:,}",
                    where=short.name,
                    remedy="line N of one file must belong to line N of the other: mend the files",
                )


def _pair(twins: Twins, one: tuple[int, Row], other: tuple[int, Row], problems: Problems) -> Iterator[Placed]:
    texts = [row["text"].strip() for _, row in (one, other)]
    for text, source in zip(texts, twins, strict=True):
        if not text:
            problems.report("empty", source.name, "an empty line; its pair is left out", line=one[0])
            return
        if bad_character(text):
            problems.report("undecodable", source.name, "a NUL character; its pair is left out", line=one[0])
            return
    yield Placed(Pair(texts[0], texts[1]), twins.source.name, one[0])
