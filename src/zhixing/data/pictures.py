"""Generated pictures of coloured shapes with a caption each, in English or Chinese: a small world to learn to describe.

Some combinations of size, colour and shape are never in the training part; every picture of the other part, `unseen`,
shows at least one of them. So whoever captions it right has understood the three apart, and not learnt pictures by
heart (Lake & Baroni 2018). Needs Pillow (`pip install 'zhixing[vision]'`).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zhixing.core.errors import BadInput, unknown_name
from zhixing.core.files import atomic_folder
from zhixing.data.images import require_pillow

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Language = Literal["en", "zh"]
Point = tuple[float, float]

COLOURS: dict[str, tuple[tuple[int, int, int], str]] = {
    "red": ((215, 40, 40), "红色"), "green": ((40, 160, 60), "绿色"), "blue": ((45, 80, 215), "蓝色"),
    "yellow": ((240, 215, 40), "黄色"), "purple": ((140, 50, 175), "紫色"), "orange": ((245, 135, 25), "橙色"),
    "black": ((25, 25, 25), "黑色"),
}  # fmt: skip
"""Name, its red, green and blue, and its Chinese name."""

SHAPES: dict[str, str] = {
    "circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "cross": "十字形", "ring": "环形",
}  # fmt: skip
SIZES: dict[str, tuple[float, str]] = {"small": (0.13, "小的"), "large": (0.2, "大的")}
"""Name, radius as a share of the picture's side, and its Chinese name."""

RELATIONS: dict[str, str] = {"left of": "左边", "above": "上面"}

OVERSAMPLING = 4
"""Pictures are drawn so much larger and then averaged, so that edges are smooth."""

