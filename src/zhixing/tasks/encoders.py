"""What the tasks of encoders share: texts of any length as windows that the encoder can read, computed in good groups.

Windows overlap, so that whatever stands at the border of one is inside of another. Nothing of a text is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zhixing.checkpoints.encoder_folder import EncoderFolder, load_encoder
from zhixing.checkpoints.references import resolve
from zhixing.core.errors import BadInput, MissingResource
from zhixing.models import ops
from zhixing.models.heads import EncoderModel, HeadKind
from zhixing.models.ragged import Ragged, batches_by_length
from zhixing.native.encoder import put_on_core
from zhixing.tasks.fingerprint import model_fingerprint
from zhixing.tokenization.framing import frame_of
from zhixing.tokenization.tokenizer import Tokenizer

TOKENS_AT_ONCE = 2048
"""Tokens computed together: their vectors stay in the processor's cache, and products are large enough for its peak."""

LONGEST_WINDOW = 2048
"""Tokens of a window of an encoder that could read without end (a recurrent one)."""

OVERLAP = 0.25
"""Share of a window that the next one reads again."""


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) of one text.

    Attributes:
        owner: The number of the text.
        begin: The first token, counted without special ones.
        end: Behind the last one.
    """

    owner: int
    begin: int
    end: int


def windows_of(owner: int, length: int, room: int, overlap: float = OVERLAP) -> list[Window]:
    """Returns windows that cover a text of so many tokens, all of nearly the same length.

    Args:
        owner: The number of the text.
        length: Its tokens.
        room: Tokens of a window at most.
        overlap: Share of a window that the next one reads again.
    """
    if length <= room:
        return [Window(owner, 0, length)]
    step = max(1, int(room * (1 - overlap)))
    count = 1 + -(-(length - room) // step)
    last = length - room
    return [Window(owner, begin, begin + room) for begin in (round(last * n / (count - 1)) for n in range(count))]


def open_folder(ref: str | Path, engine: str = "auto", quantize: str | None = None) -> EncoderFolder:
    """Opens an encoder by its reference, on the C++ core where that computes it; chooses the library for the rest.

    For `engine` and `quantize` see `native.encoder.put_on_core`; for faults that too, and `load_encoder`.
    """
    folder = load_encoder(resolve(ref))
    put_on_core(folder.model, engine, quantize)
    ops.select_matmul()
    return folder


class EncoderRunner:
    """An encoder with its tokenizer, for texts of any length.

    Args:
        folder: What was read from the model folder.
        kind: The head that is needed.
        task: What for, for the message when it is another one.

    Raises:
        BadInput: The encoder has another head.
        MissingResource: It has no tokenizer.
    """

    def __init__(self, folder: EncoderFolder, kind: HeadKind, task: str) -> None:
        self.head = folder.model.head_config
        if self.head.kind != kind:
            raise BadInput(
                f"this encoder cannot {task}: its head is {self.head.kind!r}, not {kind!r}",
                where=str(folder.path),
                remedy=REMEDIES.get(kind, f"train one whose head is {kind!r}"),
            )
        if untrained := [note for note in folder.notes if "untrained" in note]:
            raise BadInput(untrained[0].partition(": ")[2], where=str(folder.path), remedy="train it first")
        if folder.tokenizer is None:
            raise MissingResource("the encoder has no tokenizer", where=str(folder.path))
        self.model: EncoderModel = folder.model
        self.tokenizer: Tokenizer = folder.tokenizer
        self.path = folder.path
        self.frame = frame_of(self.tokenizer)
        self.longest = min(folder.longest, LONGEST_WINDOW)
        self.room = self.frame.room(self.longest)
        if self.room < 1:
            raise BadInput(f"the encoder reads only {folder.longest} tokens", where=str(folder.path))

    @classmethod
    def open(cls, ref: str | Path, kind: HeadKind, task: str) -> EncoderRunner:
        """Opens an encoder by its reference; see `open_folder`."""
        return cls(open_folder(ref), kind, task)

    def fingerprint(self) -> str:
        """Returns the hash of the model's content."""
        return model_fingerprint(self.path)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of texts, without special tokens."""
        return self.tokenizer.encode_batch(texts)

    def windows(self, encoded: Sequence[Sequence[int]], room: int | None = None) -> list[Window]:
        """Returns the windows of encoded texts, in their order."""
        return [
            window
            for owner, tokens in enumerate(encoded)
            for window in windows_of(owner, len(tokens), room or self.room)
        ]

    @torch.inference_mode()
    def forward(
        self,
        sequences: Sequence[Sequence[int]],
        take: Callable[[list[int], Tensor, Ragged], None],
        types: Sequence[Sequence[int]] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Computes the head's scores of token sequences, similar lengths together.

        Args:
            sequences: Token ids with the special ones.
            take: Is called with the numbers of some sequences, the head's scores of them, and the batch.
            types: The segment of each token, for models that read pairs.
            advance: Is called with the number of tokens that were read.
        """
        for group in batches_by_length([len(tokens) for tokens in sequences], TOKENS_AT_ONCE):
            kinds = [types[index] for index in group] if types is not None else None
            batch = Ragged.of([sequences[index] for index in group], kinds, self.device)
            take(group, self.model(batch).float(), batch)
            if advance is not None:
                advance(len(batch.tokens))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def framed(self, tokens: Sequence[int]) -> list[int]:
        """Returns tokens with the special ones around them.

        Raises:
            BadInput: There is no token at all.
        """
        framed = self.frame.single(tokens)
        if not framed:
            raise BadInput("the tokenizer makes no token of this text", remedy="leave it out")
        return framed


REMEDIES: dict[HeadKind, str] = {
    "pool": "use a sentence-transformers model, such as minilm",
    "classify": "train a classifier, or use a chat model or minilm with --labels",
    "tag": "train a tagger, or use a chat model with --labels",
    "span": "train a span model on SQuAD-like data, or use a chat model",
    "masked": "use a masked language model",
}
