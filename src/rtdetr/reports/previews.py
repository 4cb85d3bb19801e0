"""Previews of training batches with their boxes."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rtdetr.data import TrainLoader
from rtdetr.detections import Detections
from rtdetr.drawing import draw
from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically
from rtdetr.fonts import FontPath
from rtdetr.random_state import random_state, set_random_state
from rtdetr.structures import Target

CELL, GAP = 320, 8  # pixels
MAX_CELLS = 16


def draw_batches(
    loader: TrainLoader, folder: Path, *, names: Sequence[str], counts: Mapping[int, int], font: FontPath = None
) -> None:
    """Draw the first batches of some epochs with their boxes, as the network will see them: batch_epochE_B.png.

    A batch depends only on seed, epoch and position, so drawing does not change training. Global random generators are
    restored, because augmentations may use them. Call `loader.set_epoch` before you continue.

    Args:
        loader: loader of the batches; up to 16 images per batch are drawn.
        folder: folder for the images.
        names: class names by label.
        counts: number of batches to draw, by epoch, counted from 0.
        font: font file for class names; see `drawing.draw`.

    Raises:
        DatasetError: an image is missing or damaged.
        TrainingError: an image cannot be written.
    """
    before = random_state()
    try:
        for epoch, count in counts.items():
            loader.set_epoch(epoch)
            for number, (images, targets) in enumerate(islice(loader, count), start=1):
                samples = islice(zip(images, targets, strict=True), MAX_CELLS)
                cells = [draw_target(image, target, names=names, font=font) for image, target in samples]
                save_image(contact_sheet(cells), folder / f"batch_epoch{epoch + 1}_{number}.png")
    finally:
        set_random_state(before)


def draw_target(image: Tensor, target: Target, *, names: Sequence[str], font: FontPath = None) -> Image.Image:
    """Draw the boxes of a training sample on its image.

    Args:
        image: float (c, h, w) in [0, 1]; the first three channels are drawn, or only the first one of fewer than three.
        target: labels and normalized cxcywh boxes.
        names: class names by label.
        font: font file for class names; see `drawing.draw`.
    """
    values = image.detach().float().cpu()
    values = values[:3] if len(values) >= 3 else values[:1].expand(3, -1, -1)
    pixels = values.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    height, width = pixels.shape[:2]
    centers, sizes = target["boxes"].detach().double().cpu().numpy().reshape(-1, 2, 2).transpose(1, 0, 2)
    corners = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1) * [width, height, width, height]
    labels = target["labels"].cpu().numpy()
    objects = Detections(corners, np.ones(len(labels)), labels, tuple(names), (width, height))
    return draw(pixels, objects, show_scores=False, font=font)


def contact_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Arrange images in a roughly square grid, with their longer sides resized to 320 pixels."""
    images = [_fitted(image) for image in images]
    columns = max(1, math.ceil(math.sqrt(len(images))))
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    width = max(sum(image.width + GAP for image in row) for row in rows) - GAP
    height = sum(max(image.height for image in row) + GAP for row in rows) - GAP
    sheet, top = Image.new("RGB", (width, height), "white"), 0
    for row in rows:
        left = 0
        for image in row:
            sheet.paste(image, (left, top))
            left += image.width + GAP
        top += max(image.height for image in row) + GAP
    return sheet


def save_image(image: Image.Image, path: Path) -> Path:
    """Write a PNG file.

    Raises:
        TrainingError: the file cannot be written.
    """
    return write_atomically(path, lambda temporary: image.save(temporary, format="PNG"), error=TrainingError)


def _fitted(image: Image.Image) -> Image.Image:
    """Resize an image to the cell; small images are enlarged without smoothing, to show single pixels."""
    scale = CELL / max(image.size)
    size_wh = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    return image.resize(size_wh, Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.LANCZOS)
