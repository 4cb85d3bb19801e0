"""Draw the demo dataset in COCO format: shapes of six classes that partly occlude each other, on photos.

    python examples/demo/make_dataset.py FOLDER

This writes FOLDER/annotations/{train,val}.json and FOLDER/images/{train,val}/*.jpg. The same seed gives the same
images. The longer side of a shape is 8 to 60 % of the shorter side of the image. Boxes enclose the whole shape,
including occluded parts.
"""

import argparse
import colorsys
import functools
import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from rtdetr.errors import InputError

PHOTOS = Path(__file__).parent / "photos"
CATEGORY_IDS = {"disk": 3, "square": 7, "triangle": 11, "star": 18, "ring": 24, "cross": 42}  # with gaps, as in COCO
SIZES_WH = ((320, 240), (240, 320), (256, 256), (320, 256), (224, 288))
EMPTY = 0.08  # share of images without objects
MAX_OBJECTS = {"train": 24, "val": 10}  # of an image; training images are denser, since each object is an example
TYPICAL_COLOR = 0.95  # share of objects with about the hue of their class; others have a random hue
SCALE_RANGE = (0.08, 0.60)
MIN_VISIBLE = 0.6  # a shape must leave at least this share of each other shape visible
SUPERSAMPLING = 4
PARAMETERS_FILE = "parameters.json"


class Shape(NamedTuple):
    """One rendered object."""

    name: str
    alpha: NDArray[np.float32]  # (h, w) coverage of each pixel, 0 to 1, cropped to the shape
    color: NDArray[np.float32]  # (h, w, 3) RGB, 0 to 255
    box_in_crop: tuple[float, float, float, float]  # xyxy pixels, exact


def make_dataset(folder: str | os.PathLike[str], *, num_train: int = 1000, num_val: int = 200, seed: int = 0) -> Path:
    """Draw the dataset into `folder`, unless it exists with the same parameters, and return the folder.

    Raises:
        InputError: `folder` exists and was not created by this function.
    """
    folder = Path(folder)
    parameters = {"version": 5, "num_train": num_train, "num_val": num_val, "seed": seed}
    if folder.exists():
        found = folder / PARAMETERS_FILE
        if not found.is_file():
            raise InputError(f"{folder} exists and is not a demo dataset: remove it or choose another folder")
        if json.loads(found.read_text()) == parameters:
            return folder
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # rename when complete, so an unfinished dataset never has the final name
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / folder.name
        for number, (split, count) in enumerate({"train": num_train, "val": num_val}.items()):
            _draw_split(unfinished, split, [(seed, number, i) for i in range(count)])
        (unfinished / PARAMETERS_FILE).write_text(json.dumps(parameters))
        unfinished.rename(folder)
    return folder


def _draw_split(folder: Path, split: str, seeds: list[tuple[int, int, int]]) -> None:
    """Write the images of one split, one per seed, and the annotation file."""
    image_folder = folder / "images" / split
    image_folder.mkdir(parents=True)
    files = [image_folder / f"{image_id:06d}.jpg" for image_id in range(1, len(seeds) + 1)]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        draw = functools.partial(_draw_file, max_objects=MAX_OBJECTS[split])
        drawn = pool.map(draw, files, seeds, chunksize=32)
        for image_id, (file, ((width, height), objects)) in enumerate(zip(files, drawn, strict=True), start=1):
            images.append({"id": image_id, "file_name": file.name, "width": width, "height": height})
            for item in objects:
                annotations.append({"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, **item})
    categories = [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()]
    (folder / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))


def _draw_file(
    file: Path, seed: tuple[int, int, int], *, max_objects: int
) -> tuple[tuple[int, int], list[dict[str, Any]]]:
    """Draw one image to a file; return its width and height and its objects."""
    image, objects = draw_image(np.random.default_rng(seed), _photos(), max_objects=max_objects)
    image.save(file, quality=90)
    return image.size, objects


@functools.cache
def _photos() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]


