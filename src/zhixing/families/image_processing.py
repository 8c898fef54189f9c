"""preprocessor_config.json: what a published model wants of its images, to and from `data.images.ImageProcessor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zhixing.core.errors import BadInput
from zhixing.data.images import ImageProcessor
from zhixing.families.base import ConfigReader

FILE = "preprocessor_config.json"

KINDS = (
    "ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor",
    "DeiTImageProcessor", "DeiTFeatureExtractor",
)  # fmt: skip
"""Names of processors that do what is done here: resize to fixed sides, rescale, normalise."""

HARMLESS = ("processor_class", "data_format", "input_data_format", "device", "return_tensors", "disable_grouping",
            "_processor_class", "default_to_square", "do_convert_rgb", "feature_extractor_type")  # fmt: skip
"""Fields that do not change the values: images are always read in colour."""


def processor_from(values: Mapping[str, Any], where: str) -> ImageProcessor:
    """Reads a published configuration, refusing every field that is not understood.

    Raises:
        BadInput: A field is damaged, or asks for what is not done here.
    """
    reader = ConfigReader(values, where)
    reader.expect("image_processor_type", KINDS[0], *KINDS[1:])
    for name in HARMLESS:
        reader.take(name)
    for name in ("do_center_crop", "do_pad"):
        reader.expect(name, False)
    if not reader.flag("do_center_crop", False):
        reader.take("crop_size")
    reader.take("pad_size")
    normalise = reader.flag("do_normalize", True)
    mean, std = _channels(reader, "image_mean"), _channels(reader, "image_std")
    scale = reader.number("rescale_factor", 1 / 255)
    resample = reader.take("resample", 2)
    if isinstance(resample, bool) or not isinstance(resample, int):
        reader.refuse("resample", "is not the number of a filter")
    try:
        processor = ImageProcessor(
            size=_size(reader), resize=reader.flag("do_resize", True), resample=resample,
            scale=scale if reader.flag("do_rescale", True) else 1.0,
            mean=mean if normalise else (0.0, 0.0, 0.0), std=std if normalise else (1.0, 1.0, 1.0),
        )  # fmt: skip
    except BadInput as error:
        raise error if error.where else BadInput(error.cause, where=where, remedy=error.remedy) from error
    reader.finish()
    return processor


def _size(reader: ConfigReader) -> tuple[int, int]:
    """Returns height and width; old files have one number for both."""
    value = reader.take("size", {"height": 224, "width": 224})
    sides: list[Any] = [value.get("height"), value.get("width")] if isinstance(value, Mapping) else [value, value]
    if isinstance(value, Mapping) and set(value) != {"height", "width"}:
        reader.refuse("size", "is not supported here (only a height and a width)")
    if not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        reader.refuse("size", "must be a whole number of pixels above 0, or a height and a width")
    return sides[0], sides[1]


def _channels(reader: ConfigReader, key: str) -> tuple[float, float, float]:
    value = reader.take(key, [0.5, 0.5, 0.5])
    if not isinstance(value, list | tuple) or len(value) != 3:
        reader.refuse(key, "must be three numbers, one per colour")
    red, green, blue = (reader.as_number(key, one) for one in value)
    return red, green, blue


def processor_to(processor: ImageProcessor) -> dict[str, Any]:
    """Writes the published configuration."""
    return {
        "image_processor_type": KINDS[0], "do_resize": processor.resize, "do_rescale": True, "do_normalize": True,
        "size": {"height": processor.size[0], "width": processor.size[1]}, "resample": processor.resample,
        "rescale_factor": processor.scale, "image_mean": list(processor.mean), "image_std": list(processor.std),
    }  # fmt: skip
