"""Read a COCO file that may be broken: keep what can be understood, note the rest.

Source: the "Object Detection" format of https://cocodataset.org/#format-data.
"""

import json
import math
import reprlib
from pathlib import Path
from typing import Any

from rtdetr.data.annotations import LARGEST
from rtdetr.data.doctor.records import UNKNOWN, BoxRecord, CategoryRecord, ImageRecord, Part
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text


def read_coco(annotations_file: Path, images_dir: Path, *, name: str) -> Part:
    """Read one annotation file.

    Raises:
        DatasetError: the file cannot be read, or is not an object with a list of images.
    """
    document = _load(annotations_file)
    part = Part(name, annotations_file, "coco")
    label_of_id = _read_categories(part, document.get("categories"))
    image_of_id = _read_images(part, document["images"], images_dir)
    _read_boxes(part, document.get("annotations"), label_of_id, image_of_id)
    return part


def _load(file: Path) -> dict[str, Any]:
    text = read_text(file, what="annotation file", error=DatasetError)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected a COCO file in JSON, which this is not: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DatasetError(f"{file}: expected a COCO file, an object with a list 'images', which this is not")
    return document


def _read_categories(part: Part, rows: Any) -> dict[Any, int]:
    """Fill in the classes; returns the label of each id. A second class of the same name is merged with the first."""
    label_of_id: dict[Any, int] = {}
    label_of_name: dict[str, int] = {}
    for number, row in _rows(part, "categories", rows):
        category_id, name = row.get("id"), row.get("name")
        if not _is_id(category_id) or not isinstance(name, str):
            _unreadable(part, "category", number, row, "expected an id and a name")
            continue
        if category_id in label_of_id:
            detail = f"class {name!r} has an id that {part.categories[label_of_id[category_id]].name!r} has too"
            part.defect("duplicate-id", file=part.source.name, annotation=f"category {category_id}", detail=detail)
            continue
        _note_id(part, "category", category_id)
        if name in label_of_name:
            detail = f"is named {name!r} like another category"
            part.defect("same-class-name", file=part.source.name, annotation=f"category {category_id}", detail=detail)
        else:
            label_of_name[name] = len(part.categories)
            part.categories.append(CategoryRecord(category_id, name))
        label_of_id[category_id] = label_of_name[name]
    return label_of_id


def _read_images(part: Part, rows: list[Any], images_dir: Path) -> dict[Any, int | None]:
    """Fill in the images; returns the position of each id, None for ids whose boxes could belong to several files."""
    image_of_id: dict[Any, int | None] = {}
    for number, row in _rows(part, "images", rows):
        image_id, file_name = row.get("id"), row.get("file_name")
        if not _is_id(image_id) or not isinstance(file_name, str) or not file_name or "\0" in file_name:
            _unreadable(part, "image", number, row, "expected an id and a file name")
            continue
        if image_id in image_of_id:
            first = image_of_id[image_id]
            detail = "is listed again under the same id"
            if first is None or part.images[first].file_name != file_name:
                detail = "has an id that another file has too: whose boxes are they?"
                image_of_id[image_id] = None
            part.defect("duplicate-id", file=file_name, annotation=f"image {image_id}", detail=detail)
            continue
        _note_id(part, "image", image_id, file=file_name)
        image_of_id[image_id] = len(part.images)
        part.images.append(ImageRecord(image_id, file_name, images_dir / file_name, _size(part, row)))
    return _without_ambiguous(part, image_of_id)


def _without_ambiguous(part: Part, image_of_id: dict[Any, int | None]) -> dict[Any, int | None]:
    """Leave out the images whose id two files share; the positions of the others move up."""
    if None not in image_of_id.values():
        return image_of_id
    kept = [image for image in part.images if image_of_id[image.image_id] is not None]
    part.images[:] = kept
    return {**dict.fromkeys(image_of_id), **{image.image_id: position for position, image in enumerate(kept)}}


