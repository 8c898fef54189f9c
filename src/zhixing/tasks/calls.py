"""Each task as one call: opens the model, works on one text or several, and returns typed results.

    import zhixing
    zhixing.classify("a wonderful film", labels=["positive", "negative"]).label

For many calls keep the task's object (`zhixing.tasks.classify.Classify` and so on), which opens its model once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput
from zhixing.tasks.answer import Answer, AnswerTask
from zhixing.tasks.base import Row, Task, check_text, run_all
from zhixing.tasks.classify import Classification, Classify
from zhixing.tasks.complete import Complete, Completion
from zhixing.tasks.describe import Description, open_describer
from zhixing.tasks.embed import DEFAULT_EMBEDDER, open_embedder
from zhixing.tasks.extract import Extract, Extracted
from zhixing.tasks.fill import Fill, Filling
from zhixing.tasks.find import Find
from zhixing.tasks.rewrite import Rewrite
from zhixing.tasks.search.index import Hit
from zhixing.tasks.summarize import Summarize
from zhixing.tasks.tag import Tag, Tagging
from zhixing.tasks.translate import Translate
from zhixing.tasks.writer import CHAT_MODEL

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | Path | bytes | Image

Texts = str | Sequence[str]


def _called(task: Task, texts: Texts | Row | Sequence[Row]) -> Any:
    """Runs a task on one text or row, for one result, or on several, for a list."""
    alone = isinstance(texts, str | dict)
    several: Any = [texts] if alone else listed(texts)
    rows = [{task.columns[0].name: one} if isinstance(one, str) else one for one in several]
    results = run_all(task, rows)
    return results[0] if alone else results


def listed(texts: Any) -> list[Any]:
    """Returns several texts, or rows of named texts, as a list.

    Raises:
        BadInput: They are none, such as bytes, None, or a list of numbers.
    """
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise BadInput(f"a text or a list of texts is expected, got {texts!r:.60}")
    several = list(texts)
    for number, one in enumerate(several, start=1):
        if not isinstance(one, str | Mapping):
            raise BadInput(f"a text is expected, got {one!r:.60}", where=f"{number} of {len(several)}")
    return several


def embed(texts: Texts, model: str | Path = DEFAULT_EMBEDDER) -> NDArray[np.float32]:
    """Returns the vector of a text, (width), or of several, (texts, width); see `tasks.embed`."""
    several = [texts] if isinstance(texts, str) else listed(texts)
    for text in several:
        check_text(text)
    vectors = open_embedder(model)(several).vectors
    return vectors[0] if isinstance(texts, str) else vectors


@overload
def classify(
    texts: str, model: str | Path = ..., labels: Sequence[str] | None = ..., **options: Any
) -> Classification: ...


@overload
def classify(
    texts: Sequence[str], model: str | Path = ..., labels: Sequence[str] | None = ..., **options: Any
) -> list[Classification]: ...


def classify(
    texts: Texts, model: str | Path = "minilm", labels: Sequence[str] | None = None, **options: Any
) -> Classification | list[Classification]:
    """Says which label texts have; see `tasks.classify.Classify` for the arguments."""
    found: Classification | list[Classification] = _called(Classify(model, labels, **options), texts)
    return found


@overload
def describe(  # type: ignore[overload-overlap] # a path is a sequence of texts, too
    images: Picture, model: str | Path, beams: int | None = ..., max_tokens: int | None = ...
) -> Description: ...


@overload
def describe(
    images: Sequence[Picture], model: str | Path, beams: int | None = ..., max_tokens: int | None = ...
) -> list[Description]: ...


def describe(
    images: Picture | Sequence[Picture],
    model: str | Path,
    beams: int | None = None,
    max_tokens: int | None = None,
) -> Description | list[Description]:
    """Describes an image (a path, its content, or Pillow's image), or several; see `tasks.describe.Describer`."""
    describer = open_describer(model, beams, max_tokens)
    alone = isinstance(images, str | bytes | Path) or not isinstance(images, Sequence)
    several: Any = [images] if alone else images
    found = describer([Path(image) if isinstance(image, str) else image for image in several])
    return found[0] if alone else found


def find(
    queries: str | Sequence[str], where: str | Path, model: str | Path | None = None, **options: Any
) -> tuple[Hit, ...] | list[tuple[Hit, ...]]:
    """Finds the passages of a folder, a file or an index that fit a query, or several; see `tasks.find.Find`.

    Returns:
        For one query its hits, best first; for several a list of those.
    """
    found = _called(Find(where, model, **options), queries)
    return found.hits if isinstance(queries, str) else [one.hits for one in found]


def tag(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> Tagging | list[Tagging]:
    """Finds names of people, places and the like, with their places; see `tasks.tag.Tag` for the options."""
    found: Tagging | list[Tagging] = _called(Tag(model, **options), texts)
    return found


def fill(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> Filling | list[Filling]:
    """Fills the gaps of a text, written as [MASK] or ____; see `tasks.fill.Fill` for the options."""
    found: Filling | list[Filling] = _called(Fill(model, **options), texts)
    return found


def extract(
    texts: Texts, schema: Mapping[str, Any] | str | Path, model: str | Path = CHAT_MODEL, **options: Any
) -> Extracted | list[Extracted]:
    """Extracts key information as JSON that fits a schema; see `tasks.extract.Extract` for the options."""
    found: Extracted | list[Extracted] = _called(Extract(schema, model, **options), texts)
    return found


def complete(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> Completion | list[Completion]:
    """Goes on with a text; see `tasks.complete.Complete` for the options."""
    found: Completion | list[Completion] = _called(Complete(model, **options), texts)
    return found


@overload
def translate(texts: str, model: str | Path = ..., **options: Any) -> str: ...


@overload
def translate(texts: Sequence[str], model: str | Path = ..., **options: Any) -> list[str]: ...


def translate(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> str | list[str]:
    """Translates texts; see `tasks.translate.Translate` for the options."""
    found = _called(Translate(model, **options), texts)
    return found.text if isinstance(texts, str) else [one.text for one in found]


@overload
def summarize(texts: str, model: str | Path = ..., **options: Any) -> str: ...


@overload
def summarize(texts: Sequence[str], model: str | Path = ..., **options: Any) -> list[str]: ...


def summarize(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> str | list[str]:
    """Summarises texts; see `tasks.summarize.Summarize` for the options."""
    found = _called(Summarize(model, **options), texts)
    return found.text if isinstance(texts, str) else [one.text for one in found]


@overload
def rewrite(texts: str, model: str | Path = ..., **options: Any) -> str: ...


@overload
def rewrite(texts: Sequence[str], model: str | Path = ..., **options: Any) -> list[str]: ...


def rewrite(texts: Texts, model: str | Path = CHAT_MODEL, **options: Any) -> str | list[str]:
    """Writes texts anew: corrected, shortened, in another style; see `tasks.rewrite.Rewrite` for the options."""
    found = _called(Rewrite(model, **options), texts)
    return found.text if isinstance(texts, str) else [one.text for one in found]


def answer(question: str, context: str, model: str | Path = CHAT_MODEL, **options: Any) -> Answer:
    """Answers a question from a text; see `tasks.answer.AnswerTask` for the options."""
    found: Answer = _called(AnswerTask(model, **options), {"question": question, "context": context})
    return found
