"""Parse the values in the rows of a COCO file, including the nonstandard forms that some programs write.

Training and the data doctor use the same rules. They accept numbers written as text ("12", "12,5") or with an empty
fraction (12.0 for an id), a class or image given by name instead of id, a box written as text ("[1, 2, 3, 4]") or as an
object ({"x": 1, "y": 2, "width": 3, "height": 4}), and, if a row has no `bbox`, the box around its `segmentation`:
polygons, or a mask in run lengths, compressed or not. An ambiguous value is returned unchanged; the caller rejects it.

Source: the "Object Detection" format of https://cocodataset.org/#format-data; run lengths as in maskApi.c of
https://github.com/cocodataset/cocoapi.
"""

import json
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from rtdetr.data.annotations import LARGEST
from rtdetr.data.label_rows import numbers_of

_WHOLE = re.compile(r"([+-]?[0-9]{1,40})(\.0*|,00?)?")
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]{1,15}),([0-9]{1,2}|[0-9]{4,15})")  # before three digits it may mark thousands
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_BOX_TEXT = re.compile(r"[\[(]?([0-9+\-.,eE\s]{1,200})[\])]?")
_WORDS = {"true": True, "false": False}
_EXACT = 2**53  # integers up to it are exact as floats
_LONGEST_SHIFT = 60  # bits of a run length
OTHER_NUMBERS = "numbers in a nonstandard form, such as text"
OTHER_NAMES = {"image_id": "images given by file name", "category_id": "classes given by name"}
OTHER_BOXES = {
    "text": "boxes written as text",
    "object": "boxes written as objects",
    "outline": "boxes taken from outlines or masks",
}
_XYWH = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
WITHOUT_ID = "annotations without an id"
DUPLICATE_CLASS = "classes without objects omitted because another class has the same name"
NO_SIZE = "images without width and height, which are read from the image files"
EXPECTED_BOX = "expected 4 numbers [x, y, width, height] in pixels"


class Box(NamedTuple):
    """A box [x, y, width, height] in pixels, and its form in the file: "numbers", "text", "object" or "outline"."""

    xywh: list[int | float]
    form: str


def to_integer(value: Any) -> Any:
    """Return the integer that a value such as 12, 12.0, "12" or "12.0" stands for; any other value unchanged."""
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value.strip())
        return int(found[1]) if found else value
    return int(value) if type(value) is float and abs(value) <= _EXACT and value.is_integer() else value


def to_number(value: Any) -> Any:
    """Return the number that a value such as 1.5, "1.5" or "1,5" stands for; any other value unchanged."""
    if not isinstance(value, str):
        return value
    found = _DECIMAL_COMMA.fullmatch(value.strip())
    text = f"{found[1]}.{found[2]}" if found else value.strip()
    return float(text) if _NUMBER.fullmatch(text) else value


def ids_by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the id per name, for names that are unique and cannot be read as an id themselves."""
    ids: dict[str, set[Any]] = {}
    for name, number in pairs:
        ids.setdefault(name, set()).add(number)
    return {name: found.pop() for name, found in ids.items() if len(found) == 1 and isinstance(to_integer(name), str)}


def unused_duplicate_classes(classes: Sequence[tuple[Any, str]], annotations: Iterable[Any]) -> set[Any]:
    """Return the ids of classes that can be omitted: without objects, and another class keeps the name.

    Roboflow lists the supercategory as a class too: "fish" for the only class "fish".

    Args:
        classes: id and name of each class.
        annotations: the annotation rows of the file.
    """
    of_name: dict[str, list[Any]] = {}
    for class_id, name in classes:
        of_name.setdefault(name, []).append(class_id)
    shared = {name: ids for name, ids in of_name.items() if len(ids) > 1}
    if not shared:
        return set()
    values = (row.get("category_id") for row in annotations if isinstance(row, dict))
    used = {to_integer(value) for value in values if isinstance(value, int | float | str)}
    unused: set[Any] = set()
    for ids in shared.values():
        free = [class_id for class_id in ids if class_id not in used]
        unused |= set(free if len(free) < len(ids) else free[:-1])
    return unused


def to_flag(value: Any) -> Any:
    """Return 0 or 1 (or a bool) for a flag, 0 for null; any other value unchanged."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower(), to_integer(value))
    return 0 if value is None else to_integer(value)


READ = {
    "id": to_integer,
    "image_id": to_integer,
    "category_id": to_integer,
    "width": to_integer,
    "height": to_integer,
    "iscrowd": to_flag,
    "area": to_number,
}


def is_box(value: Any) -> TypeGuard[list[int | float]]:
    """Return whether a value is a box in the standard form: 4 plain numbers."""
    return (
        type(value) is list
        and len(value) == 4
        and set(map(type, value)) <= {int, float}
        and all(abs(side) < LARGEST for side in value)
    )


