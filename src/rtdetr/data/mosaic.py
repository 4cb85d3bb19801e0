"""Denser images: `mosaic` combines four images into one sample, `mixup` blends the images of a batch pairwise.

More objects per image give one-to-one matching more pairs to learn from, without a second set of queries.

Source: arXiv 2412.04234 (DEIM) section 3.1 and its RT-DETRv2 recipes; arXiv 2004.10934 (YOLOv4) for mosaic and arXiv
1710.09412 for mixup.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rtdetr.config import SizeHW
from rtdetr.data.colors import distort, draw_steps
from rtdetr.data.schedule import EpochPlan
from rtdetr.data.transforms import Objects, Sample, flip_horizontally, reduction_for, to_target
from rtdetr.structures import Target
from rtdetr.torch_resize import resize_with_torch

NUM_TILES = 4
_SHORT_SIDE = 320.0  # of each image on the grid
_DEGREES, _SHIFT, _SCALES = 10.0, 0.1, (0.5, 1.5)
MIX_SHARES = (0.45, 0.55)


class Grid(NamedTuple):
    """Layout of four images in a sample, drawn before they are read.

    offsets, sizes_wh: float64 (4, 2), position and size of each image on the grid.
    grid_wh: float64 (2,), width and height of the grid.
    turn, shift, scale: rotation matrix (2, 2), translation and scale of the grid around its center.
    firsts, lasts: int64 (4, 2), top left and bottom right corner of each image as drawn, pixels.
    """

    offsets: np.ndarray
    sizes_wh: np.ndarray
    grid_wh: np.ndarray
    turn: np.ndarray
    shift: np.ndarray
    scale: float
    firsts: np.ndarray
    lasts: np.ndarray

    def place_hw(self, image: int) -> SizeHW:
        """Return the height and width at which an image is drawn."""
        width, height = (self.lasts[image] - self.firsts[image]).tolist()
        return height, width

    def reduction(self, image: int, size_wh: tuple[int, int]) -> int:
        """Return the factor by which an image of this size may be reduced when read; see `reduction_for`."""
        return reduction_for(((0, size_wh[0]), (0, size_wh[1])), self.place_hw(image))


def draw_grid(images: Sequence[Objects], *, plan: EpochPlan, rng: np.random.Generator) -> Grid:
    """Draw the layout of four images in a sample; `mosaic` creates the sample.

    Every image is scaled to a short side of 320; a cell has the maximum width and height. The grid is rotated by up to
    10 degrees around its center, moved by up to a tenth of its sides, scaled by 0.5 to 1.5, and cropped to its original
    area.

    Args:
        images: size and objects of each image.
        plan: settings of the epoch.
        rng: source of all randomness.
    """
    sizes_wh = np.array([image.size_wh for image in images], dtype=np.float64)
    sizes_wh *= _SHORT_SIDE / sizes_wh.min(axis=1, keepdims=True)
    cell_wh = sizes_wh.max(axis=0)
    grid_wh = 2 * cell_wh
    offsets = cell_wh * np.array([(0, 0), (1, 0), (0, 1), (1, 1)])
    angle = math.radians(rng.uniform(-_DEGREES, _DEGREES))
    shift = rng.uniform(-_SHIFT, _SHIFT, 2) * grid_wh
    scale = rng.uniform(*_SCALES)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    # images are drawn at their size in the result, so only the rotation remains
    to_result = np.array(plan.size_hw[::-1]) / grid_wh
    places, drawn_wh = offsets * scale * to_result, sizes_wh * scale * to_result
    firsts = places.round().astype(int)
    lasts = np.maximum((places + drawn_wh).round().astype(int), firsts + 1)
    return Grid(offsets, sizes_wh, grid_wh, turn, shift, scale, firsts, lasts)


def mosaic(
    pixels: Sequence[np.ndarray],
    images: Sequence[Objects],
    grid: Grid,
    *,
    plan: EpochPlan,
    rng: np.random.Generator,
) -> Sample:
    """Create a training sample from four images on a 2x2 grid, rotated, moved and scaled together.

    Color distortion and mirroring are as for other samples; there is no zoom-out or crop.

    Args:
        pixels: four images, uint8 (h, w, c), possibly reduced by the grid's `reduction`.
        images: original size and objects of each image.
        grid: layout from `draw_grid`.
        plan: settings of the epoch; the result has its `size_hw`.
        rng: source of colors and mirroring, used after the grid.

    Returns:
        The sample. A box is the bounding box of its rotated corners, clipped, and dropped if under a pixel.

    Differs: images are scaled once, with antialiasing, and rotated with bilinear interpolation; published code scales
    them, rotates and scales the grid with nearest-neighbor sampling, and scales the result.
    """
    grid_wh, turn, shift, scale = grid.grid_wh, grid.turn, grid.shift, grid.scale
    center = grid_wh / 2
    to_result = np.array(plan.size_hw[::-1]) / grid_wh
    inverse = to_result[:, None] * turn.T / to_result
    start = scale * to_result * center - to_result * (turn.T @ (center + shift))
    warped = _warp(_draw(pixels, grid), inverse, start, size_hw=plan.size_hw)

    boxes = []
    for image, offset, size_wh in zip(images, grid.offsets, grid.sizes_wh, strict=True):
        on_grid = image.boxes_xyxy.astype(np.float64) * np.tile(size_wh / image.size_wh, 2) + np.tile(offset, 2)
        corners = on_grid[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - center
        turned = scale * corners @ turn.T + center + shift
        boxes.append(np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1))
    labels = np.concatenate([image.labels for image in images])
    target = to_target(np.concatenate(boxes), labels, plane_wh=grid_wh, size_hw=plan.size_hw)

    sample = Sample(distort(warped, draw_steps(rng, num_channels=warped.shape[2])), target)
    return flip_horizontally(sample) if rng.random() < plan.flip else sample


def mixup(
    images: Float[Tensor, "b c h w"], targets: list[Target], *, share: float
) -> tuple[Float[Tensor, "b c h w"], list[Target]]:
    """Blend each image with the previous one in the batch; the result has the objects of both.

    Args:
        images: the batch; a single image is returned unchanged.
        targets: objects per image.
        share: weight of the image itself in the result.
    """
    if len(targets) < 2:
        return images, targets
    blended = images.roll(1, dims=0).lerp_(images, share)
    before = targets[-1:] + targets[:-1]
    return blended, [
        Target(labels=torch.cat([own["labels"], other["labels"]]), boxes=torch.cat([own["boxes"], other["boxes"]]))
        for own, other in zip(targets, before, strict=True)
    ]


def _draw(pixels: Sequence[np.ndarray], grid: Grid) -> np.ndarray:
    """Return a black canvas, uint8 (h, w, c), with each image resized and pasted at its position."""
    right, bottom = grid.lasts.max(axis=0)
    canvas = np.zeros((bottom, right, pixels[0].shape[2]), dtype=np.uint8)
    for image, ((x0, y0), (x1, y1)) in enumerate(zip(grid.firsts.tolist(), grid.lasts.tolist(), strict=True)):
        canvas[y0:y1, x0:x1] = resize_with_torch(pixels[image], grid.place_hw(image))
    return canvas


def _warp(pixels: np.ndarray, inverse: np.ndarray, start: np.ndarray, *, size_hw: SizeHW) -> np.ndarray:
    """Return an image whose point (x, y) is the point `inverse @ (x, y) + start` of `pixels`; black outside."""
    size_wh = size_hw[1], size_hw[0]
    coefficients = tuple(np.column_stack([inverse, start]).ravel().tolist())
    if pixels.shape[2] == 3:
        image = Image.fromarray(pixels)
        turned = image.transform(size_wh, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        return np.array(turned)
    bands = (Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1))
    turned = [b.transform(size_wh, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR) for b in bands]
    return np.stack([np.asarray(band) for band in turned], axis=2)
