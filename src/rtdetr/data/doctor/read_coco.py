"""Read a COCO file that may be broken: keep what can be understood, note the rest.

Source: the "Object Detection" format of https://cocodataset.org/#format-data.
"""

import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rtdetr.data.annotations import LARGEST
from rtdetr.data.coco import load_json
from rtdetr.data.coco_values import (
    NAMESAKE,
    NO_SIZE,
    OTHER_BOXES,
    OTHER_NAMES,
    OTHER_NUMBERS,
    READ,
    WITHOUT_ID,
    box_of,
    is_box,
    named,
    unused_namesakes,
)
from rtdetr.data.doctor.records import UNKNOWN, BoxRecord, CategoryRecord, ImageRecord, Part
from rtdetr.errors import DatasetError


def read_coco(annotations_file: Path, images_dir: Path, *, name: str) -> Part:
    """Read one annotation file.

    Raises:
        DatasetError: the file cannot be read, or is not an object with a list of images.
    """
    document, problem = load_json(annotations_file)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DatasetError(
            f"{annotations_file}: expected a COCO file, an object with a list 'images', which this is not"
        )
    part = Part(name, annotations_file, "coco")
    values = _Values()
    label_of_id = _read_categories(part, values, document.get("categories"), document.get("annotations"))
    image_of_id = _read_images(part, values, document["images"], images_dir)
    _read_boxes(part, values, document.get("annotations"), label_of_id, image_of_id)
    if problem and not part.defects:  # it is in a value that nothing is read from
        part.defect("wrong-value", file=annotations_file.name, detail=f"{problem}; expected finite numbers only")
    for form, count in values.forms.items():
        part.defect("other-form", file=annotations_file.name, detail=f"has {form}: {count}")
    return part


class _Values:
    """Reads values as training does, and counts those in another form."""

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()

    def of(self, row: dict[str, Any], key: str, id_of_name: Mapping[str, Any] = MappingProxyType({})) -> Any:
        written = row.get(key)
        if type(written) is str and written in id_of_name:
            self.forms[OTHER_NAMES[key]] += 1
            return id_of_name[written]
        if type(written) is int or (type(written) is float and key == "area"):
            return written
        value = READ[key](written)
        if type(value) is not type(written) and key in row:
            self.forms[OTHER_NUMBERS] += 1
        return value


def _read_categories(part: Part, values: _Values, rows: Any, annotations: Any) -> dict[Any, int]:
    """Fill in the classes; returns the label of each id. A second class of the same name is merged with the first."""
    name_of_id: dict[Any, str] = {}
    for number, row in _rows(part, "categories", rows):
        category_id, name = values.of(row, "id"), row.get("name")
        if not _is_id(category_id) or not isinstance(name, str):
            _unreadable(part, "category", number, row, "expected an id and a name")
        elif category_id in name_of_id:
            detail = f"class {name!r} has an id that {name_of_id[category_id]!r} has too"
            part.defect("duplicate-id", file=part.source.name, annotation=f"category {category_id}", detail=detail)
        else:
            _note_id(part, "category", category_id)
            name_of_id[category_id] = name
    unused = unused_namesakes(list(name_of_id.items()), annotations if isinstance(annotations, list) else ())
    values.forms.update({NAMESAKE: len(unused)} if unused else {})
    label_of_id: dict[Any, int] = {}
    label_of_name: dict[str, int] = {}
    for category_id, name in name_of_id.items():
        if category_id in unused:
            continue
        if name in label_of_name:
            detail = f"is named {name!r} like another category"
            part.defect("same-class-name", file=part.source.name, annotation=f"category {category_id}", detail=detail)
        else:
            label_of_name[name] = len(part.categories)
            part.categories.append(CategoryRecord(category_id, name))
        label_of_id[category_id] = label_of_name[name]
    return label_of_id


def _read_images(part: Part, values: _Values, rows: list[Any], images_dir: Path) -> dict[Any, int | None]:
    """Fill in the images; returns the position of each id, None for ids whose boxes could belong to several files."""
    image_of_id: dict[Any, int | None] = {}
    part.num_listed_images = len(rows)
    for number, row in _rows(part, "images", rows):
        image_id, file_name = values.of(row, "id"), row.get("file_name")
        if not _is_id(image_id) or not isinstance(file_name, str) or not file_name or "\0" in file_name:
            _unreadable(part, "image", number, row, "expected an id and a file name")
            continue
        if image_id in image_of_id:
            first = image_of_id[image_id]
            detail = "is listed again under the same id"
            part.num_listed_images -= 1
            if first is None or part.images[first].file_name != file_name:
                part.num_listed_images += 1  # not a copy
                detail = "has an id that another file has too: whose boxes are they?"
                if first is not None:
                    part.change("duplicate-id", file=part.images[first].file_name, annotation=f"image {image_id}")
                image_of_id[image_id] = None
            part.defect("duplicate-id", file=file_name, annotation=f"image {image_id}", detail=detail)
            continue
        _note_id(part, "image", image_id, file=file_name)
        image_of_id[image_id] = len(part.images)
        part.images.append(ImageRecord(image_id, file_name, images_dir / file_name, _size(part, values, row)))
    return _without_ambiguous(part, image_of_id)


