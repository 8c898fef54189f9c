"""Image captioning: minimise -log p(caption | image), token by token (Vinyals et al. 2015, equation 1).

Images are decoded and resized once, when the records are checked and encoded; the run keeps their bytes. What is
written for a held-out image is the likeliest token again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zhixing.checkpoints.vision_folder import describes_images, read_description
from zhixing.core.errors import BadInput, ZhixingError
from zhixing.core.recipe import Recipe
from zhixing.data.examples import Example, read_text, stored_text
from zhixing.data.images import ImageProcessor, require_pillow
from zhixing.data.length_batches import RawBatch
from zhixing.data.shapes import ImageText, Shape
from zhixing.data.shapes.records import Misfit, brief
from zhixing.models.ragged import Ragged
from zhixing.models.vision_encoder_decoder import VisionEncoderDecoder
from zhixing.tokenization.tokenizer import Tokenizer
from zhixing.training.objectives.base import Encoded, NetworkKind, RecordObjective


@dataclass(frozen=True)
class CaptionBatch:
    """Images with their captions.

    Attributes:
        pixels: (images, channels, height, width).
        inputs: Of each caption, the start token and all its tokens.
        targets: The token behind each of the inputs, (total).
        target_count: How many there are.
    """

    pixels: Tensor
    inputs: Ragged
    targets: Tensor
    target_count: int


class Caption(RecordObjective):
    """Minimises -sum_t log p(x_t | x_<t, image) over the tokens of the caption and its end."""

    name: ClassVar[str] = "caption"
    summary: ClassVar[str] = "say in words what an image shows"
    shapes: ClassVar[tuple[Shape, ...]] = ("image_text",)
    network: ClassVar[NetworkKind] = "vision"
    options: ClassVar[frozenset[str]] = frozenset({"label_smoothing"})
    measures: ClassVar[tuple[str, ...]] = ("exact_match",)
    sample: ClassVar[Mapping[str, Any]] = {"image": "images/1.png", "caption": "一只猫在窗边"}
    fields: ClassVar[Mapping[str, str]] = {"pixels": "uint8", "tokens": "int32", "text": "uint8"}

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        require_pillow()
        size, patch = recipe.model.image_size or 1, recipe.model.patch_size or 1
        self.processor, self.patches = ImageProcessor((size, size)), (size // patch) ** 2
        self.start: int | None = None

    def begin_with(self, start: Path | None) -> None:
        """Takes the images' size, and what a caption begins behind, from the model that the run goes on from."""
        if start is None:
            return
        if not describes_images(start):
            raise BadInput(
                f"{self.recipe.model.start} does not describe images, and the objective 'caption' trains what does",
                where="model.start",
                remedy="leave it out, or name a vision-encoder-decoder model",
            )
        config, self.processor, _ = read_description(start)
        self.patches, self.start = config.encoder.patches, config.start

    def attach(self, tokenizer: Tokenizer, longest: int) -> None:
        """Takes the tokenizer, whose end of text ends a caption."""
        super().attach(tokenizer, longest)
        if tokenizer.end_of_text_id is None:
            raise BadInput(
                "the tokenizer has no end-of-text token, so that no caption could end",
                where="tokenizer",
                remedy="choose another one, or train one: leave tokenizer.path out",
            )
        self.end = tokenizer.end_of_text_id
        self.start = self.end if self.start is None else self.start

    def observe(self, record: ImageText, held_out: bool) -> None:
        """Decodes the image once, so that a bad one is known before anything is trained."""
        self._pixels(record)

    def encode(self, record: ImageText) -> Encoded:
        """Makes one example of a record."""
        try:
            tokens = self.tokenizer.encode(record.text)
        except BadInput as error:
            raise Misfit(error.cause, error.remedy or "") from error
        room = self.longest - 1  # one place is that of the start token
        pixels = self._pixels(record)
        example: dict[str, NDArray[Any]] = {
            "pixels": pixels.reshape(-1), "tokens": np.array(tokens[:room], np.int32), "text": stored_text(record.text),
        }  # fmt: skip
        return Encoded((example,), max(0, len(tokens) - room))

    def _pixels(self, record: ImageText) -> NDArray[np.uint8]:
        shown = brief(str(record.image), 120) if isinstance(record.image, Path) else "the image"
        try:
            return self.processor.pixels(record.image, shown)
        except ZhixingError as error:
            raise Misfit(f"{error.where or shown}: {error.cause}", error.remedy or "") from error

    def length(self, example: Example) -> int:
        """Returns the caption's tokens, its end and the patches of its image."""
        return self.patches + len(example["tokens"]) + 1

    def to_device(self, raw: RawBatch, device: torch.device) -> CaptionBatch:
        """Normalises the images and lays the captions end to end."""
        height, width = self.processor.size
        images = [example["pixels"].reshape(height, width, 3) for example in raw.examples]
        texts = [example["tokens"].tolist() for example in raw.examples]
        inputs = Ragged.of([[self.start, *text] for text in texts], device=device)  # type: ignore[list-item]
        targets = torch.tensor([token for text in texts for token in [*text, self.end]], device=device)
        pixels = torch.from_numpy(self.processor.normalise(images)).to(device)
        return CaptionBatch(pixels, inputs, targets, len(targets))

    def loss_sum(self, model: VisionEncoderDecoder, batch: CaptionBatch) -> Tensor:
        """Returns the cross-entropy summed over all captions' tokens."""
        if not model.training:
            return model.loss_sum(batch.pixels, batch.inputs, batch.targets)
        inputs = self._hide_words(batch.inputs)
        return model.loss_sum(batch.pixels, inputs, batch.targets, self.task.label_smoothing)

    def _hide_words(self, inputs: Ragged) -> Ragged:
        """Hides some of the words that a caption goes on from, lest it go on by habit (Bowman et al. 2016): the start
        token takes their place, and what comes next must be seen in the image."""
        share = self.recipe.model.word_dropout
        if not share:
            return inputs
        hidden = torch.rand(inputs.tokens.shape).to(inputs.tokens.device) < share
        return Ragged(inputs.tokens.masked_fill(hidden, inputs.tokens[0]), inputs.lengths)

    def predict(self, model: VisionEncoderDecoder, batch: CaptionBatch) -> Sequence[str]:
        """Returns the caption of each image."""
        texts = model.greedy(batch.pixels, len(batch.pixels), self.end, self.longest - 1)
        return [self.tokenizer.decode(text, skip_special=True).strip() for text in texts]

    def references(self, examples: Sequence[Example]) -> Sequence[str]:
        """Returns the right caption of each image."""
        return [read_text(example["text"]).strip() for example in examples]
