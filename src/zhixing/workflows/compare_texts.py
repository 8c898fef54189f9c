"""Two language models on the same text, stretch by stretch, by the paired tests: `zhixing eval A B DATA`."""

from __future__ import annotations

from collections.abc import Sequence

from zhixing.checkpoints.opening import open_model
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.data.problems import Problems
from zhixing.data.readers import read_documents
from zhixing.data.sources import find_sources
from zhixing.evaluation.language_modelling import check_window, encode_documents
from zhixing.evaluation.metrics.base import Score
from zhixing.evaluation.metrics.language import from_sums
from zhixing.evaluation.metrics.significance import Comparison, compare_scores
from zhixing.evaluation.stretches import stretch_for, stretch_sums
from zhixing.models import ops
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer


def compare_language_models(
    models: Sequence[str],
    data: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    field: str | None = None,
) -> Comparison:
    """Compares two language models by bits per byte, whatever their tokenizers.

    Args:
        models: Two references.
        data: Files, folders and globs of text.
        window: Longest input in tokens; each model's context when not given.
        stride: Tokens by which a window moves on.
        field: The column or key of records that holds the text.

    Raises:
        BadInput: The text is too short, or the models do not have the same stretches.
        MissingResource: A file, a model or its tokenizer is not there.
    """
    for ref in models[1:]:  # what the second cannot do is said before the first is measured
        _open(ref, window, stride)
    texts = [
        document.text for document in read_documents(find_sources(list(data), Problems()), Problems(), field=field)
    ]
    stretch = stretch_for(sum(len(text.encode("utf-8")) for text in texts))
    first, second = (_score(ref, texts, window, stride, stretch) for ref in models)
    if first.n != second.n:
        raise BadInput(
            f"the models cut the text into {first.n:,} and {second.n:,} stretches: one has tokens that are too long",
            remedy="measure each on its own: zhixing eval MODEL DATA",
        )
    return compare_scores(first, second)


def _open(ref: str, window: int | None, stride: int | None) -> tuple[CausalNetwork, Tokenizer]:
    folder = resolve(ref)
    loaded = open_model(folder)
    if loaded.tokenizer is None:
        raise MissingResource(
            "the model has no tokenizer", where=str(folder), remedy="put its tokenizer.json beside it"
        )
    check_window(loaded.model, window, stride)
    return loaded.model, loaded.tokenizer


def _score(ref: str, texts: Sequence[str], window: int | None, stride: int | None, stretch: int) -> Score:
    model, tokenizer = _open(ref, window, stride)
    ops.select_matmul()
    start = tokenizer.begin_id if tokenizer.begin_id is not None else tokenizer.end_of_text_id
    documents = encode_documents(tokenizer, texts)
    sums = stretch_sums(model, tokenizer, documents, start=start, window=window, stride=stride, stretch=stretch)
    return from_sums(sums.tolist(), ("bits_per_byte",))[0]