def _size(part: Part, row: dict[str, Any]) -> tuple[int, int] | None:
    width, height = row.get("width"), row.get("height")
    if type(width) is int and type(height) is int and 0 < width < LARGEST and 0 < height < LARGEST:
        return width, height
    stated = f"width {reprlib.repr(width)} and height {reprlib.repr(height)}; expected integers > 0"
    part.defect("wrong-value", file=row["file_name"], annotation=f"image {row['id']}", detail=f"has {stated}")
    return None


def _read_boxes(part: Part, rows: Any, label_of_id: dict[Any, int], image_of_id: dict[Any, int | None]) -> None:
    seen: set[Any] = set()
    for number, row in _rows(part, "annotations", rows):
        annotation_id, image_id, category_id = row.get("id"), row.get("image_id"), row.get("category_id")
        if not _is_id(annotation_id) or not _is_id(image_id) or not _is_id(category_id):
            _unreadable(part, "annotation", number, row, "expected id, image_id and category_id")
            continue
        name = f"annotation {annotation_id}"
        if image_id not in image_of_id:
            detail = f"has image_id {reprlib.repr(image_id)}, which is not listed"
            part.defect("unknown-image", file=part.source.name, annotation=name, detail=detail)
            continue
        image = image_of_id[image_id]
        if image is None:
            continue  # reported with the image
        file_name = part.images[image].file_name
        if annotation_id in seen:
            detail = "has an id that another annotation has too"
            part.defect("duplicate-id", file=file_name, annotation=name, detail=detail)
        seen.add(annotation_id)
        for value in (annotation_id, image_id, category_id):
            _note_id(part, "annotation", value, file=file_name)
        xywh = _numbers(row.get("bbox"))
        if xywh is None:
            detail = f"has bbox {reprlib.repr(row.get('bbox'))}; expected 4 numbers [x, y, width, height]"
            part.defect("unreadable-entry", file=file_name, annotation=name, detail=detail)
            continue
        label = label_of_id.get(category_id, UNKNOWN)
        if label == UNKNOWN:
            detail = f"has category_id {reprlib.repr(category_id)}, which is not listed"
            part.defect("unknown-class", file=file_name, annotation=name, detail=detail)
        area, iscrowd = row.get("area"), row.get("iscrowd", 0)
        if area is not None and not (_is_number(area) and 0 <= area < LARGEST):
            detail = f"has area {reprlib.repr(area)}; expected a number of square pixels"
            part.defect("wrong-value", file=file_name, annotation=name, detail=detail)
            area = None
        if not isinstance(iscrowd, int):
            detail = f"has iscrowd {reprlib.repr(iscrowd)}; expected 0 or 1"
            part.defect("wrong-value", file=file_name, annotation=name, detail=detail)
            iscrowd = 0
        part.boxes.append(BoxRecord(image, label, xywh, name, area, iscrowd != 0))


def _rows(part: Part, kind: str, rows: Any) -> list[tuple[int, dict[str, Any]]]:
    """Numbered entries of a list, counted from 1; what is no object is noted."""
    if not isinstance(rows, list):
        part.defect("unreadable-entry", file=part.source.name, detail=f"'{kind}' is not a list")
        return []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            _unreadable(part, kind, number, {}, f"expected an object, got {reprlib.repr(row)}")
    return [(number, row) for number, row in enumerate(rows, start=1) if isinstance(row, dict)]


def _unreadable(part: Part, kind: str, number: int, row: dict[str, Any], detail: str) -> None:
    name = f"{kind} {reprlib.repr(row['id'])}" if "id" in row else f"{kind} number {number} of the list"
    part.defect("unreadable-entry", file=part.source.name, annotation=name, detail=detail)


def _note_id(part: Part, kind: str, value: Any, *, file: str | None = None) -> None:
    if type(value) is int and -(2**63) <= value < 2**63:
        return
    detail = f"has the id {reprlib.repr(value)}; expected an integer of at most 64 bits"
    part.defect("wrong-id", file=file or part.source.name, annotation=f"{kind} {reprlib.repr(value)}", detail=detail)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(box: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not all(_is_number(value) and abs(value) < LARGEST for value in box):
        return None
    x, y, width, height = map(float, box)
    return x, y, width, height
