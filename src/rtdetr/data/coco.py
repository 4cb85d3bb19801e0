"""COCO: one JSON file that lists images, annotations and categories.

Labels are contiguous in ascending order of category id, which for COCO's own files is the published order. Values in a
nonstandard form are read if they are unambiguous (`coco_values.py`), with a warning; any other violation of the format
raises a `DatasetError` that names the file, the row and the remedy.

| layout      | annotations                                  | images                               |
|-------------|----------------------------------------------|--------------------------------------|
| COCO        | annotations/instances_val2017.json           | val2017/ or images/val2017/          |
| simple      | annotations/val.json or val.json             | images/val/, val/ or images/         |
| Roboflow    | valid/_annotations.coco.json                 | valid/                               |
| single file | any.json                                     | as above, in `images/` or next to it |
| only file   | result.json, or any other; used for `train`  | the same                             |

Source: the "Object Detection" format of https://cocodataset.org/#format-data.
"""

import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.categories import Category
from rtdetr.data.annotations import LARGEST
from rtdetr.data.coco_rows import EXCLUDING_KINDS, Rows, is_id, missing_list_message
from rtdetr.data.coco_values import (
    DUPLICATE_CLASS,
    NO_SIZE,
    OTHER_BOXES,
    box_of,
    ids_by_name,
    is_box,
    unused_duplicate_classes,
)
from rtdetr.data.image_paths import locate
from rtdetr.data.records import UNKNOWN, ImageRecord, Part
from rtdetr.errors import DatasetError, InputError
from rtdetr.images import image_size
from rtdetr.text_files import read_text

_NO_IMAGE, _AMBIGUOUS = -1, -2  # in place of the position of an image


def read_coco(file: Path, images_dir: Path) -> Part:
    """Read a COCO JSON file.

    Optional keys: `iscrowd` (default 0), `area` (default: that of the box), the `id` of an annotation, its `bbox` if it
    has a `segmentation` (default: the box around it), and `width` and `height` of an image (default: read from the
    image file).

    Args:
        file: the JSON file.
        images_dir: folder of the images.

    Raises:
        DatasetError: the file is missing, is not JSON, or is not an object with a list of images.

    Differs: published code uses ids outside COCO's own list as labels, so files with ids that start at 1 or have gaps
    train a wrong class or fail; here any ids work.
    """
    document, constant = _load_json(file)
    problem = f"{constant}; expected finite numbers only" if constant else ""
    part = Part("coco", file, images_dir)
    if problem:  # the doctor shows it only if no other problem does, see below
        part.problem("wrong-value", file=file.name, detail=problem, error=f"{file}: {problem}", is_shown=False)
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise DatasetError(f"{file}: {problem or missing_list_message(document, 'images')}")
    images, annotations, categories = (Rows(part, document, kind) for kind in ("images", "annotations", "categories"))
    part.num_listed_images, part.num_listed_boxes = len(images.listed), len(annotations.listed)
    label_of_id = _read_categories(part, categories, annotations)
    image_of_id = _read_images(part, images)
    _read_boxes(part, annotations, image_of_id, label_of_id)
    if problem and not any(found.is_shown for found in part.problems):
        part.problems[0] = part.problems[0]._replace(is_shown=True)
    forms = sum((rows.forms for rows in (images, annotations, categories)), Counter[str]())
    for form, count in forms.items():
        part.problem("other-form", file=file.name, detail=f"has {form}: {count}")
    if forms:
        listed = ", ".join(f"{form}: {count}" for form, count in forms.items())
        part.notes.append(f"{file}: read from a nonstandard form: {listed}")
    part.inputs_known = NO_SIZE not in forms
    return part


def _load_json(file: Path) -> tuple[Any, str]:
    """Return the content of a JSON file and, if it has a number that is not finite, a description of the first.

    Raises:
        DatasetError: the file cannot be read, or is not JSON.
    """
    text = read_text(file, what="annotation file", error=DatasetError)
    constants: list[str] = []  # NaN, Infinity, -Infinity
    try:
        data = json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected a COCO file, but it is not valid JSON: {error}") from None
    if constants:
        data = json.loads(text)
        return data, f"{_holding_constant(data)}{constants[0]}"
    return data, ""


def _holding_constant(data: Any) -> str:
    """Describe the entry of a COCO file with the first number that is not finite."""
    lists = [(kind, data.get(f"{kind}s")) for kind in ("image", "annotation")] if isinstance(data, dict) else []
    for kind, entries in lists:
        for place, entry in enumerate(entries if isinstance(entries, list) else []):
            if re.search("NaN|Infinity", re.sub(r'"(\\.|[^"\\])*"', "", json.dumps(entry))):
                number = entry.get("id", f"number {place + 1}") if isinstance(entry, dict) else f"number {place + 1}"
                return f"{kind} {number} has the number "
    return "it has the number "


