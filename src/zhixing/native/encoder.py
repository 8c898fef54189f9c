"""An encoder on the C++ core: sequences of any lengths side by side, and nothing computed for padding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from zhixing.core.errors import BadInput, MissingResource
from zhixing.models.config import TransformerConfig
from zhixing.models.encoder import Encoder
from zhixing.models.heads import EncoderModel
from zhixing.models.ragged import Ragged
from zhixing.native import library
from zhixing.native.choice import check_engine
from zhixing.native.encoder_plan import encoder_plan
from zhixing.native.plan import Unsupported, reach_of
from zhixing.native.runtime import Pages, Runtime, whole_sequences
from zhixing.native.weights import Packing

STEP_TOKENS = 1024
"""Tokens of a step at least; a sequence is read in one step."""


class NativeEncoder(nn.Module):
    """Takes the place of an `Encoder`, whose weights are packed now; later changes are not seen.

    Args:
        encoder: The encoder. It still computes what a plan does not express: texts of two segments.
        quantize: "q8" or "q4" to quantise its matrices; None keeps every value.

    Raises:
        Unsupported: It has a feature that the core does not know.
        MissingResource: The core is not there, or memory is short.
    """

    def __init__(self, encoder: Encoder, quantize: str | None = None) -> None:
        super().__init__()
        self.config: TransformerConfig = encoder.config
        self.modules_of = encoder
        slots = Packing(quantize)
        plan = encoder_plan(encoder, slots)
        slots.check()
        self._reach = reach_of(encoder.config)
        self._steps = max(STEP_TOKENS, self._reach)
        self._runtime = Runtime(plan, self._steps)
        self._pages = Pages(self._runtime, self._steps)

    def forward(self, batch: Ragged) -> Tensor:
        """Returns one vector per token, (total, width); see `Encoder.forward`."""
        if batch.types is not None or max(batch.lengths) > self._reach:
            return self.modules_of(batch)  # type: ignore[no-any-return]  # the latter says what is wrong, if anything
        tokens = batch.tokens.to(torch.int32).numpy()
        out = np.empty((len(tokens), self.config.width), np.float32)
        first = begin = 0
        while begin < len(batch.lengths):
            end, last = begin, first
            while end < len(batch.lengths) and last - first + batch.lengths[end] <= self._steps:
                last += batch.lengths[end]
                end += 1
            self._step(tokens[first:last], np.array(batch.lengths[begin:end]), out[first:last])
            first, begin = last, end
        return torch.from_numpy(out)

    def _step(
        self,
        tokens: np.ndarray[tuple[int], np.dtype[np.int32]],
        lengths: np.ndarray[tuple[int], np.dtype[np.int64]],
        out: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    ) -> None:
        wanted = np.arange(len(tokens), dtype=np.int32)
        self._runtime.step(whole_sequences(tokens, lengths, wanted), self._pages, out)


def put_on_core(model: EncoderModel, engine: str = "auto", quantize: str | None = None) -> str:
    """Lets the core compute an encoder where it can; returns a sentence that says what computes.

    Args:
        model: The encoder with its head, which PyTorch goes on computing. It is changed.
        engine: "auto", "native" (refuses to fall back) or "torch".
        quantize: "q8" or "q4" to quantise its matrices.

    Raises:
        BadInput: The engine was asked for, and cannot run this encoder.
        MissingResource: The core is not there, and was asked for.
    """
    check_engine(engine, quantize)
    if engine == "torch":
        return "computed by PyTorch, as asked"
    reason = library.absence()
    if reason is None and not isinstance(model.encoder, Encoder):
        reason = f"the native core has no plan for encoders of the kind {type(model.encoder).__name__}"
    if reason is None and next(model.parameters()).device.type != "cpu":
        reason = "its weights are not on the CPU"
    if reason is None:
        assert isinstance(model.encoder, Encoder)
        try:
            model.encoder = NativeEncoder(model.encoder, quantize)  # type: ignore[assignment]  # stands in for it
        except (Unsupported, MissingResource) as error:
            reason = str(error)
        else:
            return f"computed by the native core: {library.kernels()} kernels, {library.threads()} threads"
    if engine == "auto" and quantize is None:
        return f"computed by PyTorch: {reason}"
    if library.absence() is not None:
        raise MissingResource(reason, remedy=library.REMEDY)
    raise BadInput(f"the native engine cannot run this encoder: {reason}", remedy="leave out --quantize and --engine")