def _without_ambiguous(part: Part, image_of_id: dict[Any, int | None]) -> dict[Any, int | None]:
    """Leave out the images whose id two files share; the positions of the others move up."""
    if None not in image_of_id.values():
        return image_of_id
    kept = [image for image in part.images if image_of_id[image.image_id] is not None]
    part.images[:] = kept
    return {**dict.fromkeys(image_of_id), **{image.image_id: position for position, image in enumerate(kept)}}


def _size(part: Part, values: _Values, row: dict[str, Any]) -> tuple[int, int] | None:
    if row.get("width") is None and row.get("height") is None:
        values.forms[NO_SIZE] += 1
        return None
    width, height = values.of(row, "width"), values.of(row, "height")
    if type(width) is int and type(height) is int and 0 < width < LARGEST and 0 < height < LARGEST:
        return width, height
    stated = f"width {reprlib.repr(width)} and height {reprlib.repr(height)}; expected integers > 0"
    part.defect("wrong-value", file=row["file_name"], annotation=f"image {row['id']}", detail=f"has {stated}")
    return None


def _read_boxes(
    part: Part, values: _Values, rows: Any, label_of_id: dict[Any, int], image_of_id: dict[Any, int | None]
) -> None:
    part.num_listed_boxes = len(rows) if isinstance(rows, list) else 0
    seen: set[Any] = set()
    image_id_of_name = named((image.file_name, image.image_id) for image in part.images)
    category_id_of_name = named((category.name, category.category_id) for category in part.categories)
    for number, row in _rows(part, "annotations", rows):
        annotation_id, image_id = values.of(row, "id"), values.of(row, "image_id", image_id_of_name)
        category_id = values.of(row, "category_id", category_id_of_name)
        if not _is_id(annotation_id, optional=True) or not _is_id(image_id) or not _is_id(category_id):
            _unreadable(part, "annotation", number, row, "expected id, image_id and category_id")
            continue
        name = f"annotation {annotation_id}"
        if annotation_id is None:
            name = f"annotation number {number} of the list"
            values.forms[WITHOUT_ID] += 1
        if image_id not in image_of_id:
            detail = f"has image_id {reprlib.repr(image_id)}, which is not listed"
            part.defect("unknown-image", file=part.source.name, annotation=name, detail=detail)
            continue
        image = image_of_id[image_id]
        if image is None:
            part.change("duplicate-id", file=part.source.name, annotation=name)  # reported with the image
            continue
        file_name = part.images[image].file_name
        if annotation_id is not None and annotation_id in seen:
            detail = "has an id that another annotation has too"
            part.defect("duplicate-id", file=file_name, annotation=name, detail=detail)
        seen.add(annotation_id)
        for value in (annotation_id, image_id, *({category_id} & label_of_id.keys())):  # what is not listed is told so
            if value is not None and not (type(value) is int and 0 <= value < 2**63):
                _note_id(part, "annotation", value, file=file_name)
        try:
            bbox = row.get("bbox")
            xywh, form = (bbox, "numbers") if is_box(bbox) else box_of(row, part.images[image].size_wh)
        except ValueError as error:
            part.defect("unreadable-entry", file=file_name, annotation=name, detail=str(error))
            continue
        if form != "numbers":
            values.forms[OTHER_BOXES[form]] += 1
        if form == "outline":
            part.change("other-form", file=file_name, annotation=name)
        label = label_of_id.get(category_id, UNKNOWN)
        if label == UNKNOWN:
            detail = f"has category_id {reprlib.repr(category_id)}, which is not listed"
            part.defect("unknown-class", file=file_name, annotation=name, detail=detail)
        area, iscrowd = _area_and_crowd(part, values, row, file_name, name)
        x, y, width, height = map(float, xywh)
        part.boxes.append(BoxRecord(image, label, (x, y, width, height), name, area, iscrowd))


def _area_and_crowd(
    part: Part, values: _Values, row: dict[str, Any], file_name: str, name: str
) -> tuple[int | float | None, bool]:
    area, iscrowd = values.of(row, "area"), values.of(row, "iscrowd")
    if area is not None and not (_is_number(area) and 0 <= area < LARGEST):
        detail = f"has area {reprlib.repr(area)}; expected a number of square pixels"
        part.defect("wrong-value", file=file_name, annotation=name, detail=detail)
        area = None
    if not isinstance(iscrowd, int):
        detail = f"has iscrowd {reprlib.repr(iscrowd)}; expected 0 or 1"
        part.defect("wrong-value", file=file_name, annotation=name, detail=detail)
        iscrowd = 0
    return area, iscrowd != 0


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


def _is_id(value: Any, *, optional: bool = False) -> bool:
    return (
        (optional and value is None)
        or isinstance(value, (int, str))
        or (isinstance(value, float) and math.isfinite(value))
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
