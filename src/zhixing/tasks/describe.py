"""A text about an image: captions, by a network whose text side reads what its image side saw (Vinyals et al. 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zhixing.checkpoints.references import resolve
from zhixing.checkpoints.vision_folder import VisionFolder, load_vision
from zhixing.core.errors import BadInput, MissingResource
from zhixing.generation.generate import Generator
from zhixing.generation.published import options_from_config
from zhixing.models import ops
from zhixing.tasks.base import Column, Row
from zhixing.tasks.fingerprint import model_fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE = Column("image", ("image", "img", "picture", "image_path", "file_name", "filename", "图片"))

SIDE_BY_SIDE = 16
"""Images that are read and described together."""


@dataclass(frozen=True)
class Description:
    """What a network says about an image.

    Attributes:
        text: The text.
        finish: Why it ended: "stop", or "length" where it is cut.
        logprob: Log-probability of the whole text under the model, in nats.
    """

    text: str
    finish: str
    logprob: float

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"prediction": self.text, "finish": self.finish, "logprob": round(self.logprob, 4)}

    def __str__(self) -> str:
        return self.text


class Describer:
    """Describes images.

    Args:
        folder: The network; see `open_describer` for one by reference.
        beams: Beams of the search; None: as the model's generation_config.json says.
        max_tokens: Longest text; None: likewise, at most what the network can write.

    Raises:
        MissingResource: It has no tokenizer.
        BadInput: An option is out of its bounds.
    """

    def __init__(self, folder: VisionFolder, beams: int | None = None, max_tokens: int | None = None) -> None:
        if folder.tokenizer is None:
            raise MissingResource(
                "the model has no tokenizer", where=str(folder.path), remedy="put its tokenizer.json there"
            )
        self.folder, self.tokenizer = folder, folder.tokenizer
        options, self.notes = options_from_config(folder.generation, str(folder.path / "generation_config.json"))
        room = folder.model.config.context - 1  # one place is the start token's
        changes: dict[str, Any] = {"seed": 0, "logprobs": 0, "max_length": None}
        changes["max_tokens"] = min(room, options.max_tokens if max_tokens is None else max_tokens)
        if beams is not None:
            changes |= {"num_beams": beams, "temperature": 0.0, "beam_sampling": False}
        if options.end_tokens is None and self.tokenizer.end_of_text_id is not None:
            changes["end_tokens"] = (self.tokenizer.end_of_text_id,)
        self.options = replace(options, **changes)

    def __call__(self, images: Sequence[Path | bytes | Image]) -> list[Description]:
        """Describes images, each by itself and some at once.

        Args:
            images: Files, their contents, or Pillow's images.

        Raises:
            MissingResource: A file is not there.
            BadInput: A file is no image, damaged, or too large.
        """
        pixels = [self.folder.processor.pixels(image) for image in images]
        return [
            text
            for start in range(0, len(pixels), SIDE_BY_SIDE)
            for text in self._describe(pixels[start : start + SIDE_BY_SIDE])
        ]

    @torch.inference_mode()
    def _describe(self, pixels: list[NDArray[np.uint8]]) -> list[Description]:
        model = self.folder.model
        values = torch.from_numpy(self.folder.processor.normalise(pixels)).to(model.device)
        generator = Generator(model.reading(values), self.tokenizer)
        answers = generator.generate([[model.config.start]] * len(pixels), self.options)
        if any(answer.finish_reason == "interrupted" for answer in answers):
            raise KeyboardInterrupt
        return [
            Description(
                answer.text.strip(), answer.finish_reason, sum(token.logprob for token in answer.logprobs or ())
            )
            for answer in answers
        ]


def open_describer(ref: str | Path, beams: int | None = None, max_tokens: int | None = None) -> Describer:
    """Opens a network that describes images by its reference (a path, a run's model folder, `hf:org/name`).

    Raises:
        MissingResource: There is no such model.
        BadInput: It is damaged, or no such network.
    """
    describer = Describer(load_vision(resolve(ref)), beams, max_tokens)
    ops.select_matmul()
    return describer


class Describe:
    """The task `describe`.

    Args:
        ref: A network that describes images.
        beams: Beams of the search; None: as the model says.
        max_tokens: Longest text; None: as the model says.
        folder: Where paths of images lead from; None: the folder that we are in.
    """

    name = "describe"
    columns = (IMAGE,)
    outputs = ("prediction", "finish", "logprob")
    chunk = SIDE_BY_SIDE

    def __init__(
        self, ref: str | Path, *, beams: int | None = None, max_tokens: int | None = None, folder: Path | None = None
    ) -> None:
        self.describer = open_describer(ref, beams, max_tokens)
        self.home = folder if folder is not None else Path()

    def identity(self) -> dict[str, Any]:
        """See `Task.identity`."""
        options = self.describer.options
        return {
            "model": model_fingerprint(self.describer.folder.path),
            "beams": options.num_beams,
            "max_tokens": options.max_tokens,
        }

    def run(self, rows: Sequence[Row]) -> list[Description]:
        """See `Task.run`; the images' own content is not part of a run's identity, their paths are."""
        try:
            return self.describer([self.home / row["image"] for row in rows])
        except MissingResource as error:  # one row's fault, not the task's
            raise BadInput(f"{error.where}: {error.cause}", remedy=error.remedy) from error
        except BadInput as error:
            raise BadInput(
                f"{error.where}: {error.cause}" if error.where else error.cause, remedy=error.remedy
            ) from error
