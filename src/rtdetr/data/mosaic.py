"""Denser images: `mosaic` puts four images into one sample, `mix` blends the images of a batch pairwise.

More objects an image are more pairs that one-to-one matching can learn from, without a second set of queries.

Source: arXiv 2412.04234 (DEIM) section 3.1 and its RT-DETRv2 recipes; arXiv 2004.10934 (YOLOv4) and arXiv 1710.09412
for mosaic and mixup themselves.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from rtdetr.config import SizeHW
from rtdetr.data.colours import distort, draw_steps
from rtdetr.data.schedule import EpochPlan
from rtdetr.data.transforms import Picture, Sample, mirrored, read_part, resize, to_target
from rtdetr.structures import Target

NUM_TILES = 4
_SHORT_SIDE = 320.0  # of each image on the grid
_DEGREES, _SHIFT, _SCALES = 10.0, 0.1, (0.5, 1.5)
MIX_SHARES = (0.45, 0.55)


def mosaic(pictures: Sequence[Picture], *, plan: EpochPlan, rng: np.random.Generator) -> Sample:
    """Make one training sample of four images on a grid of two by two, turned, moved and scaled together.

    Every image gets a short side of 320; a cell is as wide and high as the largest. The grid is turned by up to 10
    degrees around its centre, moved by up to a tenth of its sides, scaled by 0.5 to 1.5, and cut at its old border.
    Colours are distorted and the sample is mirrored as others are; zoom-out and crop are left out.

    Args:
        pictures: four.
        plan: the epoch's settings; the result has its `size_hw`.
        rng: all randomness comes from here.

    Returns:
        The sample. A box is the hull of its turned corners, cut at the border, and dropped below a pixel.

    Differs: the images are scaled once, with antialiasing, and turned with bilinear interpolation; published code
    scales them, turns and scales the grid by nearest neighbours, and scales the result.
    """
    sizes_wh = np.array([picture.size_wh for picture in pictures], dtype=np.float64)
    sizes_wh *= _SHORT_SIDE / sizes_wh.min(axis=1, keepdims=True)
    cell_wh = sizes_wh.max(axis=0)
    grid_wh = 2 * cell_wh
    offsets = cell_wh * np.array([(0, 0), (1, 0), (0, 1), (1, 1)])

    angle = math.radians(rng.uniform(-_DEGREES, _DEGREES))
    shift = rng.uniform(-_SHIFT, _SHIFT, 2) * grid_wh
    scale = rng.uniform(*_SCALES)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre = grid_wh / 2

    # the images are drawn at the size that they will have in the result, so that only a rotation is left to do
    to_result = np.array(plan.size_hw[::-1]) / grid_wh
    drawn = _draw_grid(pictures, offsets * scale * to_result, sizes_wh * scale * to_result)
    inverse = to_result[:, None] * turn.T / to_result
    start = scale * to_result * centre - to_result * (turn.T @ (centre + shift))
    pixels = _warp(drawn, inverse, start, size_hw=plan.size_hw)

    boxes = []
    for picture, offset, size_wh in zip(pictures, offsets, sizes_wh, strict=True):
        on_grid = picture.boxes_xyxy.astype(np.float64) * np.tile(size_wh / picture.size_wh, 2) + np.tile(offset, 2)
        corners = on_grid[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - centre
        turned = scale * corners @ turn.T + centre + shift
        boxes.append(np.concatenate([turned.min(axis=1), turned.max(axis=1)], axis=1))
    labels = np.concatenate([picture.labels for picture in pictures])
    target = to_target(np.concatenate(boxes), labels, plane_wh=grid_wh, size_hw=plan.size_hw)

    sample = Sample(distort(pixels, draw_steps(rng, num_channels=pixels.shape[2])), target)
    return mirrored(sample) if rng.random() < plan.flip else sample


def mix(
    images: Float[Tensor, "b c h w"], targets: list[Target], *, share: float
) -> tuple[Float[Tensor, "b c h w"], list[Target]]:
    """Blend each image with the one before it in the batch, and give it the objects of both.

    Args:
        images: the batch; one image alone stays as it is.
        targets: the objects of each.
        share: of the image itself in the result.
    """
    if len(targets) < 2:
        return images, targets
    blended = images.roll(1, dims=0).lerp_(images, share)
    before = targets[-1:] + targets[:-1]
    return blended, [
        Target(labels=torch.cat([own["labels"], other["labels"]]), boxes=torch.cat([own["boxes"], other["boxes"]]))
        for own, other in zip(targets, before, strict=True)
    ]


def _draw_grid(pictures: Sequence[Picture], offsets: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Black uint8 (h, w, c) with each picture resized to its size and placed at its offset, both in pixels."""
    firsts = offsets.round().astype(int)
    lasts = np.maximum((offsets + sizes_wh).round().astype(int), firsts + 1)
    canvas = None
    for picture, (x0, y0), (x1, y1) in zip(pictures, firsts.tolist(), lasts.tolist(), strict=True):
        place_hw = y1 - y0, x1 - x0
        width, height = picture.size_wh
        part = resize(read_part(picture, ((0, width), (0, height)), place_hw), place_hw)
        if canvas is None:
            right, bottom = lasts.max(axis=0)
            canvas = np.zeros((bottom, right, part.shape[2]), dtype=np.uint8)
        canvas[y0:y1, x0:x1] = part
    assert canvas is not None
    return canvas


def _warp(pixels: np.ndarray, inverse: np.ndarray, start: np.ndarray, *, size_hw: SizeHW) -> np.ndarray:
    """An image whose point (x, y) shows the point `inverse @ (x, y) + start` of `pixels`, black outside."""
    size_wh = size_hw[1], size_hw[0]
    coefficients = tuple(np.column_stack([inverse, start]).ravel().tolist())
    if pixels.shape[2] == 3:
        picture = Image.fromarray(pixels)
        turned = picture.transform(size_wh, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        return np.array(turned)
    bands = (Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1))
    turned = [b.transform(size_wh, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR) for b in bands]
    return np.stack([np.asarray(band) for band in turned], axis=2)
