"""Bits per byte and perplexity of a language model on text, with sliding windows.

Every token of a document is predicted exactly once. The first window predicts all of its tokens; each later one moves
on by `stride` and predicts only the tokens that are new, so that they have at least `window - stride` tokens before
them. What is not here: reading files (`zhixing.data`), the yardsticks beside a figure (`yardsticks`), and the quick
validation on fixed blocks that training does.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from zhixing.core.errors import BadInput
from zhixing.core.progress import human_bytes, progress_bar
from zhixing.data.cutting import cut_text
from zhixing.data.documents import Document
from zhixing.evaluation.metrics.base import FloatArray
from zhixing.evaluation.metrics.language import from_sums
from zhixing.evaluation.metrics.resampling import with_interval
from zhixing.evaluation.windows import BATCH_TOKENS, TokenDocument, Window, batches, cut_document
from zhixing.models.loss import IGNORED
from zhixing.models.network import UNBOUNDED, CausalNetwork
from zhixing.tokenization.tokenizer import Tokenizer

__all__ = ["LanguageModelScore", "TokenDocument", "evaluate_by_source", "evaluate_text", "evaluate_tokens"]

ENCODE_CHARACTERS = 1 << 20
"""Texts are encoded in groups of about this many characters; a longer text is cut after a blank line for encoding."""

UNBOUNDED_WINDOW = 1024
"""The window for networks without a longest input."""

PADDING = 0
"""Any token will do: what stands behind a window cannot reach what comes before it, and is never scored."""


@dataclass(frozen=True)
class LanguageModelScore:
    """How well a model predicts a text.

    Attributes:
        bits_per_byte: Cross-entropy in bits over the bytes of the scored text in UTF-8: compares across tokenizers.
        perplexity: exp(loss): compares only between models with the same tokenizer.
        loss: Mean cross-entropy in nats per scored token.
        tokens: Tokens scored.
        bytes: UTF-8 bytes of the text that these tokens spell.
        documents: Documents that hold at least one scored token.
        window: Longest input, in tokens.
        stride: Tokens by which a window moves on.
        tokenizer: Fingerprint of the tokenizer that the perplexity belongs to.
        unscored_tokens: First tokens that nothing comes before (only without an end-of-text or begin token).
        unscored_bytes: Their bytes, which `bytes` does not count.
        unknown_tokens: Scored tokens that stand for text the vocabulary cannot spell: they make bits per byte too low.
        notes: What a reader of these figures has to know, in sentences.
        bits_per_byte_interval: 95 % bootstrap interval over documents; None for a single one.
        perplexity_interval: Likewise.
    """

    bits_per_byte: float
    perplexity: float
    loss: float
    tokens: int
    bytes: int
    documents: int
    window: int
    stride: int
    tokenizer: str
    unscored_tokens: int = 0
    unscored_bytes: int = 0
    unknown_tokens: int = 0
    notes: tuple[str, ...] = field(default=())
    bits_per_byte_interval: tuple[float, float] | None = None
    perplexity_interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the score as plain data; a perplexity too large for a float is null."""
        values = asdict(self)
        values["perplexity"] = self.perplexity if math.isfinite(self.perplexity) else None
        values["notes"] = list(self.notes)
        for name in ("bits_per_byte_interval", "perplexity_interval"):
            ends = values[name]
            values[name] = list(ends) if ends and all(map(math.isfinite, ends)) else None
        return values


def evaluate_text(
    model: CausalNetwork,
    tokenizer: Tokenizer,
    texts: Iterable[str | Document],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    total_bytes: int | None = None,
) -> LanguageModelScore:
    """Measures a model on texts, each one a document that is predicted on its own.

    Where the tokenizer has a begin or end-of-text token, the first token of a document is predicted from it, as in
    training; else the first token is left out, and said. The end of a document is not predicted.

    Args:
        model: The network; its weights decide the device.
        tokenizer: Its tokenizer.
        texts: The documents, read once and in order. A text of more than a million characters is encoded in parts
            that end at blank lines.
        window: Longest input in tokens; the model's context when not given.
        stride: Tokens by which a window moves on, from 1 to `window`; half the window when not given.
        batch_tokens: Positions in one forward pass; changes speed and memory only.
        total_bytes: The size of all texts, when known, for the progress bar.

    Raises:
        BadInput: A setting cannot be, the tokenizer is not the model's, or there is nothing to score.
    """
    return evaluate_by_source(
        model, tokenizer, texts, window=window, stride=stride, batch_tokens=batch_tokens, total_bytes=total_bytes
    )[0]


