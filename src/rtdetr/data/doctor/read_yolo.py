"""Read YOLO labels that may be broken: keep the rows that can be understood, note the others."""

import math
import os
from pathlib import Path

from rtdetr.data.annotations import ids_of_names
from rtdetr.data.doctor.records import UNKNOWN, BoxRecord, CategoryRecord, ImageRecord, Part
from rtdetr.data.label_files import LabelFiles
from rtdetr.data.label_rows import CLASS_LAST, SLACK, box_of, class_is_last, numbers_of
from rtdetr.data.yolo import YoloSplit
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text


def read_yolo(split: YoloSplit, *, name: str) -> Part:
    """Read the label files of a split."""
    finder = LabelFiles()
    part = Part(name, split.file, "yolo", relative=True, is_annotated=lambda path: finder.of(path) is not None)
    part.categories = [CategoryRecord(category.id, category.name) for category in split.categories]
    names = [os.path.relpath(image, split.images_dir) for image in split.images]
    ids = ids_of_names(names).tolist()
    part.num_listed_images, part.folders = len(names), split.folders
    for image, (path, label_file) in enumerate(zip(split.images, split.labels, strict=True)):
        near = split.near.get(path, "")
        if path in split.moved:
            listed, way = split.moved[path]
            part.defect("other-path", file=listed, detail=f"is read from {names[image]}, found {way}")
        part.images.append(
            ImageRecord(ids[image], names[image], Path(path), None, label_file is not None, misplaced_label=near)
        )
        if label_file is not None and not _read_labels(part, image, label_file, split):
            part.images[image] = part.images[image]._replace(is_label_read=False)
    return part


def _read_labels(part: Part, image: int, file: str, split: YoloSplit) -> bool:
    """Read the rows of a label file; False: it cannot be read at all."""
    file_name = part.images[image].file_name
    try:
        lines = read_text(file, what="label file", error=DatasetError).splitlines()
    except DatasetError as error:
        part.defect("unreadable-entry", file=file_name, annotation=file, detail=str(error).removeprefix(f"{file}: "))
        return False
    for number, line in enumerate(lines, start=1):
        name = f"{os.path.basename(file)} line {number}"
        if not line.strip():
            continue
        part.num_listed_boxes += 1
        values = _numbers(line)
        if split.point_numbers and len(values) == 5 + split.point_numbers:
            values = values[:5]
        if class_is_last(values):
            detail = f"has {line.strip()[:60]!r}; {CLASS_LAST}"
            part.defect("unreadable-entry", file=file_name, annotation=name, detail=detail)
            continue
        if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
            detail = f"has {line.strip()[:60]!r}; expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...'"
            part.defect("unreadable-entry", file=file_name, annotation=name, detail=detail)
            continue
        if not all(-SLACK <= value <= 1 + SLACK for value in values[1:]):
            detail = f"has {line.strip()[:60]!r}; expected fractions of the image's sides, 0 to 1"
            part.defect("not-fraction", file=file_name, annotation=name, detail=detail)
            continue
        label = split.categories.label_of_id.get(values[0], UNKNOWN)  # type: ignore[arg-type]  # 3.0 finds 3
        if label == UNKNOWN:
            detail = f"has class {values[0]:g}, which is not listed"
            part.defect("unknown-class", file=file_name, annotation=name, detail=detail)
        x1, y1, x2, y2 = box_of(values[1:])
        part.boxes.append(BoxRecord(image, label, (x1, y1, x2 - x1, y2 - y1), name))
    return True


def _numbers(row: str) -> list[float]:
    """The numbers of a row, all finite; none if one is not."""
    try:
        values = numbers_of(row)
    except ValueError:
        return []
    return values if all(map(math.isfinite, values)) else []
