"""Outlines of objects from COCO files: polygons and run-length masks, read only if objects are cut out along them.

The columns of a dataset (`annotations.py`) have boxes only. `read_outlines` reads the COCO files again and finds the
outline of a box by its image and its numbers; `coverage` draws it.
"""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from rtdetr.config import SizeHW
from rtdetr.data.coco_values import box_of, run_lengths, to_integer
from rtdetr.data.dataset import DetectionDataset
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text

_SUPERSAMPLING = 2


class RunLengths(NamedTuple):
    """A mask of an image of `size_hw`: lengths of alternating runs of outside and inside, int64, column by column."""

    size_hw: SizeHW
    lengths: np.ndarray


Polygons = tuple[np.ndarray, ...]  # float32 (points, 2) each, in pixels of the image
Outline = Polygons | RunLengths


def read_outlines(dataset: DetectionDataset) -> dict[int, Outline]:
    """Return the outlines of a dataset by row of its box columns; boxes without a valid outline are omitted.

    Reads the COCO files of the dataset. Other formats have no outlines, or only boxes are read from them.

    Raises:
        DatasetError: a file can no longer be read.
    """
    columns, outlines = dataset.annotations, {}
    firsts = [source.first for source in dataset.sources]
    for source, end in zip(dataset.sources, [*firsts[1:], len(dataset)], strict=True):
        found = _outlines_of_file(source.annotations_file) if source.annotations_file.suffix == ".json" else {}
        for index in range(source.first, end) if found else ():
            for row in range(columns.starts[index], columns.starts[index + 1]):
                outline = found.get((dataset.source_id(index), *columns.boxes_xywh[row].tolist()))
                fits = not isinstance(outline, RunLengths) or outline.size_hw[::-1] == tuple(columns.sizes_wh[index])
                if outline is not None and fits:
                    outlines[row] = outline
    return outlines


def coverage(outline: Outline, part_xyxy: tuple[int, int, int, int], size_hw: SizeHW) -> np.ndarray:
    """Return how much of each pixel an object covers, uint8 (h, w), 0 to 255.

    Args:
        outline: outline of the object.
        part_xyxy: part of the image to draw, in pixels.
        size_hw: height and width at which the part is drawn.
    """
    x0, y0, x1, y1 = part_xyxy
    height, width = size_hw
    if isinstance(outline, RunLengths):
        values = np.arange(len(outline.lengths)) % 2 == 1
        mask = np.repeat(values, outline.lengths).reshape(outline.size_hw[::-1]).T[y0:y1, x0:x1]
        resized = Image.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized)
    canvas = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    pen = ImageDraw.Draw(canvas)
    scale = np.array(canvas.size) / (x1 - x0, y1 - y0)
    for points in outline:
        pen.polygon(((points - (x0, y0)) * scale - 0.5).ravel().tolist(), fill=255)  # Pillow counts from pixel centers
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def _outlines_of_file(file: Path) -> dict[tuple[Any, ...], Outline]:
    """Return the outlines by image id and box."""
    text = read_text(file, what="annotation file", error=DatasetError)
    try:
        content = json.loads(text)
    except ValueError:  # another format
        return {}
    rows = content.get("annotations") if isinstance(content, dict) else None
    outlines = {}
    for row in rows if isinstance(rows, list) else ():
        outline = _outline(row.get("segmentation")) if isinstance(row, dict) else None
        if outline:
            with contextlib.suppress(ValueError, TypeError):  # not a valid box or id
                outlines[to_integer(row.get("image_id")), *map(float, box_of(row, None).xywh)] = outline
    return outlines


def _outline(segmentation: Any) -> Outline | None:
    try:
        if isinstance(segmentation, dict):
            return RunLengths(*run_lengths(segmentation))
        polygons = tuple(np.array(points, dtype=np.float32).reshape(-1, 2) for points in segmentation or ())
    except (ValueError, TypeError):  # training needs only the box
        return None
    return polygons if all(len(points) >= 3 and np.isfinite(points).all() for points in polygons) else None