def evaluate_by_source(
    model: CausalNetwork,
    tokenizer: Tokenizer,
    texts: Iterable[str | Document],
    *,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    total_bytes: int | None = None,
) -> tuple[LanguageModelScore, dict[str, LanguageModelScore]]:
    """Like `evaluate_text`, and also returns the score of each source that has one, in the order they were met."""
    if tokenizer.vocab_size > model.config.vocab_size:
        raise BadInput(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {model.config.vocab_size}",
            remedy="use the tokenizer that the model was trained with",
        )
    start = tokenizer.begin_id if tokenizer.begin_id is not None else tokenizer.end_of_text_id
    if total_bytes is None and isinstance(texts, Sequence):
        total_bytes = sum(len(_text(text).encode("utf-8")) for text in texts)
    return evaluate_tokens(
        model,
        encode_documents(tokenizer, texts),
        start=start,
        window=window,
        stride=stride,
        batch_tokens=batch_tokens,
        total_bytes=total_bytes,
        fingerprint=tokenizer.fingerprint,
        unknown=tokenizer.unknown_id,
        notes=_tokenizer_notes(tokenizer),
    )


def evaluate_tokens(
    model: CausalNetwork,
    documents: Iterable[TokenDocument],
    *,
    start: int | None,
    window: int | None = None,
    stride: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    total_bytes: int | None = None,
    fingerprint: str = "",
    unknown: int | None = None,
    notes: Sequence[str] = (),
) -> tuple[LanguageModelScore, dict[str, LanguageModelScore]]:
    """Measures a model on encoded documents, such as the validation part of token shards.

    Args:
        model: The network.
        documents: The documents; a stream without boundaries is one document.
        start: The token that the first token of a document is predicted from; None leaves the first token out.
        window: As in `evaluate_text`.
        stride: As in `evaluate_text`.
        batch_tokens: As in `evaluate_text`.
        total_bytes: As in `evaluate_text`.
        fingerprint: Fingerprint of the tokenizer, for the record.
        unknown: The token for what the vocabulary cannot spell, to count.
        notes: More sentences for the score.

    Returns:
        The score of all documents together, and the score of each source.

    Raises:
        BadInput: A setting cannot be, there is nothing to score, or the model's predictions are not numbers.
    """
    window, stride = check_window(model, window, stride)
    tallies: dict[str, _Tally] = {}
    each = _EachDocument()
    was_training = model.training
    model.eval()
    try:
        with progress_bar("measuring", total_bytes) as bar:
            cut = _cut(documents, tallies, each, start, window, stride, unknown)
            nats, tokens = 0.0, 0
            for windows in batches(cut, batch_tokens):
                new_nats, new_tokens = _score(model, windows, tallies, each)
                nats, tokens = nats + new_nats, tokens + new_tokens
                share = sum(window.share for window in windows)
                bar.advance(share, f"{tokens} tokens, {nats / tokens:.3f} nats each")
    finally:
        model.train(was_training)
    whole = _Tally()
    for tally in tallies.values():
        whole.add(tally)
    if not whole.tokens or not whole.bytes:
        raise BadInput(
            "there is no token to score: the text is empty, or one token long with no end-of-text token before it",
            remedy="give a longer text",
        )
    fixed = (window, stride, fingerprint, tuple(notes))
    scores = {name: tally.result(*fixed) for name, tally in tallies.items() if tally.tokens}
    bits, perplexity = each.intervals()
    total = replace(whole.result(*fixed), bits_per_byte_interval=bits, perplexity_interval=perplexity)
    return total, scores


