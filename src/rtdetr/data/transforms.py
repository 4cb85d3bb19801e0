"""The published training augmentation: from an image with boxes to an image at network size and a `Target`.

Zoom-out and crop only choose a window of the image plane. `draw_view` chooses it before the image is read, from its
size and boxes, so the dataset can read large images at reduced size. `augment` then processes the pixels once: it
resizes the visible part of the image to its position in the result and distorts its colors (`colors.py`); the rest
stays black. `schedule.py` defines which operations are active in an epoch; evaluation uses `rtdetr.preprocessing`
instead.

Source: arXiv 1512.02325 (SSD) section 2.2 for the augmentation, arXiv 2304.08069 (RT-DETR) for its use here.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from rtdetr.config import SizeHW
from rtdetr.data.colors import distort, draw_steps
from rtdetr.data.schedule import EpochPlan
from rtdetr.structures import Target
from rtdetr.torch_resize import resize_with_torch

_MIN_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1.0 means: do not crop
_TRIALS = 40
_MIN_SIDE = 0.999  # pixels of an object that is kept; 1 except for rounding
_TINY = 32.0  # pixels of the sample: an object with less than this squared in area may be zoomed in on (COCO: "small")
_TINY_SHARE = 1 / 8  # of each side of its image that such an object takes at most
_ZOOMS = (2.0, 4.0)
_REDUCED_BEYOND = 2  # a reduced image has at least twice the target size per side, so results differ by half a level


class Sample(NamedTuple):
    """An image at the epoch's size, uint8 (h, w, c), and its objects with normalized cxcywh boxes."""

    pixels: np.ndarray
    target: Target


class Objects(NamedTuple):
    """Size and training objects of an image, known before the image is read.

    size_wh: width and height in pixels.
    boxes_xyxy: float (n, 4), pixels, inside the image.
    labels: int64 (n,).
    """

    size_wh: tuple[int, int]
    boxes_xyxy: np.ndarray
    labels: np.ndarray


class Window(NamedTuple):
    """A part of the image plane, in image pixels; it may extend beyond the image, where everything is black."""

    left: int
    top: int
    width: int
    height: int


class View(NamedTuple):
    """The part of an image that a training sample shows, drawn before the image is read.

    window: part of the image plane.
    flip: whether the sample is mirrored.
    columns, rows: pixel range of the image in the window, and the pixel range of the sample that it fills.
    """

    window: Window
    flip: bool
    columns: tuple[tuple[int, int], tuple[int, int]]
    rows: tuple[tuple[int, int], tuple[int, int]]

    @property
    def place_hw(self) -> SizeHW:
        """Height and width of the visible part of the image in the sample."""
        (_, (x0, x1)), (_, (y0, y1)) = self.columns, self.rows
        return y1 - y0, x1 - x0

    @property
    def reduction(self) -> int:
        """Factor by which the image may be reduced when read; see `reduction_for`."""
        return reduction_for((self.columns[0], self.rows[0]), self.place_hw)


def draw_view(objects: Objects, *, plan: EpochPlan, rng: np.random.Generator) -> View:
    """Draw the part of an image that a training sample shows; `augment` creates the sample.

    In place of zoom-out and crop, this may be a part around a tiny object, see `zoom_in`.

    Args:
        objects: size and objects of the image.
        plan: settings of the epoch.
        rng: source of all randomness; the global generators are not used.
    """
    window = Window(0, 0, *objects.size_wh)
    near = zoom_in(objects, plan.size_hw, rng) if plan.zoom_in and rng.random() < plan.zoom_in else None
    if near is not None:
        window = near
    elif plan.strong:
        if rng.random() < 0.5:
            window = zoom_out(objects.size_wh, rng)
        if rng.random() < 0.8:
            window = iou_crop(window, objects.boxes_xyxy, rng)
    flip = rng.random() < plan.flip
    columns, rows = (
        _span(start, length, side, out)
        for start, length, side, out in zip(window[:2], window[2:], objects.size_wh, plan.size_hw[::-1], strict=True)
    )
    return View(window, flip, columns, rows)


