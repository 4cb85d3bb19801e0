"""The published training augmentation: an image with its boxes in, a network-sized image and a `Target` out.

Zoom-out and crop only choose a window of the image plane. `draw_view` chooses it before the image is read, from its
size and boxes, so that the dataset can read large images at reduced size. `augment` then touches the pixels once: the
window's part of the image is resized to the place it has in the result, its colors are distorted (`colors.py`), and
the rest stays black.
What is on at which epoch says `schedule.py`; evaluation uses `rtdetr.preprocessing` instead.

Source: arXiv 1512.02325 (SSD) section 2.2 for the augmentation, arXiv 2304.08069 (RT-DETR) for its use here.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torchvision.transforms import v2

from rtdetr.config import SizeHW
from rtdetr.data.colors import distort, draw_steps
from rtdetr.data.schedule import EpochPlan
from rtdetr.structures import Target

_LEAST_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1.0 means: do not crop
_TRIALS = 40
_LEAST_SIDE = 0.999  # pixels of an object that is kept; 1 but for rounding
_REDUCED_BEYOND = 2  # a reduced image still has twice the pixels it is resized to, each way: the same to half a level


class Sample(NamedTuple):
    """An image at the epoch's size, uint8 (h, w, c), and its objects with normalized cxcywh boxes."""

    pixels: np.ndarray
    target: Target


class Objects(NamedTuple):
    """What is known of an image before it is read: its size and the objects to train on.

    size_wh: width and height in pixels.
    boxes_xyxy: float (n, 4), pixels, inside the image.
    labels: int64 (n,).
    """

    size_wh: tuple[int, int]
    boxes_xyxy: np.ndarray
    labels: np.ndarray


class Window(NamedTuple):
    """A part of the image plane, in pixels of the image; it may reach beyond the image, where everything is black."""

    left: int
    top: int
    width: int
    height: int


class View(NamedTuple):
    """What a training sample shows of an image, all of it drawn before the image is read.

    window: the part of the image plane.
    flip: whether the sample is mirrored.
    columns, rows: which pixels of the image the window shows, and the pixels of the sample that they fill.
    """

    window: Window
    flip: bool
    columns: tuple[tuple[int, int], tuple[int, int]]
    rows: tuple[tuple[int, int], tuple[int, int]]

    @property
    def place_hw(self) -> SizeHW:
        """Height and width in the sample of the part that is shown."""
        (_, (x0, x1)), (_, (y0, y1)) = self.columns, self.rows
        return y1 - y0, x1 - x0

    @property
    def reduction(self) -> int:
        """How much smaller the image may be read, see `reduction_for`."""
        return reduction_for((self.columns[0], self.rows[0]), self.place_hw)


