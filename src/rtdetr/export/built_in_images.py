"""Images to compare two models on if the user passes none: a photo and generated colored shapes."""

import colorsys
import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from rtdetr.images import LoadedImage, open_image, read_image

_SIZES_WH = ((320, 240), (240, 320), (256, 256))
_CORNERS = {"square": 4, "triangle": 3, "disk": 48, "star": 10}
_HUES = (1 / 6, 2 / 6, 0.0, 3 / 6)  # hues of the demo's classes, in the order of _CORNERS


def built_in_images(num_channels: int = 3) -> list[LoadedImage]:
    """Return the same images at every call: three of drawn shapes and, if matplotlib is installed, its sample photo.

    Args:
        num_channels: 3 for RGB, 1 for grayscale; for any other number, red, green and blue are repeated in turn.
    """
    drawn = [_draw_shapes(np.random.default_rng(number), size_wh) for number, size_wh in enumerate(_SIZES_WH)]
    return [_with_channels(image, num_channels) for image in (*drawn, *_photos())]


def _with_channels(image: Image.Image, num_channels: int) -> LoadedImage:
    if num_channels in (1, 3):
        return read_image(image, num_channels=num_channels)
    return np.asarray(image)[:, :, np.arange(num_channels) % 3]


def _photos() -> list[Image.Image]:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return []
    file = Path(found.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    return [open_image(file)] if file.is_file() else []


def _draw_shapes(rng: np.random.Generator, size_wh: tuple[int, int]) -> Image.Image:
    """Draw one shape per class of the demo dataset, each in its own cell, on a random background."""
    width, height = size_wh
    ramp = np.linspace(60, 180, width)[None, :, None] + np.linspace(-30, 30, height)[:, None, None]
    background = ramp + rng.uniform(-12, 12, (height, width, 1)) + rng.uniform(-15, 15, 3)
    image = Image.fromarray(background.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    cells = [(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)]
    for number, ((name, corners), (x, y)) in enumerate(zip(_CORNERS.items(), cells, strict=True)):
        radius = min(size_wh) * rng.uniform(0.1, 0.2)
        turn = rng.uniform(0, 2 * math.pi)
        points = []
        for i in range(corners):
            reach = radius * (0.42 if name == "star" and i % 2 else 1.0)
            angle = turn + 2 * math.pi * i / corners
            points.append((x * width + reach * math.cos(angle), y * height + reach * math.sin(angle)))
        red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(_HUES[number], 0.8, 0.9))
        pen.polygon(points, fill=(red, green, blue), outline=(red // 3, green // 3, blue // 3))
    return image