def augment(
    pixels: UInt8[np.ndarray, "h w c"], objects: Objects, view: View, *, plan: EpochPlan, rng: np.random.Generator
) -> Sample:
    """Turn one image into a training sample.

    Args:
        pixels: the image, possibly reduced by the view's `reduction`.
        objects: its original size and its objects.
        view: view from `draw_view`.
        plan: settings of the epoch; the result has its `size_hw`.
        rng: source of the color distortion, used after the view.

    Returns:
        The image and the objects that are still visible: their center is in the window, and they are at least a pixel
        wide and high before and after resizing.

    Differs: colors are distorted before or after resizing, whichever has fewer pixels (each pixel changes in the same
    way; contrast uses the mean gray level of the visible part). Only boxes and labels are returned; published code also
    returns the areas and crowd flags of all objects, including removed ones. Boxes are computed in float64 and clamped;
    in float32 a box as wide as its image can end 4e-5 pixels outside and is then deleted.
    """
    part = crop_spans(pixels, objects.size_wh, (view.columns[0], view.rows[0]))
    rendered = _render(part, view, plan.size_hw, color_rng=rng if plan.strong else None)
    sample = Sample(rendered, visible_objects(objects, view.window, plan.size_hw))
    return flip_horizontally(sample) if view.flip else sample


def flip_horizontally(sample: Sample) -> Sample:
    """Return the sample mirrored left to right."""
    boxes = sample.target["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    pixels = torch.from_numpy(sample.pixels).flip(1).numpy()  # takes a quarter of NumPy's time
    return Sample(pixels, Target(labels=sample.target["labels"], boxes=boxes))


def zoom_out(size_wh: tuple[int, int], rng: np.random.Generator) -> Window:
    """Draw a canvas with 1 to 4 times the sides of the image, and a random position of the image on it."""
    ratio = rng.uniform(1.0, 4.0)
    width, height = (int(side * ratio) for side in size_wh)
    left, top = (int((canvas - side) * rng.random()) for canvas, side in zip((width, height), size_wh, strict=True))
    return Window(-left, -top, width, height)


def zoom_in(objects: Objects, size_hw: SizeHW, rng: np.random.Generator) -> Window | None:
    """Draw a part of the image that shows a tiny object 2 to 4 times as large; None if no object is tiny.

    An object is tiny if its area in the sample is less than 32 x 32 pixels and its sides are at most an eighth of the
    image's. The part has the aspect ratio of the image and contains the whole object, at a random position.

    Source: arXiv 1805.09300 (SNIPER), which trains on crops in which small objects are enlarged.
    """
    size_wh = np.array(objects.size_wh)
    shares = (objects.boxes_xyxy[:, 2:] - objects.boxes_xyxy[:, :2]) / size_wh
    is_tiny = (shares.prod(axis=1) * size_hw[0] * size_hw[1] < _TINY**2) & (shares <= _TINY_SHARE).all(axis=1)
    if not is_tiny.any():
        return None
    box = objects.boxes_xyxy[rng.choice(np.flatnonzero(is_tiny))]
    sides = np.maximum((size_wh / rng.uniform(*_ZOOMS)).round().astype(int), 1)
    lowest = np.ceil((box[2:] - sides).clip(0)).astype(int)
    highest = np.floor(np.minimum(box[:2], size_wh - sides)).astype(int)
    left, top = rng.integers(np.minimum(lowest, highest), highest + 1).tolist()
    return Window(left, top, *sides.tolist())


def iou_crop(window: Window, boxes_xyxy: np.ndarray, rng: np.random.Generator) -> Window:
    """Draw a crop of the window that has a random minimum IoU with an object; often the window itself.

    Its sides are 0.3 to 1 of the window's, its aspect ratio is 0.5 to 2, and it contains the center of an object. The
    rule is that of torchvision's `RandomIoUCrop`, which takes 3 ms per image and divides by zero on images of less than
    4 pixels; here the 40 trials are one computation.
    """
    if len(boxes_xyxy) == 0:
        return window
    plane = np.array(window[2:])
    while True:
        least_iou = rng.choice(_MIN_IOUS)
        if least_iou >= 1.0:
            return window
        sizes = (rng.uniform(0.3, 1.0, (_TRIALS, 2)) * plane).astype(np.int64)
        offsets = np.array(window[:2]) + (rng.random((_TRIALS, 2)) * (plane - sizes)).astype(np.int64)
        crops = np.concatenate([offsets, offsets + sizes], axis=1)
        width, height = sizes.T
        allowed = (width > 0) & (height > 0) & (height <= 2 * width) & (width <= 2 * height)
        ious = np.where(_center_inside(boxes_xyxy, crops[:, None]), _iou(boxes_xyxy, crops[:, None]), -1.0)
        allowed &= ious.max(axis=1) >= least_iou
        if allowed.any():
            chosen = allowed.argmax()
            return Window(*offsets[chosen].tolist(), *sizes[chosen].tolist())


def _center_inside(boxes_xyxy: np.ndarray, crops_xyxy: np.ndarray) -> np.ndarray:
    centers = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) * 0.5
    return np.all((crops_xyxy[..., :2] < centers) & (centers < crops_xyxy[..., 2:]), axis=-1)