def draw_view(objects: Objects, *, plan: EpochPlan, rng: np.random.Generator) -> View:
    """Draw what a training sample shows of an image; `augment` makes the sample.

    Args:
        objects: size and objects of the image.
        plan: the epoch's settings.
        rng: all randomness comes from here; the global generators are left as they are.
    """
    window = Window(0, 0, *objects.size_wh)
    if plan.strong:
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
        pixels: the image, perhaps reduced by the view's `reduction`.
        objects: its size when not reduced, and its objects.
        view: of `draw_view`.
        plan: the epoch's settings; the result has its `size_hw`.
        rng: the colors are drawn from here, after the view.

    Returns:
        The image and the objects that are still visible: their center lies in the window, and they are at least a pixel
        wide and high, before and after resizing.

    Differs: colors are distorted before or after resizing, wherever there are fewer pixels (the same change to each
    pixel; the gray level that contrast turns around is that of the visible part). Only boxes and labels leave this
    function; published code returns areas and crowd marks too, of all objects, also those it removed. Boxes are
    computed in float64 and clamped; in float32 a box as wide as its image can end 4e-5 pixels outside, for which it is
    deleted.
    """
    part = part_of(pixels, objects.size_wh, (view.columns[0], view.rows[0]))
    rendered = _render(part, view, plan.size_hw, color_rng=rng if plan.strong else None)
    sample = Sample(rendered, visible(objects, view.window, plan.size_hw))
    return mirrored(sample) if view.flip else sample


def mirrored(sample: Sample) -> Sample:
    """The sample with left and right exchanged."""
    boxes = sample.target["boxes"].clone()
    boxes[:, 0] = 1 - boxes[:, 0]
    pixels = torch.from_numpy(sample.pixels).flip(1).numpy()  # a quarter of NumPy's time
    return Sample(pixels, Target(labels=sample.target["labels"], boxes=boxes))


def zoom_out(size_wh: tuple[int, int], rng: np.random.Generator) -> Window:
    """A canvas with 1 to 4 times the sides of the image, which lies somewhere on it."""
    ratio = rng.uniform(1.0, 4.0)
    width, height = (int(side * ratio) for side in size_wh)
    left, top = (int((canvas - side) * rng.random()) for canvas, side in zip((width, height), size_wh, strict=True))
    return Window(-left, -top, width, height)


def iou_crop(window: Window, boxes_xyxy: np.ndarray, rng: np.random.Generator) -> Window:
    """A part of the window that some object covers to a random least IoU; often the window itself.

    The sides are 0.3 to 1 of the window's, the aspect ratio 0.5 to 2, and at least one object has its center inside.
    The same rule as torchvision's `RandomIoUCrop`, with the 40 trials in one computation: that one takes 3 ms an
    image, and divides by zero on images of less than 4 pixels.
    """
    if len(boxes_xyxy) == 0:
        return window
    plane = np.array(window[2:])
    while True:
        least_iou = rng.choice(_LEAST_IOUS)
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


def visible(objects: Objects, window: Window, size_hw: SizeHW) -> Target:
    """The objects in the window, relative to it, that have a pixel before and after it is resized to `size_hw`."""
    left, top, width, height = window
    corners = np.array([left, top, left + width, top + height], dtype=np.float64)
    kept = _center_inside(objects.boxes_xyxy, corners)
    boxes = objects.boxes_xyxy[kept] - np.tile(corners[:2], 2)
    return to_target(boxes, objects.labels[kept], plane_wh=np.array([width, height]), size_hw=size_hw)


def to_target(boxes_xyxy: np.ndarray, labels: np.ndarray, *, plane_wh: np.ndarray, size_hw: SizeHW) -> Target:
    """Cut boxes at the border of a plane, drop those of less than a pixel, there or at `size_hw`, and normalize."""
    boxes = boxes_xyxy.astype(np.float64).reshape(-1, 2, 2).clip(0, plane_wh)
    sides = boxes[:, 1] - boxes[:, 0]
    kept = (np.minimum(sides, sides * (size_hw[1], size_hw[0]) / plane_wh) >= _LEAST_SIDE).all(1)
    cxcywh = np.concatenate([boxes.mean(axis=1) / plane_wh, sides / plane_wh], axis=1)[kept]
    return Target(
        labels=torch.from_numpy(labels[kept].astype(np.int64)), boxes=torch.from_numpy(cxcywh.astype(np.float32))
    )


def _render(part: np.ndarray, view: View, size_hw: SizeHW, *, color_rng: np.random.Generator | None) -> np.ndarray:
    """The window as uint8 (h, w, c) of `size_hw`, with distorted colors when a generator for them is given."""
    place_hw, (x0, x1), (y0, y1) = view.place_hw, view.columns[1], view.rows[1]
    steps = draw_steps(color_rng, num_channels=part.shape[2]) if color_rng is not None else []
    if part.shape[0] * part.shape[1] <= place_hw[0] * place_hw[1]:
        part = resize(distort(part, steps), place_hw)
    else:
        part = distort(resize(part, place_hw), steps)
    if part.shape[:2] == size_hw:
        return part
    pixels = np.zeros((*size_hw, part.shape[2]), dtype=np.uint8)
    pixels[y0:y1, x0:x1] = part
    return pixels


def _span(start: int, length: int, side: int, out: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Along one axis: which pixels of the image the window shows, and the pixels of the result that they fill."""
    low, high = max(start, 0), min(start + length, side)
    first = min(round((low - start) * out / length), out - 1)
    last = max(round((high - start) * out / length), first + 1)
    return (low, high), (first, last)


def reduction_for(spans: tuple[tuple[int, int], tuple[int, int]], place_hw: SizeHW) -> int:
    """How much smaller an image may be read whose columns and rows `spans` are resized to `place_hw`: 1, 2, 4 or 8."""
    ratio = min((high - low) / place for (low, high), place in zip(spans, place_hw[::-1], strict=True))
    return next((factor for factor in (8, 4, 2) if ratio >= factor * _REDUCED_BEYOND), 1)


def part_of(pixels: np.ndarray, size_wh: tuple[int, int], spans: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """The columns and rows `spans`, in pixels of an image of `size_wh`, of one that may be reduced."""
    (left, right), (top, bottom) = (
        (round(low * got / side), round(high * got / side))
        for (low, high), got, side in zip(spans, pixels.shape[1::-1], size_wh, strict=True)
    )
    return pixels[top:bottom, left:right]


def resize(pixels: UInt8[np.ndarray, "h w c"], size_hw: SizeHW) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Stretch with antialiasing; torch's uint8 kernel gives PIL's values to 1 level in a tenth of the time."""
    if pixels.shape[:2] == size_hw:
        return pixels
    stretched = v2.functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), list(size_hw), antialias=True)
    return stretched.permute(1, 2, 0).numpy()