def box_of(row: dict[str, Any], size_wh: tuple[int, int] | None) -> Box:
    """Return the box of an annotation, in any accepted form.

    Args:
        row: the annotation.
        size_wh: width and height of its image, which a mask must match; None if not known.

    Raises:
        ValueError: it has no box, or one in an unknown form; the message continues after "annotation 8812 ".
    """
    bbox = row.get("bbox")
    if is_box(bbox):
        return Box(bbox, "numbers")
    if bbox is None or bbox == [] or bbox == "":
        segmentation = row.get("segmentation")
        if segmentation is None or segmentation == [] or segmentation == "":
            raise ValueError(f"has neither 'bbox' nor 'segmentation'; {EXPECTED_BOX}")
        return Box(_box_around(segmentation, size_wh), "outline")
    form = "object" if isinstance(bbox, dict) else "text"
    values = _numbers_in(bbox) if isinstance(bbox, str) else _numbers_of(bbox)
    if not is_box(values):
        raise ValueError(f"has bbox {reprlib.repr(bbox)}; {EXPECTED_BOX}")
    return Box(values, form)


def _numbers_of(box: Any) -> list[Any] | None:
    """Return the numbers of a box written as a list, or as an object with known keys."""
    if type(box) is list:
        return list(map(to_number, box))
    if not isinstance(box, dict):
        return None
    values = {str(key).lower(): to_number(value) for key, value in box.items()}
    if len(values) < len(box):
        return None  # repeated key, as in {"x": 1, "X": 2}
    keys = next((keys for keys in (*_XYWH, *_CORNERS) if set(keys) == values.keys()), None)
    numbers = [] if keys is None else [values[key] for key in keys]
    if keys not in _CORNERS or not is_box(numbers):
        return numbers
    x1, y1, x2, y2 = numbers
    return [x1, y1, x2 - x1, y2 - y1]


def _numbers_in(text: str) -> list[int | float] | None:
    """Return the numbers of a box written as text, separated as in JSON or by spaces."""
    found = _BOX_TEXT.fullmatch(text.strip())
    if found is None:
        return None
    try:
        return json.loads(f"[{found[1]}]")
    except ValueError:
        pass
    try:
        return numbers_of(found[1])
    except ValueError:
        return None


def _box_around(segmentation: Any, size_wh: tuple[int, int] | None) -> list[int | float]:
    if isinstance(segmentation, dict):
        return _box_of_mask(segmentation, size_wh)
    polygons = segmentation if isinstance(segmentation, list) else [None]
    if not any(isinstance(polygon, list) for polygon in polygons):
        polygons = [polygons]  # a single polygon
    points: list[Any] = []
    for polygon in polygons:
        values = [to_number(value) for value in polygon] if isinstance(polygon, list) else []
        if len(values) < 6 or len(values) % 2 or not _are_pixels(values):
            raise ValueError(
                f"has no 'bbox' and the segmentation {reprlib.repr(segmentation)}; expected polygons "
                "[[x1, y1, x2, y2, x3, y3, ...]] in pixels or a mask of run lengths"
            )
        points += values
    x1, y1, x2, y2 = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return [x1, y1, x2 - x1, y2 - y1]


def _are_pixels(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and all(abs(value) < LARGEST for value in values)


def _box_of_mask(mask: dict[str, Any], size_wh: tuple[int, int] | None) -> list[int | float]:
    (height, width), lengths = run_lengths(mask)
    if size_wh is not None and (width, height) != tuple(size_wh):
        stated = f"{size_wh[0]}x{size_wh[1]}"
        raise ValueError(
            f"has no 'bbox' and a mask of {width}x{height} pixels; expected the size of the image, {stated}"
        )
    ends = np.cumsum(lengths)
    ones = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not len(ones):
        return [0, 0, 0, 0]  # an empty mask
    first, last = (ends - lengths)[ones], ends[ones] - 1
    x1, x2 = int(first.min() // height), int(last.max() // height)
    y1, y2 = int((first % height).min()), int((last % height).max())
    if (first // height != last // height).any():  # a run continues in the next column
        y1, y2 = 0, height - 1
    return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


def run_lengths(mask: dict[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size and the runs of a mask {"size": [height, width], "counts": alternating runs of 0 and 1}.

    Returns:
        Height and width, and the lengths of the runs, int64, column by column.

    Raises:
        ValueError: the mask is not valid; the message continues after "annotation 8812 ".
    """
    size, counts = mask.get("size"), mask.get("counts")
    sides = [to_integer(side) for side in size] if isinstance(size, list) else []
    runs = _decoded(counts) if isinstance(counts, str) else counts
    runs = [to_integer(run) for run in runs] if isinstance(runs, list) else []
    if len(sides) != 2 or not runs or set(map(type, [*sides, *runs])) != {int} or min(*sides, *runs, 0) < 0:
        raise ValueError("has no 'bbox' and an invalid mask; expected {'size': [height, width], 'counts': run lengths}")
    height, width = sides
    if sum(runs) != height * width or height * width >= LARGEST:
        raise ValueError(f"has no 'bbox' and a mask with runs of {sum(runs)} pixels; expected {height}x{width}")
    return (height, width), np.array(runs, dtype=np.int64)


def _decoded(counts: str) -> list[int] | None:
    """Decode compressed run lengths: 5 bits per character, lowest first. From the fourth on, a run is stored as its
    difference from the run two before it.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_SHIFT:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # last character of a number; its highest bit is the sign
            value -= (bits & 16 and 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
