"""Copy-paste: objects of another training image, pasted into this one.

`draw_pastes` chooses the objects and their places before the images are read, so boxes are known when the view of the
sample is drawn, and large images can be read at reduced size. `paste_objects` then draws them. Objects with an outline
(`outlines.py`) are cut out along it, others are pasted as the rectangle of their box.

Source: arXiv 2012.07177 (Simple Copy-Paste), section 3; arXiv 1708.01642 (Cut, Paste and Learn), section 5.2, for
blended borders of varying width, so that borders do not reveal pasted objects.

Differs: single objects are scaled and moved, not a whole image of them. A paste that would hide most of another object
is refused, so no object loses its target, and every box still encloses the whole object, including hidden parts.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from rtdetr.config import SizeHW
from rtdetr.data.outlines import Outline, coverage
from rtdetr.data.schedule import EpochPlan
from rtdetr.data.transforms import Objects, Window, crop_spans, pixel_range, reduction_for
from rtdetr.torch_resize import resize_with_torch

MIN_VISIBLE = 0.5  # share of each object that pastes leave visible
_MOST = 10  # objects pasted into an image
_TRIALS = 10  # places tried per object
_LOG_SCALES = math.log(0.5), math.log(2.0)  # of an object, relative to the sizes of the two images
_FEATHER = 0.1  # largest width of a blended border, relative to the shorter side of the object
_MOST_OVERLAP = 0.1  # share of a pasted rectangle that may belong to another box
_LEAST_FILLED = 0.05  # share of its box that an outline fills, otherwise they do not belong together
_NO_BOXES = np.zeros((0, 4), np.float32)
_MASK_HW = (32, 32)  # resolution at which it is checked what a pasted object hides
_GRID = (np.arange(12) + 0.5) / 12  # positions in a box, per axis, that are checked


class Paste(NamedTuple):
    """An object of another image and its place in this one.

    source_xyxy: part of the other image, in its pixels.
    place: part of this image that it fills, in pixels.
    flip: whether it is mirrored.
    feather: width of the blended border, relative to the shorter side of the place.
    outline: outline of the object in the other image; None: the whole rectangle is pasted.
    """

    source_xyxy: tuple[int, int, int, int]
    place: Window
    flip: bool
    feather: float
    outline: Outline | None


def draw_pastes(
    objects: Objects,
    other: Objects,
    outlines: Sequence[Outline | None],
    *,
    crowds_xyxy: np.ndarray = _NO_BOXES,
    plan: EpochPlan,
    rng: np.random.Generator,
) -> tuple[Objects, list[Paste]]:
    """Draw which objects of another image are pasted into this one, and where.

    Up to 10 objects are pasted, at 0.5 to 2 times their size relative to the image, entirely inside the image. A paste
    that leaves less than half of another object visible is tried at other places, then omitted. Rectangles that contain
    parts of other objects are not pasted.

    Args:
        objects: size and objects of this image.
        other: those of the other image.
        outlines: outlines of the objects of the other image; None: unknown.
        crowds_xyxy: crowd regions of the other image, (n, 4), pixels.
        plan: settings of the epoch.
        rng: source of all randomness.

    Returns:
        The objects with the pasted ones, and what `paste_objects` has to draw.
    """
    is_alone = _is_alone(np.concatenate([other.boxes_xyxy, crowds_xyxy]))[: len(other.labels)]
    usable = [row for row, outline in enumerate(outlines) if outline is not None or is_alone[row]]
    count = rng.integers(1, min(len(usable), _MOST) + 1) if usable else 0
    scale = math.sqrt(math.prod(objects.size_wh) / math.prod(other.size_wh))
    points = _points_in(objects.boxes_xyxy)
    hidden = np.zeros(points.shape[:2], dtype=bool)
    pastes: list[Paste] = []
    boxes, labels = [objects.boxes_xyxy], [objects.labels]
    for row in rng.permutation(usable)[:count].tolist():
        box, outline = other.boxes_xyxy[row], outlines[row]
        low, high = np.floor(box[:2]).astype(int).tolist(), np.ceil(box[2:]).astype(int).tolist()
        source_xyxy = (*low, *high)
        flip, feather = bool(rng.random() < plan.flip), rng.uniform(0, _FEATHER)
        mask = np.full(_MASK_HW, 255) if outline is None else coverage(outline, source_xyxy, _MASK_HW)
        mask = (mask[:, ::-1] if flip else mask) > 127
        if mask.mean() < _LEAST_FILLED:
            continue
        for _ in range(_TRIALS):
            place = _draw_place(source_xyxy, objects.size_wh, scale=scale, rng=rng)
            hidden_then = hidden | _hits(points, place, mask)
            if (hidden_then.mean(axis=1) <= 1 - MIN_VISIBLE).all():
                pasted = _placed(box, source_xyxy, place, flip=flip)
                own_points = _points_in(pasted)
                points = np.concatenate([points, own_points])
                hidden = np.concatenate([hidden_then, np.zeros(own_points.shape[:2], dtype=bool)])
                pastes.append(Paste(source_xyxy, place, flip, feather, outline))
                boxes.append(pasted.astype(objects.boxes_xyxy.dtype))
                labels.append(other.labels[[row]])
                break
    return Objects(objects.size_wh, np.concatenate(boxes), np.concatenate(labels)), pastes


def paste_objects(
    pixels: np.ndarray,
    pastes: Sequence[Paste],
    *,
    size_wh: tuple[int, int],
    other_size_wh: tuple[int, int],
    read_other: Callable[[int], np.ndarray],
) -> np.ndarray:
    """Return an image with objects of another one pasted into it.

    Args:
        pixels: the image, uint8 (h, w, c), possibly reduced.
        pastes: what to paste, in this order.
        size_wh: original width and height of the image.
        other_size_wh: original width and height of the other image.
        read_other: reads the other image, reduced by at most the given factor.
    """
    if not pastes:
        return pixels
    places = [_pixels_of(paste.place, size_wh, pixels.shape[1::-1]) for paste in pastes]
    sources = [((x0, x1), (y0, y1)) for x0, y0, x1, y1 in (paste.source_xyxy for paste in pastes)]
    sizes_hw = [(y1 - y0, x1 - x0) for (x0, x1), (y0, y1) in places]
    other = read_other(min(map(reduction_for, sources, sizes_hw)))
    pixels = pixels.copy()
    for paste, source, size_hw, ((x0, x1), (y0, y1)) in zip(pastes, sources, sizes_hw, places, strict=True):
        part = resize_with_torch(crop_spans(other, other_size_wh, source), size_hw)
        opacity = _opacity(paste, size_hw)
        if paste.flip:
            part, opacity = part[:, ::-1], opacity[:, ::-1]
        below = pixels[y0:y1, x0:x1].astype(np.int32)
        pixels[y0:y1, x0:x1] = below + ((part - below) * opacity[..., None] + 127) // 255
    return pixels


def _is_alone(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return which boxes hardly overlap another one, bool (n,)."""
    low = np.maximum(boxes_xyxy[:, None, :2], boxes_xyxy[:, :2])
    high = np.minimum(boxes_xyxy[:, None, 2:], boxes_xyxy[:, 2:])
    shared = (high - low).clip(0).prod(axis=-1)
    areas = shared.diagonal().copy()
    np.fill_diagonal(shared, 0)
    return (shared <= _MOST_OVERLAP * areas[:, None]).all(axis=1)