def _read_categories(part: Part, rows: Rows, annotations: Rows) -> dict[Any, int]:
    """Fill in the classes in ascending order of id, so labels follow COCO's published table; return the label per id.

    Classes with the same name are merged.
    """
    ids = rows.ids()
    for position in rows.repeated(ids):
        rows.note(position, "duplicate-id", rows.same_id)
        rows.bad.add(position)
    names = rows.column("name", {str}, "a class name")
    classes = [(ids[position], names[position]) for position in rows.valid_positions()]
    unused = unused_duplicate_classes(classes, annotations.rows)
    rows.forms.update({DUPLICATE_CLASS: len(unused)} if unused else {})
    label_of_id: dict[Any, int] = {}
    label_of_name: dict[str, int] = {}
    kept = [
        (position, ids[position], names[position]) for position in rows.valid_positions() if ids[position] not in unused
    ]
    for position, _, name in kept:
        if name in label_of_name:
            rows.note(position, "same-class-name", f"has the name {name!r} of another category; names must differ")
        label_of_name[name] = 0
    if all(type(class_id) is int for _, class_id, _ in kept):
        kept.sort(key=lambda one: one[1])
    label_of_name.clear()
    for _, class_id, name in kept:
        if name not in label_of_name:
            label_of_name[name] = len(part.categories)
            part.categories.append(Category(class_id, name))
        label_of_id[class_id] = label_of_name[name]
    return label_of_id


def _read_images(part: Part, rows: Rows) -> dict[Any, int]:
    """Fill in the images; return the position per id, `_AMBIGUOUS` for ids that several files share."""
    ids, first = rows.ids(), dict[Any, int]()
    names = [row.get("file_name") for row in rows.rows]
    ambiguous: set[Any] = set()
    for position in rows.repeated(ids):
        if not first:
            first = {ids[one]: one for one in reversed(rows.valid_positions())}
        detail = "is listed again under the same id"
        if names[position] == names[first[ids[position]]]:
            part.num_listed_images -= 1  # a copy
        else:
            detail = "has the id of another file, so its boxes cannot be assigned"
            if ids[position] not in ambiguous:
                name = str(names[first[ids[position]]])
                part.change("duplicate-id", file=name, annotation=rows.name(first[ids[position]]))
            ambiguous.add(ids[position])
        rows.note(position, "duplicate-id", rows.same_id, detail=detail)
        rows.bad.add(position)
    names = rows.column("file_name", {str}, "a file name")
    if "" in names or any("\0" in name for name in names if type(name) is str):
        for position, name in enumerate(names):
            if type(name) is str and (not name or "\0" in name):
                rows.note(position, "unreadable-entry", f"has file_name {name!r}; expected a file name")
    sizes = _sizes(rows)
    image_of_id: dict[Any, int] = {}
    for position in rows.valid_positions():
        if ids[position] in ambiguous:
            image_of_id[ids[position]] = _AMBIGUOUS
        else:
            image_of_id[ids[position]] = len(part.images)
            part.images.append(ImageRecord(ids[position], names[position], sizes[position]))
    return image_of_id


def _sizes(rows: Rows) -> list[tuple[int, int] | None]:
    """Return the stated width and height of the images; None if missing or wrong."""
    widths, heights = ([row.get(side) for row in rows.rows] for side in ("width", "height"))
    unstated = {i for i, size in enumerate(zip(widths, heights, strict=True)) if size == (None, None)}
    if count := len(unstated - rows.bad):
        rows.forms[NO_SIZE] += count
    wrong = set(unstated)
    widths, heights = (
        rows.integers(side, "an integer", kind=lambda _: "wrong-value", wrong=wrong) for side in ("width", "height")
    )
    sizes = [None if i in wrong else size for i, size in enumerate(zip(widths, heights, strict=True))]
    for position, size in enumerate(sizes):
        if size is not None and not (0 < size[0] < LARGEST and 0 < size[1] < LARGEST):
            is_small = min(size) < 1
            large = f"has a width or height of {LARGEST:g} pixels or more"
            text = "has no pixels; expected width and height > 0" if is_small else large
            rows.note(position, "wrong-value", text)
            sizes[position] = None
    return sizes


