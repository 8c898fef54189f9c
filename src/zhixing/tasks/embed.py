"""One vector per text, for search, clustering and comparison (Reimers & Gurevych 2019).

Texts are computed in groups of similar length and given back in the order they came; nothing is computed for padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from zhixing.checkpoints.encoder_folder import EncoderFolder, load_encoder
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.core.progress import progress_bar
from zhixing.models import ops
from zhixing.models.ragged import Ragged, batches_by_length

TOKENS_AT_ONCE = 2048
"""Tokens computed together: their vectors stay in the processor's cache, and products are large enough for its peak."""


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: (texts, width), float32.
        tokens: How many tokens were read.
        cut: The texts that were longer than the encoder reads, whose ends were left out.
    """

    vectors: NDArray[np.float32]
    tokens: int
    cut: tuple[int, ...] = ()


class Embedder:
    """Turns texts into vectors.

    Args:
        folder: An encoder that pools; see `open_embedder` for one by reference.

    Raises:
        BadInput: It does not pool.
        MissingResource: It has no tokenizer.
    """

    def __init__(self, folder: EncoderFolder) -> None:
        if folder.model.head_config.kind != "pool":
            raise BadInput(
                "this encoder does not say how its vectors become one per text (no modules.json)",
                where=str(folder.path),
                remedy="use a sentence-transformers model, such as minilm",
            )
        if folder.tokenizer is None:
            raise MissingResource("the encoder has no tokenizer", where=str(folder.path))
        self.model, self.tokenizer, self.longest = folder.model, folder.tokenizer, folder.longest

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.model.config.width

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Returns the token ids of texts, and which of them had to be cut to the longest that the encoder reads."""
        plain = self.tokenizer.encode_batch(texts)
        around = self.tokenizer.encode("", special=True)
        # What the tokenizer puts around a text: [CLS] before and [SEP] behind it.
        front, back = around[: len(around) // 2], around[len(around) // 2 :]
        room = self.longest - len(around)
        cut = [index for index, tokens in enumerate(plain) if len(tokens) > room]
        return [[*front, *tokens[:room], *back] for tokens in plain], cut

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str], *, progress: bool = False) -> Embeddings:
        """Embeds texts.

        Args:
            texts: Any texts; an empty one has the vector of its special tokens.
            progress: Show a bar.

        Returns:
            Their vectors in the same order, and which texts were cut.
        """
        if not texts:
            return Embeddings(np.zeros((0, self.width), np.float32), 0)
        sequences, cut = self.encode(texts)
        lengths = [len(tokens) for tokens in sequences]
        vectors = torch.empty(len(texts), self.width)
        groups = list(batches_by_length(lengths, TOKENS_AT_ONCE))
        with progress_bar("Embedding", sum(lengths) if progress else None) as bar:
            for group in groups:
                batch = Ragged.of([sequences[index] for index in group])
                vectors[torch.tensor(group)] = self.model(batch).float()
                if progress:
                    bar.advance(len(batch.tokens))
        return Embeddings(vectors.numpy(), sum(lengths), tuple(cut))


def open_embedder(ref: str | Path) -> Embedder:
    """Opens an encoder that pools by its reference (a path, `minilm`, `hf:org/name`).

    Raises:
        MissingResource: There is no such model.
        BadInput: It is damaged, or no such encoder.
    """
    embedder = Embedder(load_encoder(resolve(ref)))
    ops.select_matmul()
    return embedder
