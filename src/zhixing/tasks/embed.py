"""One vector per text, for search, clustering and comparison (Reimers & Gurevych 2019).

Texts are computed in groups of similar length and given back in the order they came; nothing is computed for padding.
A text that is longer than the encoder reads is read in windows, whose vectors are averaged by their tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.encoder_folder import EncoderFolder
from zhixing.core.errors import BadInput
from zhixing.core.progress import progress_bar
from zhixing.models.ragged import Ragged
from zhixing.tasks.base import TEXT, Row
from zhixing.tasks.encoders import EncoderRunner, open_folder

DEFAULT_EMBEDDER = "minilm"


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: (texts, width), float32.
        tokens: How many tokens were read.
        windows: In how many windows each text was read; the vectors of several were averaged.
    """

    vectors: NDArray[np.float32]
    tokens: int
    windows: tuple[int, ...] = ()


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
        self.runner = EncoderRunner(folder, "pool", "embed")
        self.normalised = folder.model.head_config.normalise

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return self.runner.model.config.width

    @cached_property
    def fingerprint(self) -> str:
        """The hash of the encoder's content: vectors of two encoders with the same one compare."""
        return self.runner.fingerprint()

    def __call__(self, texts: Sequence[str], *, progress: bool = False) -> Embeddings:
        """Embeds texts.

        Args:
            texts: Any texts; an empty one has the vector of its special tokens.
            progress: Show a bar.

        Returns:
            Their vectors in the same order, and in how many windows each text was read.
        """
        if not texts:
            return Embeddings(np.zeros((0, self.width), np.float32), 0)
        encoded = self.runner.encode(texts)
        windows = self.runner.windows(encoded)
        sequences = [self.runner.framed(encoded[one.owner][one.begin : one.end]) for one in windows]
        parts = torch.empty(len(windows), self.width)
        total = sum(map(len, sequences))
        with progress_bar("Embedding", total if progress else None) as bar:

            def take(group: list[int], vectors: Tensor, batch: Ragged) -> None:
                parts[torch.tensor(group)] = vectors.cpu()
                if progress:
                    bar.advance(len(batch.tokens))

            self.runner.forward(sequences, take)
        if len(windows) == len(texts):
            return Embeddings(parts.numpy(), total, (1,) * len(texts))
        owners = torch.tensor([one.owner for one in windows])
        weights = torch.tensor([float(one.end - one.begin or 1) for one in windows])
        sums = torch.zeros(len(texts), self.width).index_add_(0, owners, parts * weights[:, None])
        vectors = sums / torch.zeros(len(texts)).index_add_(0, owners, weights)[:, None]
        counts = torch.bincount(owners, minlength=len(texts))
        several = counts > 1
        vectors[~several] = parts[torch.isin(owners, torch.nonzero(~several)[:, 0])]  # a single window stays as it is
        if self.normalised:
            vectors[several] = F.normalize(vectors[several], dim=1)
        return Embeddings(vectors.numpy(), total, tuple(counts.tolist()))


def open_embedder(ref: str | Path = DEFAULT_EMBEDDER, *, engine: str = "auto", quantize: str | None = None) -> Embedder:
    """Opens an encoder that pools by its reference (a path, `minilm`, `hf:org/name`).

    Args:
        ref: The reference.
        engine: What computes: "native", the C++ core for CPUs, "torch", or "auto", the core wherever it can.
        quantize: "q8" or "q4": let the core quantise the encoder's matrices.

    Raises:
        MissingResource: There is no such model.
        BadInput: It is damaged, or no such encoder.
    """
    return Embedder(open_folder(ref, engine, quantize))


@dataclass(frozen=True)
class Vector:
    """The vector of one text."""

    values: NDArray[np.float32]

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers, to seven digits: what float32 holds."""
        return {"prediction": [float(f"{value:.7g}") for value in self.values.tolist()]}

    def __str__(self) -> str:
        return " ".join(f"{value:.7g}" for value in self.values.tolist())


class Embed:
    """The task `embed`.

    Args:
        ref: An encoder that pools.
    """

    name = "embed"
    columns = (TEXT,)
    outputs = ("prediction",)
    chunk = 512

    def __init__(self, ref: str | Path = DEFAULT_EMBEDDER) -> None:
        self.embedder = open_embedder(ref)

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        return {"model": self.embedder.fingerprint}

    def run(self, rows: Sequence[Row]) -> list[Vector]:
        """See `Task.run`."""
        return [Vector(vector) for vector in self.embedder([row["text"] for row in rows]).vectors]
