"""YOLO: a data.yaml with class names and image folders, and one text file of labels per image.

    path: .                 # folder that the others are relative to; default: the folder of this file
    train: images/train     # a folder, a text file with one image per line, or a list of these
    val: images/val
    names: [cat, dog]       # or {0: cat, 1: dog}; ids may have gaps

The labels of images/train/a.jpg are in labels/train/a.txt or next to the image (see `label_files.py` for the full
rule), one object per line (`label_rows.py`). An image with an empty or no label file has no objects; but a matching
label file in an unusual place is an error, and there is a warning if more than a few images have no label file, or if
label files with objects have no image. If the YAML file has `kpt_shape: [17, 3]`, the coordinates of that many
keypoints follow each box; they are ignored.

Source: https://docs.ultralytics.com/datasets/detect/ (the description of the format).
"""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import ids_of_names
from rtdetr.data.box_forms import CENTER
from rtdetr.data.label_files import LabelFiles, usual_label_file
from rtdetr.data.label_rows import Row, WrongRow, objects_of
from rtdetr.data.records import UNKNOWN, ImageRecord, Part
from rtdetr.errors import DatasetError
from rtdetr.wording import counted, more_like_it


class YoloSplit(NamedTuple):
    """The files of one split."""

    file: Path  # data.yaml
    categories: Categories
    images_dir: Path
    images: list[str]  # paths, sorted
    labels: list[str | None]  # label file of each image; None if it has none
    near: dict[str, str]  # images without one -> a matching label file in an unusual place
    moved: dict[str, tuple[str, str]]  # images not at the path in a list -> the listed path, and how they were found
    folders: list[str]  # image folders that belong to the split entirely
    point_numbers: int = 0  # keypoint numbers after each box in a pose dataset


def read_yolo(split: YoloSplit) -> Part:
    """Read the label files of a split."""
    finder = LabelFiles()
    part = Part("yolo", split.file, split.images_dir, form=CENTER, are_files=True, folders=split.folders)
    part.is_annotated = lambda path: finder.of(path) is not None
    part.categories = list(split.categories)
    names = [os.path.relpath(image, split.images_dir) for image in split.images]
    part.num_listed_images = len(names)
    for image, path in enumerate(split.images):
        if path in split.moved:
            listed, way = split.moved[path]
            part.problem("other-path", file=listed, detail=f"is read from {names[image]}, found {way}", image=image)
        if path in split.near:
            _note_misplaced(part, split, image, names[image])
    is_read = _read_labels(part, split, names)
    columns = zip(ids_of_names(names).tolist(), names, split.images, split.labels, is_read, strict=True)
    part.images = [
        ImageRecord(number, name, None, label is not None, was_read, split.near.get(path, ""))
        for number, name, path, label, was_read in columns
    ]
    return part


def _note_misplaced(part: Part, split: YoloSplit, image: int, name: str) -> None:
    path, near = split.images[image], split.near[split.images[image]]
    more = more_like_it(len(split.near) - 1)
    error = (
        f"{path} has no label file in a usual place, but {near} has its name. Move it to {usual_label_file(path)}, or "
        f"put an empty file there if the image has no objects{'. ' if more else ''}{more}"
    )
    detail = f"has no label file in a usual place, but {near} has its name"
    part.problem("misplaced-label", file=name, detail=detail, error=error, image=image)


def _read_labels(part: Part, split: YoloSplit, names: Sequence[str]) -> list[bool]:
    """Fill in the boxes; return per image whether its label file could be read (also True if it has none)."""
    label_of_id = split.categories.label_of_id
    corners, labels, images, lines = array("d"), array("q"), array("q"), array("q")
    is_read = [True] * len(names)
    for image, file in enumerate(split.labels):
        try:
            rows = list(objects_of(file, split.point_numbers)) if file else []
        except DatasetError as error:
            is_read[image], text = False, str(error)
            detail = text.removeprefix(f"{file}: ")
            part.problem(
                "unreadable-entry", file=names[image], annotation=file or "", detail=detail, error=text, image=image
            )
            continue
        part.num_listed_boxes += len(rows)
        for row in rows:
            if isinstance(row, Row):
                label = label_of_id.get(row.number, UNKNOWN)  # type: ignore[arg-type]  # a float 3.0 finds the key 3
                corners.extend(row.corners)
                labels.append(label)
                images.append(image)
                lines.append(row.line)
                if label != UNKNOWN:
                    continue
                row = WrongRow(row.line, "unknown-class", _no_class(split, row.number))
            entry, error = f"{os.path.basename(file or '')} line {row.line}", f"{file}:{row.line}: {row.problem}"
            part.problem(row.kind, file=names[image], annotation=entry, detail=row.problem, error=error, image=image)

    def where(box: int) -> str:
        category = split.categories[labels[box]]
        return f"{split.labels[images[box]]}:{lines[box]}: object of class {category.id} ({category.name!r})"

    low_high = np.array(corners, dtype=np.float64).reshape(-1, 2, 2)
    part.box_images, part.labels = np.array(images, dtype=np.int64), np.array(labels, dtype=np.int64)
    part.boxes_xywh = np.concatenate([low_high[:, 0], low_high[:, 1] - low_high[:, 0]], axis=1)
    part.areas, part.iscrowd = np.full(len(labels), np.nan), np.zeros(len(labels), dtype=bool)
    part.box_name = lambda box: f"{os.path.basename(split.labels[images[box]] or '')} line {lines[box]}"
    part.box_where = where
    return is_read


def _no_class(split: YoloSplit, number: float) -> str:
    ids = split.categories.ids
    listed = f"{ids[0]} to {ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else str(ids)
    return (
        f"class {number:.10g} does not exist: {split.file} has the {counted(len(ids), 'class')} {listed}. "
        "Correct the line or add the class to 'names'"
    )
