"""The published training augmentation: an image with its boxes in, a network-sized image and a `Target` out.

Zoom-out and crop only choose a window of the image plane, so the pixels are touched once: the window's part of the
image is resized to the place it has in the result, its colours are distorted, and the rest stays black. What is on at
which epoch says `schedule.py`; evaluation uses `rtdetr.preprocessing` instead.

Source: arXiv 1512.02325 (SSD) section 2.2 for the augmentation, arXiv 2304.08069 (RT-DETR) for its use here.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from rtdetr.config import SizeHW
from rtdetr.data.schedule import EpochPlan
from rtdetr.structures import Target

_LEAST_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # 1.0 means: do not crop
_TRIALS = 40
_distort_colours = v2.RandomPhotometricDistort(
    brightness=(0.875, 1.125), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.05, 0.05), p=0.5
)


class Window(NamedTuple):
    """A part of the image plane, in pixels of the image; it may reach beyond the image, where everything is black."""

    left: int
    top: int
    width: int
    height: int


def augment(
    image: Image.Image, boxes_xyxy: np.ndarray, labels: np.ndarray, *, plan: EpochPlan, rng: np.random.Generator
) -> tuple[UInt8[Tensor, "3 h w"], Target]:
    """Turn one image into a training sample.

    Args:
        image: RGB.
        boxes_xyxy: float (n, 4), pixels, inside the image.
        labels: int64 (n,).
        plan: the epoch's settings; the result has its `size_hw`.
        rng: all randomness comes from here; the global generators are left as they are.

    Returns:
        The image as uint8 RGB, and labels and normalised cxcywh boxes of the objects that are still visible: their
        centre lies in the window, and they are at least a pixel wide and high, before and after resizing.

    Differs: colours are distorted after resizing instead of before (less to do, the same change to each pixel; the
    grey level that contrast turns around is that of the visible part). Only boxes and labels leave this function;
    published code returns areas and crowd marks too, of all objects, also those it removed. Boxes are computed in
    float64 and clamped; in float32 a box as wide as its image can end 4e-5 pixels outside, for which it is deleted.
    """
    window = Window(0, 0, *image.size)
    if plan.strong:
        if rng.random() < 0.5:
            window = zoom_out(image.size, rng)
        if rng.random() < 0.8:
            window = iou_crop(window, boxes_xyxy, rng)
    flip = rng.random() < 0.5
    pixels = _render(image, window, plan.size_hw, colour_rng=rng if plan.strong else None)
    if flip:
        pixels = pixels[:, ::-1]
    target = _visible(boxes_xyxy, labels, window, plan.size_hw)
    if flip:
        target["boxes"][:, 0] = 1 - target["boxes"][:, 0]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), target


def zoom_out(size_wh: tuple[int, int], rng: np.random.Generator) -> Window:
    """A canvas with 1 to 4 times the sides of the image, which lies somewhere on it."""
    ratio = rng.uniform(1.0, 4.0)
    width, height = (int(side * ratio) for side in size_wh)
    left, top = (int((canvas - side) * rng.random()) for canvas, side in zip((width, height), size_wh, strict=True))
    return Window(-left, -top, width, height)


def iou_crop(window: Window, boxes_xyxy: np.ndarray, rng: np.random.Generator) -> Window:
    """A part of the window that some object covers to a random least IoU; often the window itself.

    The sides are 0.3 to 1 of the window's, the aspect ratio 0.5 to 2, and at least one object has its centre inside.
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
        ious = np.where(_centre_inside(boxes_xyxy, crops[:, None]), _iou(boxes_xyxy, crops[:, None]), -1.0)
        allowed &= ious.max(axis=1) >= least_iou
        if allowed.any():
            chosen = allowed.argmax()
            return Window(*offsets[chosen].tolist(), *sizes[chosen].tolist())


def _centre_inside(boxes_xyxy: np.ndarray, crops_xyxy: np.ndarray) -> np.ndarray:
    centres = (boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) * 0.5
    return np.all((crops_xyxy[..., :2] < centres) & (centres < crops_xyxy[..., 2:]), axis=-1)


def _iou(boxes_xyxy: np.ndarray, crops_xyxy: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes_xyxy[..., :2], crops_xyxy[..., :2])
    high = np.minimum(boxes_xyxy[..., 2:], crops_xyxy[..., 2:])
    intersection = (high - low).clip(0).prod(-1)
    areas = [(xyxy[..., 2:] - xyxy[..., :2]).prod(-1) for xyxy in (boxes_xyxy, crops_xyxy)]
    return intersection / np.maximum(areas[0] + areas[1] - intersection, 1e-9)


def _visible(boxes_xyxy: np.ndarray, labels: np.ndarray, window: Window, size_hw: SizeHW) -> Target:
    """The objects in the window, relative to it."""
    left, top, width, height = window
    corners = np.array([left, top, left + width, top + height], dtype=np.float64)
    boxes = np.clip(boxes_xyxy.astype(np.float64), np.tile(corners[:2], 2), np.tile(corners[2:], 2))
    sides = boxes[:, 2:] - boxes[:, :2]  # pixels of the image
    kept = _centre_inside(boxes_xyxy, corners) & (sides >= 1).all(1)
    kept &= (sides * [size_hw[1] / width, size_hw[0] / height] >= 1).all(1)
    scale = np.array([width, height])
    centres = (boxes[kept, :2] + boxes[kept, 2:]) * 0.5 - corners[:2]
    cxcywh = np.concatenate([centres / scale, sides[kept] / scale], axis=1)
    return Target(
        labels=torch.from_numpy(labels[kept].astype(np.int64)), boxes=torch.from_numpy(cxcywh.astype(np.float32))
    )


def _render(
    image: Image.Image, window: Window, size_hw: SizeHW, *, colour_rng: np.random.Generator | None
) -> np.ndarray:
    """The window as uint8 (h, w, 3) of `size_hw`, with distorted colours when a generator for them is given."""
    spans = [
        _span(start, length, side, out)
        for start, length, side, out in zip(window[:2], window[2:], image.size, size_hw[::-1], strict=True)
    ]
    (left, right), (top, bottom) = (source for source, _ in spans)
    (x0, x1), (y0, y1) = (place for _, place in spans)
    part = _resize(np.array(image.crop((left, top, right, bottom))), (y1 - y0, x1 - x0))
    if colour_rng is not None:
        part = _distort(part, colour_rng)
    if part.shape[:2] == size_hw:
        return part
    pixels = np.zeros((*size_hw, 3), dtype=np.uint8)
    pixels[y0:y1, x0:x1] = part
    return pixels


def _span(start: int, length: int, side: int, out: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Along one axis: which pixels of the image the window shows, and the pixels of the result that they fill."""
    low, high = max(start, 0), min(start + length, side)
    first = min(round((low - start) * out / length), out - 1)
    last = max(round((high - start) * out / length), first + 1)
    return (low, high), (first, last)


def _resize(pixels: np.ndarray, size_hw: SizeHW) -> np.ndarray:
    """Stretch with antialiasing; torch's uint8 kernel gives PIL's values to 1 level in a fifth of the time."""
    stretched = v2.functional.resize(torch.from_numpy(pixels).permute(2, 0, 1), list(size_hw), antialias=True)
    return stretched.permute(1, 2, 0).numpy()


def _distort(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue and the order of the channels; PIL's form of it is the fastest."""
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        return np.asarray(_distort_colours(Image.fromarray(pixels)))
