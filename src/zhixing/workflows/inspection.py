"""The exact token stream of a recipe's first batches: what carries loss, where documents begin, what a template added.

The same code makes the batches that makes those of training, in a run folder that is thrown away. Of a large file only
the first records are encoded, unless all are asked for: then the batches are the very ones that training draws first.
What is shown in colour, on a terminal or as a page, is the command line's and `evaluation.pages`' work.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from zhixing.checkpoints.opening import configuration_of
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.recipe import Recipe
from zhixing.data.length_batches import LengthSampler, RawBatch
from zhixing.data.problems import Problems
from zhixing.data.shapes import Chat, Labelled, Pair
from zhixing.data.shapes.records import Misfit
from zhixing.evaluation.pages import render
from zhixing.models.loss import IGNORED
from zhixing.tokenization.chat_template import NONCHARACTERS
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.tokenization.view import running_pieces
from zhixing.training.kinds import MAKERS
from zhixing.training.objectives import RecordObjective, objective_named
from zhixing.training.objectives.base import TensorBatch
from zhixing.training.objectives.caption import CaptionBatch
from zhixing.training.objectives.chat import ChatTurns, conversation
from zhixing.training.objectives.pairs import PairBatch, PairObjective
from zhixing.training.resolve import resolve
from zhixing.training.run import Run
from zhixing.workflows.drawn import draw_pictures
from zhixing.workflows.examples import Records
from zhixing.workflows.prepare import prepare_shards, prepare_tokenizer, sampler_for
from zhixing.workflows.records_run import prepare_examples, prepare_start

LEARNED = "[learned]"
RECORDS = 1000
"""Records that are encoded, where nothing else is asked for and the batches do not need more."""

POOL = 8
"""Records for each one that is shown, at least: batches are drawn from many, of similar length."""

Marks = dict[tuple[int, ...], list[bool]]
"""For the tokens of a conversation, whether each is the template's."""


@dataclass(frozen=True)
class ShownToken:
    """One token as training sees it.

    Attributes:
        id: Its id.
        text: What it adds to the text; see `running_pieces`.
        wanted: It carries loss: the model learns to write it.
        template: The chat template wrote it, and no message.
    """

    id: int
    text: str
    wanted: bool
    template: bool


@dataclass(frozen=True)
class ShownDocument:
    """A document, or a part of one, in a row of a batch."""

    tokens: list[ShownToken]

    @property
    def wanted(self) -> int:
        """How many of its tokens carry loss."""
        return sum(token.wanted for token in self.tokens)


