"""Read YOLO labels that may be broken: keep the rows that can be understood, note the others."""

import math
import os
from pathlib import Path

from rtdetr.data.annotations import ids_of_names
from rtdetr.data.doctor.records import UNKNOWN, BoxRecord, CategoryRecord, ImageRecord, Part
from rtdetr.data.yolo import YoloSplit

_SLACK = 0.01  # as `rtdetr.data.yolo` allows beyond the border


def read_yolo(split: YoloSplit, *, name: str) -> Part:
    """Read the label files of a split."""
    part = Part(name, split.file, "yolo", relative=True)
    part.categories = [CategoryRecord(category.id, category.name) for category in split.categories]
    names = [os.path.relpath(image, split.images_dir) for image in split.images]
    ids = ids_of_names(names).tolist()
    for image, (path, label_file) in enumerate(zip(split.images, split.labels, strict=True)):
        part.images.append(ImageRecord(ids[image], names[image], Path(path), None))
        _read_labels(part, image, label_file, split)
    return part


def _read_labels(part: Part, image: int, file: str, split: YoloSplit) -> None:
    file_name = part.images[image].file_name
    try:
        with open(file, encoding="utf-8") as opened:
            lines = opened.read().splitlines()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        part.defect("unreadable-entry", file=file_name, annotation=file, detail=f"cannot be read: {error}")
        return
    for number, line in enumerate(lines, start=1):
        name = f"{os.path.basename(file)} line {number}"
        fields = line.split()
        if not fields:
            continue
        values = _numbers(fields)
        if split.point_numbers and len(values) == 5 + split.point_numbers:
            values = values[:5]
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            detail = f"has {line.strip()[:60]!r}; expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...'"
            part.defect("unreadable-entry", file=file_name, annotation=name, detail=detail)
            continue
        if not all(-_SLACK <= value <= 1 + _SLACK for value in values[1:]):
            detail = f"has {line.strip()[:60]!r}; expected fractions of the image's sides, 0 to 1"
            part.defect("not-fraction", file=file_name, annotation=name, detail=detail)
            continue
        label = split.categories.label_of_id.get(values[0], UNKNOWN)  # type: ignore[arg-type]  # 3.0 finds 3
        if label == UNKNOWN:
            detail = f"has class {values[0]:g}, which is not listed"
            part.defect("unknown-class", file=file_name, annotation=name, detail=detail)
        part.boxes.append(BoxRecord(image, label, _box(values[1:]), name))


def _numbers(fields: list[str]) -> list[float]:
    """The fields as finite numbers; none if one is not."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []


def _box(values: list[float]) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box given by its centre, or around an outline."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, width, height
    left, top = min(values[::2]), min(values[1::2])
    return left, top, max(values[::2]) - left, max(values[1::2]) - top