def encode_documents(tokenizer: Tokenizer, texts: Iterable[str | Document]) -> Iterator[TokenDocument]:
    """Encodes texts in groups, on all cores, holding about a million characters at a time."""
    group: list[tuple[str, str]] = []
    size = 0
    for item in texts:
        text, source = _text(item), item.source if isinstance(item, Document) else ""
        if size + len(text) > ENCODE_CHARACTERS and group:
            yield from _encode_group(tokenizer, group)
            group, size = [], 0
        group.append((text, source))
        size += len(text)
    if group:
        yield from _encode_group(tokenizer, group)


def _text(item: str | Document) -> str:
    return item if isinstance(item, str) else item.text


def _encode_group(tokenizer: Tokenizer, group: list[tuple[str, str]]) -> Iterator[TokenDocument]:
    if len(group) == 1 and len(group[0][0]) > ENCODE_CHARACTERS:
        text, source = group[0]
        parts = [np.asarray(tokenizer.encode(part), dtype=np.int32) for part in cut_text([text])]
        encoded = [np.concatenate(parts)]
    else:
        encoded = [np.asarray(ids, dtype=np.int32) for ids in tokenizer.encode_batch([text for text, _ in group])]
    for (text, source), tokens in zip(group, encoded, strict=True):
        first = _first_bytes(tokenizer, int(tokens[0])) if len(tokens) else 0
        yield TokenDocument(tokens, len(text.encode("utf-8")), source, first)


def _first_bytes(tokenizer: Tokenizer, token: int) -> int:
    """Returns the bytes that a token spells at the beginning of a text, also when they are part of a character."""
    text = tokenizer.decode([token])
    return len(tokenizer.token_bytes(token)) if "\ufffd" in text else len(text.encode("utf-8"))


def _tokenizer_notes(tokenizer: Tokenizer) -> list[str]:
    if tokenizer.kind == "wordpiece":
        return ["a WordPiece tokenizer does not keep all spacing, so bits per byte is lower than for a whole text"]
    if tokenizer.kind == "word":
        return ["a tokenizer of words does not keep the spacing, so bits per byte is lower than for a whole text"]
    return []


def check_window(model: CausalNetwork, window: int | None, stride: int | None) -> tuple[int, int]:
    """Returns window and stride, with the defaults where they are not given.

    Raises:
        BadInput: One of them cannot be with this model.
    """
    context = model.config.context
    if window is None:
        window = UNBOUNDED_WINDOW if context == UNBOUNDED else context
    if not 1 <= window <= context:
        raise BadInput(
            f"the window is {window} tokens, but must be from 1 to the model's context of {context}",
            where="--window",
            remedy=f"--window {context}",
        )
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= stride <= window:
        raise BadInput(
            f"the stride is {stride} tokens, but must be from 1 to the window of {window}",
            where="--stride",
            remedy=f"--stride {max(1, window // 2)}",
        )
    return window, stride