FEWEST_PIXELS = 32
"""Below this side small shapes cannot be told apart."""


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """A shape with its colour and size, by their English names."""

    size: str
    colour: str
    shape: str

    def caption(self, language: Language) -> str:
        """Returns its description."""
        if language == "zh":
            return f"{SIZES[self.size][1]}{COLOURS[self.colour][1]}{SHAPES[self.shape]}"
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows: one thing, or two of which the first is left of or above the second."""

    first: Thing
    relation: str | None = None
    second: Thing | None = None

    @property
    def things(self) -> tuple[Thing, ...]:
        """All things in it."""
        return (self.first,) if self.second is None else (self.first, self.second)

    def caption(self, language: Language = "en") -> str:
        """Returns the one true caption."""
        first = self.first.caption(language)
        if self.second is None or self.relation is None:
            return f"一个{first}" if language == "zh" else f"a {first}"
        second = self.second.caption(language)
        if language == "zh":
            return f"一个{first}在一个{second}的{RELATIONS[self.relation]}"
        return f"a {first} {self.relation} a {second}"


def held_out_things(seed: int) -> frozenset[Thing]:
    """Returns the things that training never shows: of each colour one small and one large, spread over the shapes."""
    shapes = list(SHAPES)
    np.random.default_rng([seed, 1]).shuffle(shapes)
    return frozenset(
        Thing(size, colour, shapes[(index + turn * len(shapes) // 2) % len(shapes)])
        for turn, size in enumerate(SIZES)
        for index, colour in enumerate(COLOURS)
    )


def sample_scene(random: np.random.Generator, held_out: frozenset[Thing], unseen: bool) -> Scene:
    """Draws a scene without any of the held-out things or, for `unseen`, with at least one of them."""
    every = [Thing(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES]
    seen, wanted = [thing for thing in every if thing not in held_out], sorted(held_out)

    def one_of(choice: list[Thing]) -> Thing:
        return choice[random.integers(len(choice))]

    if random.random() < 0.25:
        return Scene(one_of(wanted if unseen else seen))
    things = [one_of(every if unseen else seen), one_of(wanted if unseen else seen)]
    if random.random() < 0.5:
        things.reverse()
    return Scene(things[0], list(RELATIONS)[random.integers(len(RELATIONS))], things[1])


def draw(scene: Scene, side: int, random: np.random.Generator) -> Image:
    """Draws a scene, with places, angles and shades of chance.

    Args:
        scene: What to show.
        side: Height and width in pixels.
        random: Where chance comes from.
    """
    from PIL import Image, ImageDraw

    large = side * OVERSAMPLING
    light = int(random.integers(225, 256))
    image = Image.new("RGB", (large, large), (light, light, light))
    canvas = ImageDraw.Draw(image)
    for thing, (x, y) in zip(scene.things, _places(scene, random), strict=True):
        radius = SIZES[thing.size][0] * large * random.uniform(0.92, 1.08)
        shade = np.clip(np.array(COLOURS[thing.colour][0]) + random.integers(-18, 19, size=3), 0, 255)
        _SHAPES[thing.shape](canvas, (x * large, y * large), radius, random.uniform(-0.15, 0.15), tuple(shade.tolist()))
    return image.resize((side, side), resample=Image.Resampling.BOX)


def _places(scene: Scene, random: np.random.Generator) -> list[Point]:
    """Returns the centre of each thing as shares of the side; nothing touches another thing or the edge."""
    if scene.second is None:
        return [(random.uniform(0.36, 0.64), random.uniform(0.36, 0.64))]
    along = (random.uniform(0.23, 0.27), random.uniform(0.73, 0.77))
    across = (random.uniform(0.4, 0.6), random.uniform(0.4, 0.6))
    if scene.relation == "above":
        return [(across[0], along[0]), (across[1], along[1])]
    return [(along[0], across[0]), (along[1], across[1])]


def _turned(centre: Point, angle: float, points: list[tuple[float, float]]) -> list[Point]:
    """Places points, given by distance and direction, around a centre."""
    x, y = centre
    return [(x + r * math.cos(a + angle), y + r * math.sin(a + angle)) for r, a in points]


def _circle(canvas: ImageDraw, centre: Point, radius: float, angle: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _ring(canvas: ImageDraw, centre: Point, radius: float, angle: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=round(radius * 0.4))


def _polygon(points: Callable[[float], list[tuple[float, float]]]) -> Callable[..., None]:
    def drawn(canvas: ImageDraw, centre: Point, radius: float, angle: float, colour: tuple[int, int, int]) -> None:
        canvas.polygon(_turned(centre, angle, points(radius)), fill=colour)

    return drawn


def _cross(canvas: ImageDraw, centre: Point, radius: float, angle: float, colour: tuple[int, int, int]) -> None:
    reach, half = radius, radius * 0.3
    length, tip = math.hypot(reach, half), math.atan2(half, reach)
    for turn in (0.0, math.pi / 2):
        corners = [(length, turn + way) for way in (tip, -tip, math.pi + tip, math.pi - tip)]
        canvas.polygon(_turned(centre, angle, corners), fill=colour)


_SHAPES: dict[str, Callable[..., None]] = {
    "circle": _circle,
    "square": _polygon(lambda r: [(r * 1.1, math.pi / 4 + k * math.pi / 2) for k in range(4)]),
    "triangle": _polygon(lambda r: [(r * 1.15, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)]),
    "star": _polygon(
        lambda r: [(r * (1.1 if k % 2 == 0 else 0.45), -math.pi / 2 + k * math.pi / 5) for k in range(10)]
    ),
    "cross": _cross,
    "ring": _ring,
}


def pictures(
    count: int, *, seed: int = 0, unseen: bool = False, side: int = 64, language: Language = "en"
) -> Iterator[tuple[bytes, str]]:
    """Yields pictures as PNG with their captions, the same ones for the same arguments.

    Args:
        count: How many.
        seed: Decides what is held out, and the pictures.
        unseen: Show held-out things, instead of only others.
        side: Height and width in pixels.
        language: Of the captions.
    """
    require_pillow()
    held_out = held_out_things(seed)
    random = np.random.default_rng([seed, 2, int(unseen)])
    for _ in range(count):
        scene = sample_scene(random, held_out, unseen)
        buffer = io.BytesIO()
        draw(scene, side, random).save(buffer, "PNG")
        yield buffer.getvalue(), scene.caption(language)


@dataclass(frozen=True)
class Made:
    """What was written.

    Attributes:
        folder: Where.
        train: The records to train on.
        unseen: The records with things that training never shows.
        held_out: Those things.
    """

    folder: Path
    train: Path
    unseen: Path
    held_out: tuple[Thing, ...]


def make_pictures(
    folder: Path,
    count: int = 4000,
    *,
    unseen: int = 500,
    seed: int = 0,
    side: int = 64,
    language: str = "en",
    advance: Callable[[int], None] | None = None,
) -> Made:
    """Writes a data set: train.jsonl and unseen.jsonl, records of an image's path and a caption, and the images.

    Args:
        folder: Where to; it must not exist, and is there whole or not at all.
        count: Pictures to train on.
        unseen: Pictures with unseen combinations.
        seed: Decides what is held out, and the pictures.
        side: Height and width in pixels.
        language: Of the captions: en or zh.
        advance: Is called with the number of pictures that were made, for progress.

    Raises:
        BadInput: The folder is there already, or an argument is out of its bounds.
    """
    if language not in ("en", "zh"):
        raise unknown_name("language", language, ("en", "zh"))
    if folder.exists():
        raise BadInput("there is something already", where=str(folder), remedy="name another folder, or remove it")
    for name, value, least, most in (
        ("pictures", count, 1, 1_000_000), ("unseen pictures", unseen, 0, 1_000_000),
        ("pixels of a side", side, FEWEST_PIXELS, 1024), ("seed", seed, 0, (1 << 63) - 1),
    ):  # fmt: skip
        if not least <= value <= most:
            raise BadInput(f"{name}: from {least:,} to {most:,}, got {value:,}")
    require_pillow()
    with atomic_folder(folder) as temporary:
        (temporary / "images").mkdir()
        for name, number in (("train", count), ("unseen", unseen)):
            made = pictures(
                number, seed=seed, unseen=name == "unseen", side=side, language="zh" if language == "zh" else "en"
            )
            with (temporary / f"{name}.jsonl").open("w", encoding="utf-8") as records:
                for index, (content, caption) in enumerate(made):
                    image = f"images/{name}-{index:06d}.png"
                    (temporary / image).write_bytes(content)
                    records.write(json.dumps({"image": image, "caption": caption}, ensure_ascii=False) + "\n")
                    if advance is not None:
                        advance(1)
    return Made(folder, folder / "train.jsonl", folder / "unseen.jsonl", tuple(sorted(held_out_things(seed))))
