"""Validation during training: the same fixed part of the held-out tokens each time, so that figures compare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from zhixing.core.errors import BadInput
from zhixing.data.batches import gather
from zhixing.data.shards import TokenStore
from zhixing.models.loss import IGNORED
from zhixing.models.network import CausalNetwork

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class ValidationScore:
    """What was measured: mean loss in nats per token, its perplexity, and bits per byte of the text."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int


class Validation:
    """Non-overlapping blocks of the held-out tokens, spread evenly when there are more than may be measured.

    Args:
        store: The held-out tokens.
        block: Tokens per block.
        most: Most tokens to measure.
        within_documents: Whether attention stays within documents.
    """

    def __init__(self, store: TokenStore, block: int, most: int, within_documents: bool = False) -> None:
        if len(store) < 2:
            raise BadInput(
                f"the held-out part has {len(store)} tokens; there is nothing to measure",
                where="data.validation_fraction",
                remedy="raise data.validation_fraction, or add more text",
            )
        self.store, self.within_documents = store, within_documents
        self.block = min(block, len(store) - 1)
        available = (len(store) - 1) // self.block
        count = max(1, min(available, most // self.block))
        self.starts = (np.arange(count) * available // count * self.block).astype(np.int64)
        self.bytes_per_token = store.byte_count / len(store)

    def measure(self, model: CausalNetwork, device: torch.device) -> ValidationScore:
        """Measures a model (put into evaluation mode for the time)."""
        was_training = model.training
        model.eval()
        total, tokens = 0.0, 0
        rows = max(1, TOKENS_AT_ONCE // self.block)
        for begin in range(0, len(self.starts), rows):
            batch = gather(self.store, self.starts[begin : begin + rows], self.block, self.within_documents)
            targets = torch.from_numpy(batch.targets).to(device)
            segments = None if batch.segments is None else torch.from_numpy(batch.segments).to(device)
            losses = model.losses(torch.from_numpy(batch.tokens).to(device), targets, segments)
            total += float(losses.double().sum())
            tokens += int((targets != IGNORED).sum())
        model.train(was_training)
        loss = total / tokens
        return ValidationScore(
            loss=loss,
            perplexity=math.exp(min(loss, 700.0)),
            bits_per_byte=loss / math.log(2) / self.bytes_per_token if self.bytes_per_token else math.nan,
            tokens=tokens,
        )
