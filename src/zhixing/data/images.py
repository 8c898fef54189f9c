"""Images from files or bytes to the numbers that a network reads: bounded decoding, resizing, normalising.

Needs Pillow (`pip install 'zhixing[vision]'`). Which sizes and means a model wants stands in its
preprocessor_config.json (`families.image_processing`).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zhixing.core.errors import BadInput, MissingResource, missing_extra
from zhixing.core.files import os_fault

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
"""What is decoded; Pillow's other decoders are never tried on foreign bytes."""

MOST_PIXELS = 50_000_000
"""Pixels of an image, said in its header, before anything is decoded: 150 MB in memory."""

MOST_BYTES = 256 << 20
"""Bytes of an image's file."""

FAULTS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, OverflowError, IndexError, TypeError)
"""What Pillow's decoders raise for damaged files."""

FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of resampling filters, which preprocessor_config.json uses."""


def require_pillow() -> None:
    """Checks that images can be read here.

    Raises:
        MissingResource: Pillow is not installed.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise missing_extra("pillow", "vision", "reading images") from error


def open_image(image: Path | bytes, where: str | None = None) -> Image:
    """Decodes an image: turned as its camera says, in colour (red, green, blue), transparency left out.

    Args:
        image: A file, or its content.
        where: What to call it in messages; the file's path unless given.

    Raises:
        MissingResource: The file is not there or cannot be read, or Pillow is not installed.
        BadInput: It is no image, damaged, or too large.
    """
    require_pillow()
    from PIL import Image, ImageOps

    place = where or (str(image) if isinstance(image, Path) else "the image")
    content = _read(image, place)
    try:
        # The bound on pixels is our own, from the header; Pillow warns at first. Its other warnings are of
        # metadata that nothing here reads.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                width, height = opened.size
                if width * height > MOST_PIXELS:
                    raise BadInput(
                        f"an image of {width} x {height} pixels is too large; at most {MOST_PIXELS:,} are read",
                        where=place,
                        remedy="make it smaller first",
                    )
                if opened.mode.startswith(("I", "F")):  # in colour, Pillow would cut all values above 255 to white
                    raise BadInput(
                        f"an image with more than 8 bits per value (mode {opened.mode}) is not read",
                        where=place,
                        remedy="save it with 8 bits per channel",
                    )
                opened.load()
                return ImageOps.exif_transpose(opened).convert("RGB")
    except (*FAULTS, Image.DecompressionBombError) as error:
        shown = content[:8]
        raise BadInput(
            f"not an image that can be read (it begins with {shown!r}): {str(error).split(':')[0][:100]}",
            where=place,
            remedy="PNG, JPEG, GIF, BMP, WebP and TIFF are read; save it again as one of these",
        ) from error


def _read(image: Path | bytes, where: str) -> bytes:
    if isinstance(image, bytes):
        content = image
    else:
        try:
            size = image.stat().st_size
            if not image.is_file():
                raise BadInput("not a file", where=where, remedy="name an image")
            if size > MOST_BYTES:
                raise BadInput(f"a file of {size >> 20} MiB is too large for an image", where=where)
            content = image.read_bytes()
        except FileNotFoundError:
            raise MissingResource("there is no such image", where=where, remedy="correct its path") from None
        except OSError as error:
            raise os_fault(error, image, "reading an image") from error
    if not content:
        raise BadInput("the image is an empty file", where=where, remedy="save it again")
    if len(content) > MOST_BYTES:
        raise BadInput(f"{len(content) >> 20} MiB are too much for an image", where=where)
    return content


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Turns images into the pixel values that a network was trained on, as `transformers`' ViTImageProcessor does.

    Attributes:
        size: Height and width that images are resized to, without regard to their proportions.
        resize: Whether they are; else they must have the size already.
        resample: Pillow's number of the resampling filter.
        scale: Factor on the values from 0 to 255.
        mean: Subtracted per channel after scaling.
        std: Divided by per channel.
    """

    size: tuple[int, int]
    resize: bool = True
    resample: int = 2
    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.resample not in FILTERS:
            raise BadInput(f"there is no resampling filter {self.resample!r}; known: {FILTERS}")
        if not all(1 <= side <= 1 << 14 for side in self.size):
            raise BadInput(f"images of {self.size[0]} x {self.size[1]} pixels cannot be read")
        if not all(value > 0 for value in self.std):
            raise BadInput(f"the standard deviation of the pixel values must be above 0, got {list(self.std)}")

    def __call__(self, images: Sequence[Path | bytes | Image]) -> NDArray[np.float32]:
        """Reads images.

        Args:
            images: Files, their contents, or Pillow's images.

        Returns:
            (images, 3, height, width).

        Raises:
            MissingResource: A file is not there.
            BadInput: A file is no image, damaged, or too large.
        """
        return self.normalise([self.pixels(image) for image in images])

    def pixels(self, image: Path | bytes | Image, where: str | None = None) -> NDArray[np.uint8]:
        """Decodes and resizes one image, (height, width, 3); what is kept of an image while a data set is held."""
        opened = open_image(image, where) if isinstance(image, Path | bytes) else image.convert("RGB")
        height, width = self.size
        if self.resize and opened.size != (width, height):
            from PIL.Image import Resampling

            opened = opened.resize((width, height), resample=Resampling(self.resample))
        elif opened.size != (width, height):
            place = where or (str(image) if isinstance(image, Path) else None)
            raise BadInput(
                f"an image of {opened.size[1]} x {opened.size[0]} pixels, but {height} x {width} are read", where=place
            )
        return np.asarray(opened, dtype=np.uint8)

    def normalise(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Maps decoded images, (height, width, 3) each, to pixel values, (images, 3, height, width)."""
        # A byte has 256 values: the arithmetic, in the precision of the original, is done once for each.
        scaled = (np.arange(256, dtype=np.float64) * self.scale).astype(np.float32)  # (256)
        mean, std = np.array(self.mean, np.float32)[:, None], np.array(self.std, np.float32)[:, None]
        table = (scaled - mean) / std  # (3, 256)
        stacked = np.stack(pixels).transpose(0, 3, 1, 2) if pixels else np.zeros((0, 3, *self.size), np.uint8)
        return np.stack([table[channel][stacked[:, channel]] for channel in range(3)], axis=1).astype(np.float32)
