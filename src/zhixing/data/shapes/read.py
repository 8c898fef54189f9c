"""Reading records of one shape from files, as a stream; what does not fit is reported with file, line, value and
mend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from zhixing.core.errors import BadInput
from zhixing.data.problems import Problems
from zhixing.data.readers import Archives, bad_character, fault_reason, read_documents
from zhixing.data.shapes.captioned import BESIDE, WHOLE, find_captioned, read_captioned
from zhixing.data.shapes.detect import Detection, detect
from zhixing.data.shapes.layouts import LAYOUTS, Layout
from zhixing.data.shapes.parallel import LINES, Twins, find_twins, read_twins
from zhixing.data.shapes.records import Misfit, Placed, Record, Shape, Text
from zhixing.data.shapes.rows import Row, read_rows
from zhixing.data.sources import Source, find_sources
from zhixing.data.streams import open_source, read_faults, require_packages

Advance = Callable[[int], None]


class Reading:
    """The records of some files: how each file was understood, and a stream of its records, read anew at each
    iteration.

    Attributes:
        shape: The shape of all records.
        detections: How each file was understood.
        problems: Where everything is counted that was skipped or odd.
    """

    def __init__(
        self,
        shape: Shape,
        detections: Sequence[Detection],
        problems: Problems,
        advance: Advance | None = None,
        twins: Mapping[str, Twins] | None = None,
        captioned: Mapping[str, str] | None = None,
    ) -> None:
        self.shape = shape
        self.detections = tuple(detections)
        self.problems = problems
        self._advance = advance
        self._twins = twins or {}
        self._captioned = captioned or {}

    def __iter__(self) -> Iterator[Placed]:
        faults = read_faults()
        with Archives() as archives:
            for found in self.detections:
                name = found.source.name
                try:
                    if name in self._twins:
                        yield from read_twins(self._twins[name], self.problems, self._advance)
                    elif name in self._captioned:
                        yield from read_captioned(found.source, self._captioned[name], self.problems)
                    else:
                        yield from _read_file(found, self.problems, archives, self._advance)
                except faults as error:
                    self.problems.report("unreadable", name, fault_reason(error))


def read(
    paths: str | Path | Sequence[str | Path],
    *,
    shape: Shape | None = None,
    columns: Mapping[str, str] | None = None,
    problems: Problems | None = None,
    advance: Advance | None = None,
) -> Reading:
    """Opens records: finds the shape of every file, and streams the records.

    Two text files with the same lines in two languages are pairs: name them in order (source, then target), or name
    their folder with columns={"source": "en", "target": "de"} for train.en and train.de. Text files that each have a
    picture of the same name beside them are its captions.

    Args:
        paths: Files, folders and globs, also compressed.
        shape: The shape that is wanted; without it, the one that is found.
        columns: Which column holds which role, such as {"source": "en", "target": "de"}; columns without names are
            counted from 1.
        problems: Where everything that does not fit is counted, with file, line, value and how to mend it.
        advance: Is called with the bytes on disk that were read, for progress.

    Raises:
        MissingResource: A path is not there, or a package for its format.
        BadInput: A shape cannot be told for sure, files are of different shapes, or a column does not exist.
    """
    problems = Problems() if problems is None else problems
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    sources = find_sources(named, problems)
    require_packages(sources)
    detections = []
    twins = {pair.source.name: pair for pair in find_twins(sources, named, shape, columns, problems)}
    for pair in twins.values():
        files = {"source": pair.source.name, "target": pair.target.name}
        detections.append(Detection(pair.source, "pair", "parallel files", files, 1.0, LINES.why, LINES))
    captioned = {} if twins or columns else find_captioned(sources, shape)
    for source in sources if captioned else ():
        roles = {"image": captioned[source.name], "text": source.name}
        detections.append(Detection(source, "image_text", BESIDE, roles, 1.0, WHOLE.why, WHOLE))
    detections += [] if detections else _detect_all(sources, shape, columns, problems)
    shapes: dict[Shape | None, Detection] = {}
    for found in detections:
        shapes.setdefault(found.shape, found)
    if len(shapes) > 1:
        listed = "; ".join(f"{found.source.name} is {kind}" for kind, found in shapes.items())
        raise BadInput(f"files of different shapes: {listed}", remedy="read them apart, or say which shape is meant")
    for found in detections:
        problems.report("shape", found.source.name, describe(found))
    kind = detections[0].shape
    assert kind is not None
    if kind == "image_text":  # the files that were passed over are the pictures, which the records lead to
        problems.counts.pop("binary", None)
        problems.examples.pop("binary", None)
    return Reading(kind, detections, problems, advance, twins, captioned)


def _detect_all(
    sources: Sequence[Source], shape: Shape | None, columns: Mapping[str, str] | None, problems: Problems
) -> list[Detection]:
    """Detects every file. Where a shape or columns are asked for, files of another kind are left out, and reported.

    Raises:
        BadInput: A file is of no sure shape; or, where one was asked for, no file has it.
    """
    detections = []
    first: BadInput | None = None
    for source in sources:
        try:
            found = detect(source, shape=shape, columns=columns)
            if not found.sure:
                raise found.error()
        except BadInput as fault:
            if len(sources) == 1 or (shape is None and columns is None):
                raise
            first = first or fault
            problems.report("unsupported", source.name, f"left out: {fault.cause}")
        else:
            detections.append(found)
    if not detections and first is not None:
        raise first
    return detections


def describe(found: Detection) -> str:
    """Says in a line how a file was understood."""
    columns = ", ".join(f"{role} = {column}" for role, column in found.columns.items())
    notes = "".join(f"; {note}" for note in found.notes)
    return f"read as {found.shape} ({found.layout}{f': {columns}' if columns else ''}{notes})"


def _read_file(found: Detection, problems: Problems, archives: Archives, advance: Advance | None) -> Iterator[Placed]:
    source = found.source
    if found.shape == "text" and found.form.kind == "lines":
        for document in read_documents([source], problems, advance=advance):
            yield Placed(Text(document.text), document.source, document.line)
        return
    layout = layout_of(found)
    with open_source(source, archive=archives.of(source), advance=advance) as stream:
        for line, row in read_rows(source, stream, found.form, problems):
            for record in _records(layout, row, found, line, problems):
                yield Placed(record, source.name, line, row if isinstance(row, Mapping) else None)
    if found.form.kind == "parquet" and source.member is None and advance is not None:
        advance(source.size)  # it is not read through the stream, which would have counted


def layout_of(found: Detection) -> Layout:
    """Returns the layout by which a file was understood."""
    fitting = [layout for layout in LAYOUTS if layout.shape == found.shape]
    named = [layout for layout in fitting if layout.name == found.layout]
    return next(layout for layout in [*named, *fitting] if set(layout.required) <= set(found.columns))


def _records(layout: Layout, row: Row, found: Detection, line: int, problems: Problems) -> Iterator[Record]:
    source = found.source.name
    try:
        for built in layout.build(row, found.columns, found.context):
            if isinstance(built, Misfit):
                problems.report(built.kind, source, str(built), line=line)
            elif bad := next(filter(None, map(bad_character, texts_of(built))), None):
                what = "a NUL character" if bad[0] == "\0" else "half a surrogate pair"
                problems.report("undecodable", source, f"the record holds {what}; leave it out", line=line)
            else:
                yield built
    except Misfit as misfit:
        problems.report(misfit.kind, source, str(misfit), line=line)


def texts_of(value: object) -> Iterator[str]:
    """Yields every text in a record."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from texts_of(part)
    elif isinstance(value, Mapping):
        for part in itertools.chain(value, value.values()):
            yield from texts_of(part)
    elif fields := getattr(value, "__dataclass_fields__", None):
        for name in fields:
            yield from texts_of(getattr(value, name))