@dataclass
class _Tally:
    """Running sums of one source."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    documents: int = 0
    unscored_tokens: int = 0
    unscored_bytes: int = 0
    unknown_tokens: int = 0

    def add(self, other: _Tally) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def result(self, window: int, stride: int, fingerprint: str, notes: tuple[str, ...]) -> LanguageModelScore:
        loss = self.nats / self.tokens
        try:
            perplexity = math.exp(loss)
        except OverflowError:
            perplexity = math.inf
        if self.unscored_tokens:
            notes += (
                f"the first token of {self.unscored_tokens} document(s) has nothing before it and is not scored "
                f"({human_bytes(self.unscored_bytes)} left out)",
            )
        if self.unknown_tokens:
            notes += (
                f"{self.unknown_tokens} token(s) stand for text that the vocabulary cannot spell, "
                "so bits per byte is lower than for the whole text",
            )
        return LanguageModelScore(
            bits_per_byte=self.nats / math.log(2) / self.bytes if self.bytes else math.inf,
            perplexity=perplexity,
            loss=loss,
            tokens=self.tokens,
            bytes=self.bytes,
            documents=self.documents,
            window=window,
            stride=stride,
            tokenizer=fingerprint,
            unscored_tokens=self.unscored_tokens,
            unscored_bytes=self.unscored_bytes,
            unknown_tokens=self.unknown_tokens,
            notes=notes,
        )


class _EachDocument:
    """Running sums of every document, for the intervals."""

    def __init__(self) -> None:
        self._nats, self._tokens, self._bytes = array("d"), array("d"), array("d")

    def begin(self, size: int) -> int:
        """Starts a document of so many bytes; returns its number."""
        self._bytes.append(size)
        self._nats.append(0.0)
        self._tokens.append(0.0)
        return len(self._bytes) - 1

    def add(self, number: int, nats: float, tokens: int) -> None:
        """Adds what one window of a document gave."""
        self._nats[number] += nats
        self._tokens[number] += tokens

    def intervals(self) -> list[tuple[float, float] | None]:
        """Returns the intervals of bits per byte and of perplexity; None where there are none."""
        rows = np.stack([self._nats, self._tokens, self._bytes], axis=1)
        rows = rows[(rows[:, 1] > 0) & (rows[:, 2] > 0)]
        if len(rows) < 2:
            return [None, None]
        intervals = [with_interval(score).interval for score in from_sums(rows.tolist())]
        return [(interval.low, interval.high) if interval else None for interval in intervals]


def _cut(
    documents: Iterable[TokenDocument],
    tallies: dict[str, _Tally],
    each: _EachDocument,
    start: int | None,
    window: int,
    stride: int,
    unknown: int | None,
) -> Iterator[Window]:
    """Cuts all documents into windows, and counts what there is to score and what is left out."""
    for document in documents:
        tally = tallies.setdefault(document.source, _Tally())
        length = len(document.tokens)
        if not length:
            continue
        tally.bytes += document.bytes
        tally.documents += start is not None or length > 1
        if start is None:
            left_out = min(document.first_bytes, document.bytes) if length > 1 else document.bytes
            tally.unscored_tokens += 1
            tally.unscored_bytes += left_out
            tally.bytes -= left_out
        else:
            left_out = 0
        for piece in cut_document(document, start, window, stride, each.begin(document.bytes - left_out)):
            if unknown is not None:
                tally.unknown_tokens += int((piece.targets[piece.skip :] == unknown).sum())
            yield piece


@torch.inference_mode()
def window_losses(model: CausalNetwork, windows: Sequence[Window]) -> FloatArray:
    """Runs one batch of windows, longest first; returns the nats of every scored target, (targets), window by window.

    Raises:
        BadInput: The model's predictions are not numbers.
    """
    device = model.device
    longest = len(windows[0].inputs)
    inputs = np.full((len(windows), longest), PADDING, dtype=np.int64)
    targets = np.full((len(windows), longest), IGNORED, dtype=np.int64)
    for row, window in enumerate(windows):
        inputs[row, : len(window.inputs)] = window.inputs
        targets[row, window.skip : len(window.inputs)] = window.targets[window.skip :]
    every = model.losses(torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device))  # (batch, time)
    losses = every[torch.from_numpy(targets != IGNORED).to(device)]  # (scored), window by window
    if not bool(torch.isfinite(losses).all()):
        raise BadInput(
            "the model's predictions are not numbers (NaN or infinity)",
            remedy="its weights are damaged or its training diverged: use an earlier checkpoint",
        )
    values: FloatArray = losses.double().cpu().numpy()
    return values


def _score(
    model: CausalNetwork, windows: list[Window], tallies: dict[str, _Tally], each: _EachDocument
) -> tuple[float, int]:
    """Runs one batch; returns its summed loss in nats and the number of tokens scored."""
    losses = window_losses(model, windows)
    counts = [len(window.inputs) - window.skip for window in windows]
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(losses, starts).tolist()
    for window, count, nats in zip(windows, counts, sums, strict=True):
        tally = tallies[window.source]
        tally.nats += nats
        tally.tokens += count
        each.add(window.document, nats, count)

    return sum(sums), sum(counts)
