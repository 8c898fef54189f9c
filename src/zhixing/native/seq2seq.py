"""An encoder-decoder on the C++ core: sources read without padding, their keys and values shared by all that read them.

How the answers are searched is not here: `generation` drives what `NativeEncoderDecoder.reading` returns like any other
network.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zhixing.core.progress import human_bytes
from zhixing.models.encoder_decoder import EncoderDecoder, check_rows
from zhixing.models.network import Cache, CausalNetwork
from zhixing.models.ragged import Ragged
from zhixing.models.transformer_seq2seq import TransformerEncoderDecoder, TransformerSeq2SeqConfig
from zhixing.native import library
from zhixing.native.network import NativeCache
from zhixing.native.plan import reach_of
from zhixing.native.runtime import PAGE, Batch, Ints, Pages, Runtime, Sources, whole_sequences
from zhixing.native.seq2seq_plan import reader_plan, writer_plan
from zhixing.native.weights import Packing

READ_TOKENS = 1024
"""Tokens of sources that one step reads at least; a source is read in one step."""

WRITTEN_ROWS = 256
"""Rows that one step writes."""


def why_not(model: EncoderDecoder) -> str | None:
    """Returns a sentence that says why a network cannot run on the core, or None when nothing is known against it."""
    if (missing := library.absence()) is not None:
        return missing
    if not isinstance(model, TransformerEncoderDecoder):
        return f"the native core has no plan for networks of the kind {type(model).__name__}"
    if model.device.type != "cpu":
        return f"the weights are on {model.device}; the native core computes on CPUs"
    return None


class NativeEncoderDecoder(EncoderDecoder):
    """Takes the place of a `TransformerEncoderDecoder` that writes; its weights are packed now, later changes not seen.

    Args:
        model: The network. It still computes what the core does not: losses, and texts longer than the core's tables.
        quantize: "q8" or "q4" to quantise its matrices; None keeps every value.
        kv_cache: How keys and values are kept; see `Runtime`.

    Raises:
        Unsupported: It has a feature that the core does not know.
        MissingResource: The core is not there, or memory is short.
    """

    own_threads = True

    def __init__(
        self, model: TransformerEncoderDecoder, quantize: str | None = None, kv_cache: str | None = None
    ) -> None:
        super().__init__()
        self.modules_of = model
        slots = Packing(quantize)
        reader = reader_plan(model, slots)
        writer = writer_plan(model.decoder, reader, slots)
        slots.check()
        self.kinds = {slot.kind for plan in (reader, writer) for slot in plan.matrices}
        self.read_reach, self.write_reach = reach_of(model.config.encoder), reach_of(model.config.decoder)
        self.reader = Runtime(reader, max(READ_TOKENS, self.read_reach), kv_cache)
        self.writer = Runtime(writer, WRITTEN_ROWS, kv_cache)
        self.train(model.training)

    def describe(self) -> str:
        """Returns what it computes with, in a few words."""
        kinds = "+".join(sorted(kind.label for kind in self.kinds))
        size = human_bytes(self.reader.weight_bytes + self.writer.weight_bytes)
        kept = f"{self.writer.kv_cache} cache, {human_bytes(self.writer.page_bytes / PAGE)} a token"
        return f"{library.kernels()} kernels, {library.threads()} threads, {size} of weights ({kinds}), {kept}"

    @property
    def config(self) -> TransformerSeq2SeqConfig:
        """What the network was built from."""
        return self.modules_of.config

    @property
    def output_matrix(self) -> Tensor:
        """See `EncoderDecoder`."""
        return self.modules_of.output_matrix

    @property
    def output_bias(self) -> Tensor | None:
        """See `EncoderDecoder`."""
        return self.modules_of.output_bias

    def hidden_states(self, sources: Ragged, inputs: Ragged) -> Tensor:
        """See `EncoderDecoder`; PyTorch computes it."""
        return self.modules_of.hidden_states(sources, inputs)

    def reading(self, sources: Ragged) -> CausalNetwork:
        """See `EncoderDecoder`."""
        if max(sources.lengths) > self.read_reach:
            return self.modules_of.reading(sources)
        return NativeReading(self, sources)

    def read(self, sources: Ragged) -> Sources:
        """Reads sources, of which none is longer than `read_reach`; returns what the decoder looks at."""
        tokens = sources.tokens.to(torch.int32).numpy()
        lengths = np.array(sources.lengths)
        needed = -(-lengths // PAGE)
        pages = Pages(self.reader, int(needed.sum()))
        table = np.zeros((len(lengths), int(needed.max())), np.int32)
        nothing = np.empty(0, np.int32)
        first = begin = page = 0
        while begin < len(lengths):
            end, last = begin + 1, first + int(lengths[begin])
            while end < len(lengths) and last + lengths[end] - first <= self.reader.step_tokens:
                last += int(lengths[end])
                end += 1
            self.reader.reach(int(lengths[begin:end].max()))
            batch = whole_sequences(tokens[first:last], lengths[begin:end], nothing, page)
            self.reader.step(batch, pages)
            table[begin:end, : batch.pages.shape[1]] = batch.pages
            page += int(needed[begin:end].sum())
            first, begin = last, end
        return Sources(pages, table, lengths.astype(np.int32))


class ReadingCache(NativeCache):
    """The cache of targets, and which source each of them reads."""

    def __init__(self, runtime: Runtime, batch: int, capacity: int) -> None:
        super().__init__(runtime, batch, capacity, None)
        self.owners = list(range(batch))

    def extend_all(self) -> None:
        """Makes room for one more token of every sequence, in pages that nobody else reads."""
        begun = [table for table, length in zip(self.tables, self.lengths, strict=True) if length % PAGE]
        for table, page in zip(begun, self.pages.writable_all([table[-1] for table in begun]), strict=True):
            table[-1] = page
        for table, length in zip(self.tables, self.lengths, strict=True):
            if length % PAGE == 0:
                table.append(self.pages.take())
        self.lengths = [length + 1 for length in self.lengths]

    def repeat(self, times: int) -> None:
        """Copies every sequence `times` times, side by side; their full pages are shared."""
        super().repeat(times)
        self.owners = [owner for owner in self.owners for _ in range(times)]

    def keep(self, rows: Tensor) -> None:
        """Keeps only the given sequences, in the given order: rows (n) of indices."""
        super().keep(rows)
        self.owners = [self.owners[row] for row in rows.tolist()]


class NativeReading(CausalNetwork):
    """The decoder that has read its sources; see `models.transformer_seq2seq.ReadingDecoder`.

    Args:
        model: The whole network.
        sources: What it reads, now.
    """

    own_threads = True

    def __init__(self, model: NativeEncoderDecoder, sources: Ragged) -> None:
        super().__init__()
        self._model, self._tokens = model, sources
        self._sources = model.read(sources)
        self._fallback: CausalNetwork | None = None

    @property
    def config(self) -> TransformerSeq2SeqConfig:
        """The whole network's."""
        return self._model.config

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def new_cache(self, batch: int, capacity: int, padding: Tensor | None = None) -> Cache:
        """Makes the cache of the rows' beginnings, one for each source."""
        check_rows(len(self._sources.lengths), batch, padding)
        if capacity > self._model.write_reach:
            self._fallback = self._model.modules_of.reading(self._tokens)
            return self._fallback.new_cache(batch, capacity, padding)
        self._model.writer.reach(capacity)
        return ReadingCache(self._model.writer, batch, capacity)

    def next_logits(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Reads tokens, (rows, time), behind those in the cache; returns the logits of the next, (rows, vocab)."""
        if not isinstance(cache, ReadingCache):
            assert self._fallback is not None
            return self._fallback.next_logits(tokens, cache)
        logits = torch.empty(0)
        for column in tokens.to(torch.int32).T.contiguous().numpy():
            logits = self._read(column, cache)
        return logits

    def _read(self, tokens: Ints, cache: ReadingCache) -> Tensor:
        """Runs one new token of every row, (rows); returns (rows, vocab)."""
        writer = self._model.writer
        positions = np.array(cache.lengths, np.int32)
        cache.extend_all()
        table, owners = cache.table(), np.array(cache.owners, np.int32)
        out = np.empty((len(tokens), writer.output_width), np.float32)
        for first in range(0, len(tokens), writer.step_tokens):
            part = slice(first, first + writer.step_tokens)
            rows = np.arange(len(tokens[part]), dtype=np.int32)
            batch = Batch(tokens[part], rows, positions[part], table[part], rows)
            writer.step_reading(batch, cache.pages, self._sources, owners[part], out[part])
        return torch.from_numpy(out)