def _read_boxes(part: Part, rows: Rows, image_of_id: dict[Any, int], label_of_id: dict[Any, int]) -> None:
    """Fill in the boxes."""
    ids = rows.ids(optional=True)
    for position in rows.repeated(ids):
        rows.note(position, "duplicate-id", rows.same_id)
    image_ids = _references(
        rows,
        "image_id",
        image_of_id,
        unknown="unknown-image",
        explanation="'images' has no image with this id. To drop such annotations, use --bad-boxes drop (Python: "
        "on_bad_box='drop')",
        of_name=lambda: ids_by_name((image.file_name, image.image_id) for image in part.images),
    )
    rows.images = images = [_NO_IMAGE if i in rows.bad else image_of_id[number] for i, number in enumerate(image_ids)]
    for position in [i for i, image in enumerate(images) if image == _AMBIGUOUS] if _AMBIGUOUS in images else ():
        part.change("duplicate-id", file=part.source.name, annotation=rows.name(position))  # a problem of the image
        rows.bad.add(position)
    class_ids = _references(
        rows,
        "category_id",
        label_of_id,
        unknown="unknown-class",
        explanation=f"'categories' lists {reprlib.repr([category.id for category in part.categories])}",
        of_name=lambda: ids_by_name((category.name, category.id) for category in part.categories),
    )
    areas, boxes = _areas(rows), _boxes(part, rows)
    crowds = rows.column("iscrowd", {int, bool}, "0 or 1", default=0, kind=lambda _: "wrong-value")
    part.box_images = np.array(rows.of_valid_rows(images), dtype=np.int64)
    part.labels = np.array(
        [label_of_id.get(number, UNKNOWN) for number in rows.of_valid_rows(class_ids)], dtype=np.int64
    )
    part.boxes_xywh = np.array(rows.of_valid_rows(boxes), dtype=np.float64).reshape(-1, 4)
    part.areas = np.array(rows.of_valid_rows(areas), dtype=np.float64)
    part.iscrowd = np.array(
        [type(crowd) in (int, bool) and crowd != 0 for crowd in rows.of_valid_rows(crowds)], dtype=bool
    )
    part.box_name, part.box_where = rows.row_namers()


def _references(
    rows: Rows,
    key: str,
    known: dict[Any, int],
    *,
    unknown: str,
    explanation: str,
    of_name: Callable[[], dict[str, Any]],
) -> list[Any]:
    """Return the id under `key` per row; ids that are not in `known` become problems of the kind `unknown`.

    `of_name` returns the ids that names stand for.
    """

    def kind(value: Any) -> str:
        if not is_id(value):
            return "unreadable-entry"
        if value in known:
            return "wrong-id"
        return unknown if unknown not in EXCLUDING_KINDS else "unreadable-entry"

    values = rows.integers(key, "an integer, or a name that only one entry has", kind=kind, named=of_name)
    if not rows.bad and known.keys() >= set(values):
        return values
    for position in rows.valid_positions():
        value = values[position]
        if type(value) is int and abs(value) < 2**63 and value not in known:
            rows.note(position, unknown, f"has {key} {rows.rows[position][key]}, which does not exist: {explanation}")
    return values


def _areas(rows: Rows) -> list[float]:
    """Return the stated areas, NaN if missing; training rejects impossible ones when it checks the boxes."""
    stated = rows.column("area", {int, float, type(None)}, "a number of square pixels", kind=lambda _: "wrong-value")
    areas = [_area(value) for value in stated]
    for position in np.flatnonzero((np.array(areas) < 0) | (np.array(areas) >= LARGEST)).tolist():
        detail = f"has area {reprlib.repr(stated[position])}; expected a number of square pixels"
        rows.note(position, "wrong-value", detail, is_error=False)
    return areas


def _area(value: Any) -> float:
    if type(value) not in (int, float):
        return math.nan
    return float(value) if abs(value) < LARGEST else math.inf  # an integer may be too large for a float


def _boxes(part: Part, rows: Rows) -> list[Any]:
    """Return the boxes [x, y, width, height] of all annotations."""
    boxes = [row.get("bbox") for row in rows.rows]
    others = [i for i, box in enumerate(boxes) if not is_box(box) and i not in rows.bad]
    sizes = _sizes_of_masks(part, rows, others)
    for position in others:
        image = rows.images[position]
        try:
            boxes[position], form = box_of(rows.rows[position], part.images[image].size_wh or sizes.get(image))
        except ValueError as error:
            rows.note(position, "unreadable-entry", str(error))
            continue
        rows.forms[OTHER_BOXES[form]] += 1
        if form == "outline":
            part.change("other-form", file=part.images[image].file_name, annotation=rows.name(position))
    return boxes


def _sizes_of_masks(part: Part, rows: Rows, positions: list[int]) -> dict[int, tuple[int, int]]:
    """Read from the image files the sizes that the COCO file omits and that masks are checked against."""
    masks = [i for i in positions if isinstance(rows.rows[i].get("segmentation"), dict)]
    images = [image for image in dict.fromkeys(rows.images[i] for i in masks) if part.images[image].size_wh is None]
    names = [part.images[image].file_name for image in images]
    located = locate(names, part.images_dir, annotations_dir=part.source.parent) if names else None
    sizes = {}
    for at, image in enumerate(images):
        try:
            size = image_size(part.images_dir / located.names[at]) if located else None
        except InputError:  # reported when the sizes of all images are read
            continue
        if size is not None:
            sizes[image] = size
    return sizes
