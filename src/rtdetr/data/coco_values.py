"""Values in the rows of a COCO file, as programs write them: one reading for training and for the data doctor.

Read are numbers written as text ("12", "12,5") or with an empty fraction (12.0 for an id), a class or image given by
its name in place of its id, a box written as text ("[1, 2, 3, 4]") or as an object ({"x": 1, "y": 2, "width": 3,
"height": 4}), and, where a row has no `bbox`, the box around its `segmentation`: polygons, or a mask in run lengths,
compressed or not. A value with more than one meaning is returned as it is, for the caller to refuse by name.

Source: the "Object Detection" format of https://cocodataset.org/#format-data; the run lengths are those of maskApi.c in
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
_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]{1,15}),([0-9]{1,2}|[0-9]{4,15})")  # three digits may be thousands
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_BOX_TEXT = re.compile(r"[\[(]?([0-9+\-.,eE\s]{1,200})[\])]?")
_WORDS = {"true": True, "false": False}
_EXACT = 2**53  # floats up to it are exact
_LONGEST_SHIFT = 60  # bits of a run length
OTHER_NUMBERS = "numbers in another form, such as text"
OTHER_NAMES = {"image_id": "images given by file name", "category_id": "classes given by name"}
OTHER_BOXES = {
    "text": "boxes written as text",
    "object": "boxes written as objects",
    "outline": "boxes taken from outlines or masks",
}
_XYWH = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
WITHOUT_ID = "annotations without an id"
NAMESAKE = "classes without objects left out, as another has their name"
NO_SIZE = "images without width and height, which are read from the files"
EXPECTED_BOX = "expected 4 numbers [x, y, width, height] in pixels"


class Box(NamedTuple):
    """A box [x, y, width, height] in pixels, and how the file has it: "numbers", "text", an "object" or "outline"."""

    xywh: list[int | float]
    form: str


def whole(value: Any) -> Any:
    """The integer that a value stands for, as 12, 12.0, "12" and "12.0" do; any other value as it is."""
    if isinstance(value, str):
        found = _WHOLE.fullmatch(value.strip())
        return int(found[1]) if found else value
    return int(value) if type(value) is float and abs(value) <= _EXACT and value.is_integer() else value


def number(value: Any) -> Any:
    """The number that a value stands for, as 1.5, "1.5" and "1,5" do; any other value as it is."""
    if not isinstance(value, str):
        return value
    found = _DECIMAL_COMMA.fullmatch(value.strip())
    text = f"{found[1]}.{found[2]}" if found else value.strip()
    return float(text) if _NUMBER.fullmatch(text) else value


def named(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The ids of names that may stand for them: those that only one has and that cannot be read as an id."""
    ids: dict[str, set[Any]] = {}
    for name, number in pairs:
        ids.setdefault(name, set()).add(number)
    return {name: found.pop() for name, found in ids.items() if len(found) == 1 and isinstance(whole(name), str)}


def unused_namesakes(classes: Sequence[tuple[Any, str]], annotations: Iterable[Any]) -> set[Any]:
    """The ids of classes that may be left out: without objects, and another class that stays has the name.

    Roboflow lists the group of classes as a class: "fish" for the one class "fish".

    Args:
        classes: id and name of each.
        annotations: the rows of the file.
    """
    of_name: dict[str, list[Any]] = {}
    for class_id, name in classes:
        of_name.setdefault(name, []).append(class_id)
    shared = {name: ids for name, ids in of_name.items() if len(ids) > 1}
    if not shared:
        return set()
    values = (row.get("category_id") for row in annotations if isinstance(row, dict))
    used = {whole(value) for value in values if isinstance(value, int | float | str)}
    unused: set[Any] = set()
    for ids in shared.values():
        free = [class_id for class_id in ids if class_id not in used]
        unused |= set(free if len(free) < len(ids) else free[:-1])
    return unused


def flag(value: Any) -> Any:
    """0 or 1 (or a bool), where nothing or null means 0; any other value as it is."""
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower(), whole(value))
    return 0 if value is None else whole(value)


READ = {
    "id": whole,
    "image_id": whole,
    "category_id": whole,
    "width": whole,
    "height": whole,
    "iscrowd": flag,
    "area": number,
}


def is_box(value: Any) -> TypeGuard[list[int | float]]:
    """Whether a value is a box as the format has it: 4 plain numbers."""
    return (
        type(value) is list
        and len(value) == 4
        and set(map(type, value)) <= {int, float}
        and all(abs(side) < LARGEST for side in value)
    )