def draw_image(
    rng: np.random.Generator, photos: list[Image.Image], *, max_objects: int
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw one image; return it with its objects as COCO annotations without ids."""
    width, height = SIZES_WH[rng.integers(len(SIZES_WH))]
    canvas = np.asarray(_background(rng, photos, (width, height)), dtype=np.float32).copy()
    top_object = np.full((height, width), -1)  # index of the visible object at each pixel
    objects: list[dict[str, Any]] = []
    areas, visible = np.zeros((2, max_objects), dtype=np.int64)  # of the objects, in pixels
    weights = 0.9 ** (np.arange(max_objects) * 10 / max_objects)
    for _ in range(rng.choice(max_objects + 1, p=[EMPTY, *((1 - EMPTY) * weights / weights.sum())])):
        shape = _shape(rng, side=min(width, height))
        h, w = shape.alpha.shape
        solid = shape.alpha > 0.5
        for _ in range(10):
            x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            under = top_object[y : y + h, x : x + w]
            hidden = np.bincount(under[solid] + 1, minlength=max_objects + 1)[1:]
            if (visible - hidden >= MIN_VISIBLE * areas).all():
                break
        else:
            continue
        visible -= hidden
        visible[len(objects)] = areas[len(objects)] = solid.sum()
        under[solid] = len(objects)
        _paste(canvas, shape, x, y)
        x0, y0, x1, y1 = shape.box_in_crop
        bbox = [round(value, 2) for value in (x + x0, y + y0, x1 - x0, y1 - y0)]
        objects.append({"category_id": CATEGORY_IDS[shape.name], "bbox": bbox, "area": int(solid.sum())})
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)), objects


def _background(rng: np.random.Generator, photos: list[Image.Image], size_wh: tuple[int, int]) -> Image.Image:
    """Crop a photo; randomly mirror, blur and tint it."""
    photo = photos[rng.integers(len(photos))]
    largest = min(photo.width / size_wh[0], photo.height / size_wh[1])
    zoom = largest * rng.uniform(0.35, 1.0)
    w, h = size_wh[0] * zoom, size_wh[1] * zoom
    x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    piece = photo.resize(size_wh, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        piece = piece.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.5)))
    gain = rng.uniform(0.75, 1.2) * rng.uniform(0.88, 1.12, size=3)
    shifted = np.asarray(piece, dtype=np.float32) * gain + rng.uniform(-15, 15)
    return Image.fromarray(shifted.clip(0, 255).astype(np.uint8))


def _outlines(name: str) -> list[NDArray[np.float64]]:
    """Return the outline of a class around the origin, and that of its hole if it has one; points (n, 2)."""
    if name == "disk":
        return [_circle(48)]
    if name == "ring":
        return [_circle(48), 0.5 * _circle(48)]
    if name == "square":
        return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)]
    if name == "triangle":
        return [_circle(3)]
    if name == "star":
        return [_circle(10) * np.tile([1.0, 0.42], 5)[:, None]]
    arm = 0.34
    quarter = np.array([(arm, arm), (arm, 1), (-arm, 1)])
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), n) for n in range(4)]
    return [np.concatenate([quarter @ turn for turn in turns])]


def _circle(num_points: int) -> NDArray[np.float64]:
    """Return points at equal angles on the unit circle."""
    angles = 2 * np.pi * np.arange(num_points) / num_points
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _shape(rng: np.random.Generator, *, side: int) -> Shape:
    """Choose class, size, aspect ratio, angle and appearance of an object; `side` is the shorter side of the image."""
    name = str(rng.choice(list(CATEGORY_IDS)))
    size = side * float(np.exp(rng.uniform(*np.log(SCALE_RANGE))))
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    aspect = np.array([1.0, rng.uniform(0.65, 1.0)])
    outlines = [(points * aspect) @ rotation.T for points in _outlines(name)]
    outer = outlines[0]
    scale = size / np.ptp(outer, axis=0).max()
    offset = -outer.min(axis=0) * scale + rng.uniform(0, 1, size=2)  # random subpixel offset
    outlines = [points * scale + offset for points in outlines]
    low, high = outlines[0].min(axis=0), outlines[0].max(axis=0)
    width, height = (int(v) for v in np.ceil(high))

    fill, edge = _mask(outlines, (width, height), edge=max(1.0, size * rng.uniform(0.02, 0.06)))
    typical = list(CATEGORY_IDS).index(name) / len(CATEGORY_IDS) + rng.normal(0, 0.03)
    hue = typical % 1 if rng.random() < TYPICAL_COLOR else rng.random()
    saturation, value = rng.uniform(0.55, 1.0), rng.uniform(0.55, 1.0)
    body = _texture(rng, (hue, saturation, value), (width, height))
    edge_value = value * 0.35 if rng.random() < 0.7 else 1.0
    edge_color = np.array(colorsys.hsv_to_rgb(hue, saturation * 0.5, edge_value)) * 255
    color = body * (1 - edge[..., None]) + edge_color * edge[..., None]
    return Shape(name, fill, color.astype(np.float32), (low[0], low[1], high[0], high[1]))


def _mask(
    outlines: list[NDArray[np.float64]], size_wh: tuple[int, int], *, edge: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the coverage (h, w), 0 to 1, of the shape and of its edge, an inner border `edge` pixels wide."""
    large = (size_wh[0] * SUPERSAMPLING, size_wh[1] * SUPERSAMPLING)
    fill, border = Image.new("L", large), Image.new("L", large)
    pen, radius = ImageDraw.Draw(border), edge * SUPERSAMPLING
    for i, points in enumerate(outlines):
        corners = [(float(x), float(y)) for x, y in points * SUPERSAMPLING]
        ImageDraw.Draw(fill).polygon(corners, fill=0 if i else 255)
        pen.line([*corners, corners[0]], fill=255, width=round(2 * radius))
        for x, y in corners:  # round joints
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    covered = [(np.asarray(mask.reduce(SUPERSAMPLING)) / 255).astype(np.float32) for mask in (fill, border)]
    return covered[0], covered[1]


def _texture(
    rng: np.random.Generator, hsv: tuple[float, float, float], size_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Return surface colors (h, w, 3), 0 to 255: a gradient, on some objects with stripes or dots of a second color."""
    hue, saturation, value = hsv
    y, x = np.mgrid[: size_wh[1], : size_wh[0]].astype(float)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    color = np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255
    other = np.array(colorsys.hsv_to_rgb((hue + rng.uniform(0.08, 0.92)) % 1, saturation * 0.7, min(1.0, value * 1.2)))
    period = max(size_wh) * rng.uniform(0.15, 0.35)
    kind = rng.choice(["plain", "stripes", "dots"], p=[0.5, 0.3, 0.2])
    if kind == "stripes":
        amount = _smooth_step(np.sin(2 * np.pi * along / period), period)
    elif kind == "dots":
        amount = _smooth_step(np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period) - 0.25, period)
    else:
        amount = np.zeros_like(x)
    surface = color * (1 - amount[..., None]) + other * 255 * amount[..., None]
    light = 1.0 + 0.3 * (along - along.mean()) / max(1.0, float(np.ptp(along)))
    return (surface * light[..., None]).clip(0, 255)


def _smooth_step(wave: NDArray[np.float64], period: float) -> NDArray[np.float64]:
    """Return 0 where the wave is negative, 1 where it is positive, with a transition about one pixel wide."""
    return (0.5 + wave * period / (2 * np.pi)).clip(0, 1)


def _paste(canvas: NDArray[np.float32], shape: Shape, x: int, y: int) -> None:
    """Blend the shape into the canvas in place."""
    h, w = shape.alpha.shape
    under = canvas[y : y + h, x : x + w]
    under += (shape.color - under) * shape.alpha[..., None]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the demo dataset in COCO format.")
    parser.add_argument("folder", help="output folder")
    parser.add_argument("--num-train", type=int, default=1000, help="training images")
    parser.add_argument("--num-val", type=int, default=200, help="validation images")
    parser.add_argument("--seed", type=int, default=0, help="random seed, default 0")
    options = parser.parse_args()
    print(make_dataset(options.folder, num_train=options.num_train, num_val=options.num_val, seed=options.seed))