def _draw_place(
    source_xyxy: tuple[int, int, int, int], size_wh: tuple[int, int], *, scale: float, rng: np.random.Generator
) -> Window:
    sides = source_xyxy[2] - source_xyxy[0], source_xyxy[3] - source_xyxy[1]
    scale = scale * math.exp(rng.uniform(*_LOG_SCALES))
    scale = min(scale, *(most / side for most, side in zip(size_wh, sides, strict=True)))
    width, height = (max(round(side * scale), 1) for side in sides)
    left, top = (int(rng.integers(most - side + 1)) for most, side in zip(size_wh, (width, height), strict=True))
    return Window(left, top, width, height)


def _placed(box_xyxy: np.ndarray, source_xyxy: tuple[int, int, int, int], place: Window, *, flip: bool) -> np.ndarray:
    """Return the box, (1, 4), of an object after it was moved from its source to a place."""
    x0, y0, x1, y1 = source_xyxy
    low_x, low_y, high_x, high_y = ((box_xyxy - (x0, y0, x0, y0)) / (x1 - x0, y1 - y0, x1 - x0, y1 - y0)).tolist()
    if flip:
        low_x, high_x = 1 - high_x, 1 - low_x
    corners = np.array([low_x, low_y, high_x, high_y]) * np.tile(place[2:], 2) + np.tile(place[:2], 2)
    return corners[None]


def _points_in(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return points on a grid in each box, float64 (n, points, 2)."""
    grid = np.stack(np.meshgrid(_GRID, _GRID), axis=-1).reshape(-1, 2)
    low, high = boxes_xyxy[:, None, :2].astype(np.float64), boxes_xyxy[:, None, 2:]
    return low + grid * (high - low)


def _hits(points: np.ndarray, place: Window, mask: np.ndarray) -> np.ndarray:
    """Return which points are covered by a mask that is drawn at a place."""
    at = (points - place[:2]) / place[2:]
    inside = np.all((at >= 0) & (at < 1), axis=-1)
    cells = (np.where(inside[..., None], at, 0) * mask.shape[::-1]).astype(int)
    return inside & mask[cells[..., 1], cells[..., 0]]


def _pixels_of(
    place: Window, size_wh: tuple[int, int], pixels_wh: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the columns and rows of a place in an image that may be reduced."""
    columns, rows = (
        pixel_range(first, first + length, side, got)
        for first, length, side, got in zip(place[:2], place[2:], size_wh, pixels_wh, strict=True)
    )
    return columns, rows


def _opacity(paste: Paste, size_hw: SizeHW) -> np.ndarray:
    """Return the weight of a pasted object per pixel, int32 (h, w), 0 to 255, falling to its border."""
    width = paste.feather * min(size_hw)
    if paste.outline is not None:
        mask = Image.fromarray(coverage(paste.outline, paste.source_xyxy, size_hw))
        return np.asarray(mask.filter(ImageFilter.GaussianBlur(width / 2)), dtype=np.int32)
    rises = [np.minimum(np.arange(side), np.arange(side)[::-1]) for side in size_hw]  # distance to the border
    vertical, horizontal = (((rise + 0.5) / max(width, 0.5)).clip(max=1) * 255 for rise in rises)
    return np.minimum.outer(vertical, horizontal).astype(np.int32)