@dataclass
class ShownBatch:
    """A batch: rows of documents."""

    rows: list[list[ShownDocument]] = field(default_factory=list)

    @property
    def documents(self) -> list[ShownDocument]:
        """All documents of all rows."""
        return [document for row in self.rows for document in row]

    def facts(self) -> dict[str, int]:
        """Returns its counts."""
        return {
            "rows": len(self.rows),
            "documents": len(self.documents),
            "tokens": sum(len(document.tokens) for document in self.documents),
            "wanted": sum(document.wanted for document in self.documents),
            "template": sum(token.template for document in self.documents for token in document.tokens),
        }

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain data."""
        return {**self.facts(), "stream": [[asdict(document) for document in row] for row in self.rows]}


@dataclass(frozen=True)
class Inspection:
    """Batches of a recipe.

    Attributes:
        batches: The batches.
        records: They were drawn from so many records, the first ones; None: from all, as in training.
    """

    batches: list[ShownBatch]
    records: int | None = None

    @property
    def note(self) -> str:
        """Says what the batches were drawn from, where that is less than training reads; else nothing."""
        if self.records is None:
            return ""
        return f"Drawn from the first {self.records:,} records; the very batches of training need all: --records 0"


def inspect_recipe(recipe: Recipe, batches: int = 1, records: int | None = None) -> Inspection:
    """Makes the first batches of a recipe and takes them apart.

    Args:
        recipe: As it is given to training.
        batches: How many.
        records: Encode so many records, the first ones; 0: all, however long that takes. None: some thousand, enough
            for the batches. Running text is always read whole.

    Raises:
        BadInput: The recipe, or a record, is wrong; a batch has no token that carries loss; or what the objective
            learns is no token.
        MissingResource: Something is not there.
    """
    recipe = recipe.model_copy(deep=True)
    recipe.train.matmul = "torch"  # nothing is multiplied here: no library need be chosen by measuring
    resolved = resolve(recipe)
    kind = objective_named(resolved.train.objective)
    with tempfile.TemporaryDirectory(prefix="zhixing-inspect-") as place:
        run = Run.create(Path(place) / "run", resolved)
        try:
            if issubclass(kind, RecordObjective):
                if records is None:
                    records = max(RECORDS, POOL * batches * (resolved.train.batch_size or 1))
                chosen = Records(resolved, kind, records or None)
                found = Inspection(list(_record_batches(run, chosen, batches)), chosen.most if chosen.more else None)
            else:
                found = Inspection(list(_text_batches(run, batches)))
        finally:
            run.close()
    for number, batch in enumerate(found.batches, 1):
        if not batch.facts()["wanted"]:
            raise BadInput(
                f"batch {number} has no token that carries loss: nothing would be learned from it",
                where="data.paths",
                remedy="records need an answer of the assistant's that fits into model.context",
            )
    return found


def _text_batches(run: Run, count: int) -> Iterator[ShownBatch]:
    tokenizer = prepare_tokenizer(run)
    sampler = sampler_for(run.recipe, prepare_shards(run, tokenizer).train)
    end = tokenizer.end_of_text_id
    for _ in range(count):
        batch = TensorBatch.of(sampler.next(), torch.device("cpu"))
        segments = batch.segments
        if segments is None:  # documents are not told apart in training, but shown apart
            segments = torch.zeros_like(batch.tokens)
            segments[:, 1:] = (batch.tokens[:, :-1] == (-1 if end is None else end)).cumsum(1)
        yield _shown(batch.tokens, batch.targets, segments, tokenizer, {})


def _record_batches(run: Run, records: Records, count: int) -> Iterator[ShownBatch]:
    recipe, train, kind = run.recipe, run.recipe.train, records.objective
    start = prepare_start(run)
    draw_pictures(run)
    objective, tokenizer, examples = prepare_examples(run, records, MAKERS[kind.network], start)
    if recipe.tune.method == "prompt" and start is not None:
        first = configuration_of(start).vocab_size
        objective.prefix = list(range(first, first + recipe.tune.prompt_tokens))
    sampler = LengthSampler(examples.train, train.seed, batch_size=train.batch_size, batch_tokens=train.batch_tokens)
    for _ in range(count):
        raw = sampler.next()
        batch = objective.to_device(raw, torch.device("cpu"))
        if isinstance(batch, PairBatch | CaptionBatch):
            yield _written(batch, objective)
            continue
        parts = [getattr(batch, name, None) for name in ("tokens", "targets", "segments")]
        if not all(isinstance(part, torch.Tensor) and part.dim() == 2 for part in parts):
            raise BadInput(
                f"the objective {kind.name!r} does not learn to write tokens: there is no stream to show",
                where="train.objective",
                remedy="look at its records: zhixing data doctor PATHS",
            )
        marks = {}
        if isinstance(objective, ChatTurns):
            marks = template_marks(records, objective, raw)
        yield _shown(parts[0], parts[1], parts[2], tokenizer, marks, len(objective.prefix))


def _shown(tokens: Any, targets: Any, segments: Any, tokenizer: Tokenizer, marks: Marks, skip: int = 0) -> ShownBatch:
    """Takes a batch apart into documents; the last target of each is shown too, because it is learned."""
    shown = ShownBatch()
    for row in range(len(tokens)):
        begins = [0, *((segments[row, 1:] != segments[row, :-1]).nonzero()[:, 0] + 1).tolist(), tokens.shape[1]]
        documents = []
        for begin, end in itertools.pairwise(begins):
            ids, wanted = tokens[row, begin:end].tolist(), targets[row, begin:end].tolist()
            stream = [*ids, *([wanted[-1]] if wanted[-1] != IGNORED else [])]
            learned = [False, *(target != IGNORED for target in wanted)][: len(stream)]
            inside = marks.get(tuple(stream[skip:]))
            special = [token in tokenizer.special_ids for token in stream]
            template = special if inside is None else [*special[:skip], *inside]
            documents.append(ShownDocument(_tokens(stream, tokenizer, learned, template)))
        shown.rows.append(documents)
    return shown


def _tokens(stream: list[int], tokenizer: Tokenizer, wanted: list[bool], template: list[bool]) -> list[ShownToken]:
    known = [place for place, token in enumerate(stream) if token < tokenizer.vocab_size]
    texts = dict(zip(known, running_pieces(tokenizer, [stream[place] for place in known]), strict=True))
    return [
        ShownToken(token, texts.get(place, LEARNED), wanted[place], template[place])
        for place, token in enumerate(stream)
    ]


def _written(batch: PairBatch | CaptionBatch, objective: RecordObjective) -> ShownBatch:
    """Takes a batch apart whose targets are written behind what was read: a source, which is shown, or an image."""
    if isinstance(batch, PairBatch):
        assert isinstance(objective, PairObjective)
        reader, writer = objective.framing.tokenizer, objective.target_framing.tokenizer
        sources = [part.tolist() for part in batch.sources.split(batch.sources.tokens)]
        targets = [part.tolist() for part in batch.targets.split(batch.targets.tokens)]
    else:
        reader = writer = objective.tokenizer
        targets = [part.tolist() for part in batch.inputs.split(batch.targets)]
        sources = [[] for _ in targets]
    shown = ShownBatch()
    for source, target in zip(sources, targets, strict=True):
        around = [[token in kind.special_ids for token in side] for side, kind in ((source, reader), (target, writer))]
        read = _tokens(source, reader, [False] * len(source), around[0])
        shown.rows.append([ShownDocument([*read, *_tokens(target, writer, [True] * len(target), around[1])])])
    return shown


def template_marks(records: Records, objective: ChatTurns, raw: RawBatch) -> Marks:
    """Finds which tokens of a batch's conversations the chat template wrote.

    The content of every message is marked before it goes into the template; what comes out beside the marks is the
    template's, except for what the assistant learns to write (calls of tools), where only control tokens are.

    Returns:
        For the tokens of each conversation, whether each is the template's.
    """
    wanted = {tuple(example["tokens"].tolist()) for example in raw.examples}
    begin, end = NONCHARACTERS[0], NONCHARACTERS[1]
    found: Marks = {}
    for placed, held_out in records(Problems(), title="Finding what the template wrote"):
        if len(found) == len(wanted):
            break
        if held_out:
            continue
        try:
            encoded = objective.encode(cast(Chat, placed.record)).examples
        except (Misfit, ZhixingError):  # a wrong record was reported before, and is in no batch
            continue
        if not encoded or tuple(encoded[0]["tokens"].tolist()) not in wanted:
            continue
        key = tuple(encoded[0]["tokens"].tolist())
        if not isinstance(placed.record, Chat | Pair | Labelled):  # a plain text: no template has a part in it
            found[key] = [False] * len(key)
            continue
        messages, tools = conversation(placed.record)
        marked = [{**message, "content": _between(message["content"], begin, end)} for message in messages]
        text = objective.format.render(marked, tools=list(tools) or None)
        marks = _marks(objective.tokenizer, text, begin, end)
        if [token for token, _ in marks][: len(key)] == list(key):
            special, wanted_here = objective.tokenizer.special_ids, encoded[0]["wanted"].tolist()
            found[key] = [
                template and (not learned or token in special)
                for (token, template), learned in zip(marks, wanted_here, strict=False)
            ]
    return found


def _between(content: str, begin: str, end: str) -> str:
    """Puts marks around a text, inside of the blanks at its ends, which some templates trim."""
    core = content.strip()
    return content if not core else content.replace(core, f"{begin}{core}{end}", 1)


def _marks(tokenizer: Tokenizer, text: str, begin: str, end: str) -> list[tuple[int, bool]]:
    """Returns each token of a marked text, and whether it lies outside of all marks."""
    inside, plain, covered = 0, [], []
    for character in text:
        if character in (begin, end):
            inside += 1 if character == begin else -1
        else:
            plain.append(character)
            covered.append(inside > 0)
    tokens, offsets = tokenizer.encode_with_offsets("".join(plain), parse_special=True)
    return [
        (token, not any(covered[first:last])) for token, (first, last) in zip(tokens, offsets, strict=True)
    ]  # fmt: skip


def inspection_page(name: str, inspection: Inspection) -> str:
    """Returns a page that shows the batches in colour and loads nothing."""
    return render(
        "inspection.html", {"name": name, "language": "en", "batches": inspection.batches, "note": inspection.note}
    )
