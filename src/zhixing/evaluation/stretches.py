"""Bits per byte of stretches of text: examples of which a running text has enough for intervals and paired tests.

A document is cut into stretches of about equal bytes, whatever the tokenizer, so that models with different ones are
measured on the same stretches. Every token is still predicted from all that comes before it: only the sums are kept
apart. A token belongs to the stretch in which its bytes begin.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from zhixing.evaluation.language_modelling import check_window, window_losses
from zhixing.evaluation.metrics.base import FloatArray
from zhixing.evaluation.windows import BATCH_TOKENS, TokenDocument, Window, batches, cut_document
from zhixing.models.network import CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer

LONGEST, SHORTEST, WANTED = 2048, 100, 30
"""Bytes of a stretch, at most and at least, and the number of stretches to have where the text is short."""


def stretch_for(size: int) -> int:
    """Returns how long the stretches of a text of so many bytes are to be."""
    return min(LONGEST, max(SHORTEST, size // WANTED))


def stretch_sums(
    model: CausalNetwork,
    tokenizer: Tokenizer,
    documents: Iterable[TokenDocument],
    *,
    start: int | None,
    window: int | None = None,
    stride: int | None = None,
    stretch: int = LONGEST,
) -> FloatArray:
    """Measures a model on documents, stretch by stretch.

    Args:
        model: The network.
        tokenizer: Its tokenizer.
        documents: The documents.
        start: The token that the first token of a document is predicted from; None leaves the first token out.
        window: As in `language_modelling.evaluate_text`.
        stride: Likewise.
        stretch: Bytes of a stretch, about.

    Returns:
        (nats, tokens, bytes) of each stretch that has a token, (stretches, 3), document by document. Two models have
        the same stretches of a text unless one has tokens longer than a stretch.

    Raises:
        BadInput: A setting cannot be, or the model's predictions are not numbers.
    """
    window, stride = check_window(model, window, stride)
    lengths = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)], dtype=np.float64)
    was_training = model.training
    model.eval()
    try:
        rows = [
            _document(model, document, lengths, start, window, stride, stretch)
            for document in documents
            if len(document.tokens) > (start is None)
        ]
    finally:
        model.train(was_training)
    return np.concatenate(rows) if rows else np.empty((0, 3))


def _document(
    model: CausalNetwork,
    document: TokenDocument,
    lengths: FloatArray,
    start: int | None,
    window: int,
    stride: int,
    stretch: int,
) -> FloatArray:
    losses = _losses(model, document, start, window, stride)
    tokens = np.asarray(document.tokens)
    sizes = lengths[tokens]
    # What the tokens spell may differ from the text by spacing (WordPiece) or specials: the sum is the text's.
    sizes *= document.bytes / max(sizes.sum(), 1.0)
    begins = np.cumsum(sizes) - sizes
    count = max(1, round(document.bytes / stretch))
    place = np.minimum((begins / max(document.bytes, 1) * count).astype(np.intp), count - 1)
    lead = len(tokens) - len(losses)  # the first token, where nothing comes before it
    columns = (losses, np.ones(len(losses)), sizes[lead:])
    rows = np.stack([np.bincount(place[lead:], column, count) for column in columns], axis=1)
    return np.asarray(rows[rows[:, 1] > 0], dtype=np.float64)


def _losses(model: CausalNetwork, document: TokenDocument, start: int | None, window: int, stride: int) -> FloatArray:
    """Returns the nats of every scored token of a document, in order."""
    pieces: list[Window] = []
    places: list[int] = []
    at = 0
    for piece in cut_document(document, start, window, stride):
        pieces.append(piece._replace(document=len(places)))
        places.append(at)
        at += len(piece.inputs) - piece.skip
    values = np.empty(at)
    for group in batches(pieces, BATCH_TOKENS):
        losses, read = window_losses(model, group), 0
        for piece in group:
            count = len(piece.inputs) - piece.skip
            values[places[piece.document] : places[piece.document] + count] = losses[read : read + count]
            read += count
    return values