def box_of(row: dict[str, Any], size_wh: tuple[int, int] | None) -> Box:
    """The box of an annotation that may not have it as 4 plain numbers.

    Args:
        row: the annotation.
        size_wh: width and height of its image, which a mask must have too; None: not known.

    Raises:
        ValueError: it has none, or none that can be understood; the message goes on from "annotation 8812 ".
    """
    bbox = row.get("bbox")
    if is_box(bbox):
        return Box(bbox, "numbers")
    if bbox is None or bbox == [] or bbox == "":
        segmentation = row.get("segmentation")
        if segmentation is None or segmentation == [] or segmentation == "":
            raise ValueError(f"has no 'bbox' and no 'segmentation' to take it from; {EXPECTED_BOX}")
        return Box(_box_around(segmentation, size_wh), "outline")
    form = "object" if isinstance(bbox, dict) else "text"
    values = _numbers_in(bbox) if isinstance(bbox, str) else _numbers_of(bbox)
    if not is_box(values):
        raise ValueError(f"has bbox {reprlib.repr(bbox)}; {EXPECTED_BOX}")
    return Box(values, form)


def _numbers_of(box: Any) -> list[Any] | None:
    """The numbers of a box written as a list, or as an object whose keys say what they are."""
    if type(box) is list:
        return list(map(number, box))
    if not isinstance(box, dict):
        return None
    values = {str(key).lower(): number(value) for key, value in box.items()}
    if len(values) < len(box):
        return None  # one key twice, as in {"x": 1, "X": 2}
    keys = next((keys for keys in (*_XYWH, *_CORNERS) if set(keys) == values.keys()), None)
    numbers = [] if keys is None else [values[key] for key in keys]
    if keys not in _CORNERS or not is_box(numbers):
        return numbers
    x1, y1, x2, y2 = numbers
    return [x1, y1, x2 - x1, y2 - y1]


def _numbers_in(text: str) -> list[int | float] | None:
    """The numbers of a box written as text, divided as in JSON or by spaces."""
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
        polygons = [polygons]  # one polygon alone
    points: list[Any] = []
    for polygon in polygons:
        values = [number(value) for value in polygon] if isinstance(polygon, list) else []
        if len(values) < 6 or len(values) % 2 or not _are_pixels(values):
            raise ValueError(
                f"has no 'bbox', and segmentation {reprlib.repr(segmentation)}; expected polygons "
                "[[x1, y1, x2, y2, x3, y3, ...]] in pixels or a mask of run lengths"
            )
        points += values
    x1, y1, x2, y2 = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return [x1, y1, x2 - x1, y2 - y1]


def _are_pixels(values: Sequence[Any]) -> bool:
    return set(map(type, values)) <= {int, float} and all(abs(value) < LARGEST for value in values)


def _box_of_mask(mask: dict[str, Any], size_wh: tuple[int, int] | None) -> list[int | float]:
    """The box around the mask {"size": [height, width], "counts": runs of 0 and 1 by turns, column after column}."""
    size, counts = mask.get("size"), mask.get("counts")
    sides = [whole(side) for side in size] if isinstance(size, list) else []
    runs = _decoded(counts) if isinstance(counts, str) else counts
    runs = [whole(run) for run in runs] if isinstance(runs, list) else []
    if len(sides) != 2 or not runs or set(map(type, [*sides, *runs])) != {int} or min(*sides, *runs, 0) < 0:
        raise ValueError("has no 'bbox', and a mask that is not like {'size': [height, width], 'counts': run lengths}")
    height, width = sides
    if size_wh is not None and (width, height) != tuple(size_wh):
        stated = f"{size_wh[0]}x{size_wh[1]}"
        raise ValueError(f"has no 'bbox', and a mask of {width}x{height} pixels; expected the image's {stated}")
    if sum(runs) != height * width or height * width >= LARGEST:
        raise ValueError(f"has no 'bbox', and a mask with runs of {sum(runs)} pixels; expected {height}x{width}")
    lengths = np.array(runs, dtype=np.int64)
    ends = np.cumsum(lengths)
    ones = np.flatnonzero(lengths[1::2]) * 2 + 1
    if not len(ones):
        return [0, 0, 0, 0]  # an empty mask
    first, last = (ends - lengths)[ones], ends[ones] - 1
    x1, x2 = int(first.min() // height), int(last.max() // height)
    y1, y2 = int((first % height).min()), int((last % height).max())
    if (first // height != last // height).any():  # a run goes on in the next column
        y1, y2 = 0, height - 1
    return [x1, y1, x2 - x1 + 1, y2 - y1 + 1]


def _decoded(counts: str) -> list[int] | None:
    """Run lengths from their text: 5 bits a character, the lowest first; from the fourth on, what each has more than
    the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _LONGEST_SHIFT:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last of a number; its highest bit is the sign
            value -= (bits & 16 and 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
