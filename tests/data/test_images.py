"""Images: pixel values as `transformers` makes them, and files that are none, damaged or too large."""

import io
import json
import struct
import zlib

import numpy as np
import pytest

from zhixing.checkpoints.image_folder import read_processor, write_processor
from zhixing.core.errors import BadInput, MissingResource
from zhixing.data.images import ImageProcessor, open_image
from zhixing.families.image_processing import processor_from

PIL = pytest.importorskip("PIL.Image")


def picture(height=37, width=53, mode="RGB", seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return PIL.fromarray(values, "RGBA").convert(mode)


def content(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("resample", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [(16, 16), (24, 40), (64, 100), (37, 53)])
def test_pixel_values_equal_those_of_transformers(size, resample):
    transformers = pytest.importorskip("transformers")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    theirs = transformers.ViTImageProcessorPil(
        size={"height": size[0], "width": size[1]}, resample=resample, image_mean=list(mean), image_std=list(std)
    )
    images = [picture(seed=seed) for seed in range(2)] + [picture(90, 20)]
    ours = ImageProcessor(size, resample=resample, mean=mean, std=std)
    expected = np.stack(theirs(images)["pixel_values"])
    found = ours([content(image) for image in images])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_format_and_mode_becomes_colour(kind, mode):
    try:
        data = content(picture().convert("L").convert(mode) if mode == "LA" else picture(mode=mode), kind)
    except (OSError, ValueError, KeyError):
        pytest.skip(f"Pillow does not write {mode} as {kind}")
    opened = open_image(data)
    assert (opened.mode, opened.size) == ("RGB", (53, 37))


def test_a_picture_taken_sideways_is_turned():
    exif = PIL.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert open_image(content(picture(), "JPEG", exif=exif)).size == (37, 53)


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "cat.png"
    path.write_text("not a picture at all")
    with pytest.raises(BadInput, match="begins with b'not a pi'") as caught:
        open_image(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_what_is_missing_empty_or_no_file(tmp_path):
    with pytest.raises(MissingResource, match="there is no such image"):
        open_image(tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadInput, match="empty file"):
        open_image(tmp_path / "empty.png")
    with pytest.raises(BadInput, match="not a file"):
        open_image(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_damaged_file_gives_one_message_or_an_image(kind):
    whole = content(picture(), kind)
    random = np.random.default_rng(0)
    for cut in range(1, len(whole), max(1, len(whole) // 40)):
        damaged = bytearray(whole[:cut] if cut % 2 else whole)
        damaged[random.integers(len(damaged))] ^= 0xFF
        try:
            open_image(bytes(damaged), "the file")
        except BadInput as error:
            assert error.where == "the file"


def bomb(width, height):
    """A PNG of some hundred bytes whose header promises an image of any size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size):
    with pytest.raises(BadInput) as caught:
        open_image(bomb(*size), "bomb.png")
    assert caught.value.where == "bomb.png"


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_values_beyond_a_byte_are_refused_rather_than_cut(mode):
    deep = content(picture(mode="L").convert("I" if mode == "I;16" else mode).convert(mode), "TIFF")
    with pytest.raises(BadInput, match="more than 8 bits"):
        open_image(deep)


def test_other_formats_are_not_tried():
    with pytest.raises(BadInput, match="not an image that can be read"):
        open_image(content(picture(), "PPM"))


def test_the_file_of_a_processor_is_that_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.ViTImageProcessorPil(size={"height": 8, "width": 12}, resample=3, image_std=[0.2, 0.3, 0.4])
    theirs.save_pretrained(tmp_path / "theirs")
    ours, notes = read_processor(tmp_path / "theirs", (8, 12))
    assert (ours.resample, ours.std, notes) == (3, (0.2, 0.3, 0.4), [])
    (tmp_path / "ours").mkdir()
    write_processor(tmp_path / "ours", ours)
    again = transformers.ViTImageProcessorPil.from_pretrained(tmp_path / "ours")
    np.testing.assert_array_equal(again([picture()])["pixel_values"][0], ours([content(picture())])[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": True, "crop_size": 224}, "do_center_crop"),
        ({"size": {"shortest_edge": 224}}, "only a height and a width"),
        ({"size": 0}, "above 0"),
        ({"resample": 9}, "no resampling filter 9"),
        ({"image_mean": 0.5}, "three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "above 0"),
        ({"image_processor_type": "Pix2StructImageProcessor"}, "not supported"),
        ({"do_reduce_labels": True}, "unknown configuration field"),
    ],
)
def test_a_processor_that_does_more_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        processor_from(change, "preprocessor_config.json")


def test_an_old_configuration_has_one_number():
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "do_normalize": False, "do_rescale": False}
    processor = processor_from(old, "x")
    assert (processor.size, processor.scale, processor.mean, processor.std) == ((32, 32), 1.0, (0,) * 3, (1,) * 3)


def test_a_processor_for_another_size_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    with pytest.raises(BadInput, match="resized to 32 x 32, but the network reads 16 x 16"):
        read_processor(tmp_path, (16, 16))


def test_without_resizing_other_sizes_are_refused(tmp_path):
    picture().save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="37 x 53 pixels, but 16 x 16") as caught:
        ImageProcessor((16, 16), resize=False)([tmp_path / "a.png"])
    assert "a.png" in str(caught.value)