def _iou(boxes_xyxy: np.ndarray, crops_xyxy: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes_xyxy[..., :2], crops_xyxy[..., :2])
    high = np.minimum(boxes_xyxy[..., 2:], crops_xyxy[..., 2:])
    intersection = (high - low).clip(0).prod(-1)
    areas = [(xyxy[..., 2:] - xyxy[..., :2]).prod(-1) for xyxy in (boxes_xyxy, crops_xyxy)]
    return intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-9)


def visible_objects(objects: Objects, window: Window, size_hw: SizeHW) -> Target:
    """Return the objects in the window, relative to it, of at least a pixel before and after resizing to `size_hw`."""
    left, top, width, height = window
    corners = np.array([left, top, left + width, top + height], dtype=np.float64)
    kept = _center_inside(objects.boxes_xyxy, corners)
    boxes = objects.boxes_xyxy[kept] - np.tile(corners[:2], 2)
    return to_target(boxes, objects.labels[kept], plane_wh=np.array([width, height]), size_hw=size_hw)


def to_target(boxes_xyxy: np.ndarray, labels: np.ndarray, *, plane_wh: np.ndarray, size_hw: SizeHW) -> Target:
    """Clip boxes to a plane, drop those under a pixel, there or at `size_hw`, and normalize the rest."""
    boxes = boxes_xyxy.astype(np.float64).reshape(-1, 2, 2).clip(0, plane_wh)
    sides = boxes[:, 1] - boxes[:, 0]
    kept = (np.minimum(sides, sides * (size_hw[1], size_hw[0]) / plane_wh) >= _MIN_SIDE).all(1)
    cxcywh = np.concatenate([boxes.mean(axis=1) / plane_wh, sides / plane_wh], axis=1)[kept]
    return Target(
        labels=torch.from_numpy(labels[kept].astype(np.int64)), boxes=torch.from_numpy(cxcywh.astype(np.float32))
    )


def _render(part: np.ndarray, view: View, size_hw: SizeHW, *, color_rng: np.random.Generator | None) -> np.ndarray:
    """Render the window as uint8 (h, w, c) at `size_hw`, with color distortion if a generator is given."""
    place_hw, (x0, x1), (y0, y1) = view.place_hw, view.columns[1], view.rows[1]
    steps = draw_steps(color_rng, num_channels=part.shape[2]) if color_rng is not None else []
    if part.shape[0] * part.shape[1] <= place_hw[0] * place_hw[1]:
        part = resize_with_torch(distort(part, steps), place_hw)
    else:
        part = distort(resize_with_torch(part, place_hw), steps)
    if part.shape[:2] == size_hw:
        return part
    pixels = np.zeros((*size_hw, part.shape[2]), dtype=np.uint8)
    pixels[y0:y1, x0:x1] = part
    return pixels


def _span(start: int, length: int, side: int, out: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return, along one axis, the pixel range of the image in the window and the range of the result that it fills."""
    low, high = max(start, 0), min(start + length, side)
    return (low, high), pixel_range(low - start, high - start, length, out)


def pixel_range(low: int, high: int, side: int, out: int) -> tuple[int, int]:
    """Return the range `low` to `high` of a side, at least a pixel, after the side was resized to `out` pixels."""
    first = min(round(low * out / side), out - 1)
    return first, max(round(high * out / side), first + 1)


def reduction_for(spans: tuple[tuple[int, int], tuple[int, int]], place_hw: SizeHW) -> int:
    """Return the factor (1, 2, 4, 8) by which an image may be reduced if `spans` of it are resized to `place_hw`."""
    ratio = min((high - low) / place for (low, high), place in zip(spans, place_hw[::-1], strict=True))
    return next((factor for factor in (8, 4, 2) if ratio >= factor * _REDUCED_BEYOND), 1)


def crop_spans(
    pixels: np.ndarray, size_wh: tuple[int, int], spans: tuple[tuple[int, int], tuple[int, int]]
) -> np.ndarray:
    """Return the columns and rows `spans`, in pixels of the original `size_wh`, of an image that may be reduced."""
    (left, right), (top, bottom) = (
        (round(low * got / side), round(high * got / side))
        for (low, high), got, side in zip(spans, pixels.shape[1::-1], size_wh, strict=True)
    )
    return pixels[top:bottom, left:right]
