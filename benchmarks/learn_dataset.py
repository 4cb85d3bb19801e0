"""Draw the dataset of `learn.py`: twenty classes of small, crowded objects on photos.

The classes are five shapes in four colors, so a model needs both. Most objects are 6 to 30 pixels wide and form
clusters in which they partly occlude each other. Backgrounds are crops of the demo photos with blurred spots in the
same colors, which are not objects.
"""

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

PHOTOS = Path(__file__).parent.parent / "examples" / "demo" / "photos"
HUES = {"red": 0.0, "green": 0.3, "blue": 0.6, "violet": 0.8}
SHAPES = ("disk", "square", "triangle", "star", "cross")
CLASSES = tuple(f"{color} {shape}" for shape in SHAPES for color in HUES)
SIZES_WH = ((160, 128), (128, 160), (144, 144), (176, 128))
SIDE_RANGE = (6.0, 34.0)  # pixels, log-uniform
MAX_OBJECTS = 24
MIN_VISIBLE = 0.5  # an object must leave at least this share of each other object visible
SUPERSAMPLING = 4


def make_dataset(folder: Path, *, num_train: int, num_val: int, seed: int, classes: Sequence[str] = CLASSES) -> Path:
    """Draw a dataset in COCO format into a folder, unless it exists, and return the folder."""
    if (folder / "annotations" / "val.json").exists():
        return folder
    photos = [Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))]
    categories = [{"id": CLASSES.index(name) + 1, "name": name} for name in classes]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate({"train": num_train, "val": num_val}.items()):
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(1, count + 1):
            image, objects = draw_image(np.random.default_rng([seed, number, image_id]), photos, classes)
            name = f"{image_id:05d}.jpg"
            image.save(folder / "images" / split / name, quality=92)
            images.append({"id": image_id, "file_name": name, "width": image.width, "height": image.height})
            annotations += [
                {"id": len(annotations) + i, "image_id": image_id, "iscrowd": 0, **one}
                for i, one in enumerate(objects, start=1)
            ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def draw_image(
    rng: np.random.Generator, photos: list[Image.Image], classes: Sequence[str]
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Draw one image; return it with its objects as COCO annotations without ids."""
    width, height = SIZES_WH[rng.integers(len(SIZES_WH))]
    canvas = _background(rng, photos, (width, height))
    seen_object = np.full((height, width), -1)  # index of the visible object at each pixel
    centers = rng.uniform((0.2 * width, 0.2 * height), (0.8 * width, 0.8 * height), size=(rng.integers(1, 4), 2))
    objects: list[dict[str, Any]] = []
    areas: list[int] = []
    for _ in range(rng.integers(0, MAX_OBJECTS + 1)):
        name = classes[int(rng.integers(len(classes)))]
        side = float(np.exp(rng.uniform(*np.log(SIDE_RANGE))))
        outline = _outline(rng, name.split()[1], side)
        for _ in range(8):
            center = centers[rng.integers(len(centers))] + rng.normal(0, 0.16 * min(width, height), size=2)
            points = outline + center
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                continue
            coverage = _coverage(points, (width, height))
            seen = np.where(coverage > 0.5, len(objects), seen_object)
            counts = np.bincount(seen[seen >= 0], minlength=len(areas) + 1)
            if all(count >= MIN_VISIBLE * area for count, area in zip(counts, areas, strict=False)):
                break
        else:
            continue
        seen_object = seen
        canvas += (_color(rng, HUES[name.split()[0]]) - canvas) * coverage[..., None]
        areas.append(int((coverage > 0.5).sum()))
        bbox = [round(float(value), 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        objects.append({"category_id": CLASSES.index(name) + 1, "bbox": bbox, "area": areas[-1]})
    canvas += rng.normal(0, rng.uniform(0, 8), size=canvas.shape)
    return Image.fromarray(canvas.round().clip(0, 255).astype(np.uint8)), objects


def _background(
    rng: np.random.Generator, photos: list[Image.Image], size_wh: tuple[int, int]
) -> NDArray[np.floating[Any]]:
    """Return a crop of a photo, possibly mirrored, with blurred spots in the colors of the classes."""
    photo = photos[rng.integers(len(photos))]
    zoom = min(photo.width / size_wh[0], photo.height / size_wh[1]) * rng.uniform(0.35, 1.0)
    w, h = size_wh[0] * zoom, size_wh[1] * zoom
    x, y = rng.uniform(0, photo.width - w), rng.uniform(0, photo.height - h)
    piece = photo.resize(size_wh, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    spots, mask = Image.new("RGB", size_wh), Image.new("L", size_wh)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform((0, 0), size_wh)
        rx, ry = rng.uniform(4, 25, size=2)
        color = _color(rng, list(HUES.values())[rng.integers(len(HUES))])
        # colored beyond the mask, otherwise the blurred edge would be dark
        ImageDraw.Draw(spots).ellipse((x - 2 * rx, y - 2 * ry, x + 2 * rx, y + 2 * ry), fill=tuple(map(int, color)))
        ImageDraw.Draw(mask).ellipse((x - rx, y - ry, x + rx, y + ry), fill=150)
    piece.paste(spots, mask=mask.filter(ImageFilter.GaussianBlur(4)))
    return np.asarray(piece, dtype=np.float64) * rng.uniform(0.75, 1.15)


def _color(rng: np.random.Generator, hue: float) -> NDArray[np.float64]:
    """Return an RGB color, 0 to 255, of about this hue."""
    hue = (hue + rng.normal(0, 0.02)) % 1
    return np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 1.0), rng.uniform(0.55, 1.0))) * 255


def _outline(rng: np.random.Generator, shape: str, side: float) -> NDArray[np.float64]:
    """Return points (n, 2) of a rotated, stretched shape around the origin; its longer side is `side` pixels."""
    if shape == "square":
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    elif shape == "cross":
        quarter = np.array([(0.34, 0.34), (0.34, 1), (-0.34, 1)])
        turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), n) for n in range(4)]
        points = np.concatenate([quarter @ turn for turn in turns])
    else:
        corners = {"disk": 40, "triangle": 3, "star": 10}[shape]
        angles = 2 * np.pi * np.arange(corners) / corners
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        if shape == "star":
            points *= np.tile([1.0, 0.42], 5)[:, None]
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (points * (1.0, rng.uniform(0.7, 1.0))) @ rotation.T
    return points * side / np.ptp(points, axis=0).max()


def _coverage(points: NDArray[np.float64], size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return the coverage (h, w), 0 to 1, of each pixel by the outline."""
    mask = Image.new("L", (size_wh[0] * SUPERSAMPLING, size_wh[1] * SUPERSAMPLING))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points * SUPERSAMPLING], fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING)) / 255
