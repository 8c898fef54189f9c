"""Each task as one call: opens the model, works on one text or several, and returns typed results.

    import zhixing
    zhixing.classify("a wonderful film", labels=["positive", "negative"]).label

For many calls keep the task's object (`zhixing.tasks.classify.Classify` and so on), which opens its model once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from zhixing.tasks.base import Row, Task, check_text, run_all
from zhixing.tasks.classify import Classification, Classify
from zhixing.tasks.describe import Description, open_describer
from zhixing.tasks.embed import DEFAULT_EMBEDDER, open_embedder
from zhixing.tasks.find import Find
from zhixing.tasks.search.index import Hit

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = str | Path | bytes | Image

Texts = str | Sequence[str]


def _called(task: Task, texts: Texts | Row | Sequence[Row]) -> Any:
    """Runs a task on one text or row, for one result, or on several, for a list."""
    alone = isinstance(texts, str | dict)
    several: Any = [texts] if alone else texts
    rows = [{task.columns[0].name: one} if isinstance(one, str) else one for one in several]
    results = run_all(task, rows)
    return results[0] if alone else results


def embed(texts: Texts, model: str | Path = DEFAULT_EMBEDDER) -> NDArray[np.float32]:
    """Returns the vector of a text, (width), or of several, (texts, width); see `tasks.embed`."""
    several = [texts] if isinstance(texts, str) else list(texts)
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
