"""Parse the rows of YOLO label files.

A row is `class cx cy w h`, or an outline `class x1 y1 x2 y2 x3 y3 ...`, which is replaced by the box around it; all
numbers except the class are fractions of the upright image's sides, separated by spaces. Commas are accepted if they
are unambiguous; see `numbers_of`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text
from rtdetr.wording import counted

CLASS_LAST = "expected the class number first, but it seems to be last"
SLACK = 0.01  # fractions this far beyond the border count as rounding errors; the box is clipped
ROW = "expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...', separated by spaces"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")


def numbers_of(row: str) -> list[float]:
    """Return the numbers of a row.

    Commas are decimal marks if spaces separate the numbers and each number has at most one comma and no point:
    `0 0,5 0,5 0,1 0,1`. They are separators if there are no others, and decimal points or a space after every comma
    show it: `0,0.5,0.5,0.1,0.1` and `0, 0.5, 0.5, 1, 1`. Any other row with commas is rejected.

    Raises:
        ValueError: something is not a number, or the commas are ambiguous.
    """
    fields = row.split()
    if "," in row:
        fields = _without_commas(row, fields)
    return [float(field) for field in fields]


def _without_commas(row: str, fields: Sequence[str]) -> list[str]:
    if all("," not in field or _DECIMAL_COMMA.fullmatch(field) for field in fields):
        return [field.replace(",", ".") for field in fields]
    pieces = [piece.strip() for piece in row.split(",")]
    are_divided = "." in row or not re.search(r",\S", row.strip())
    if are_divided and all(len(piece.split()) == 1 for piece in pieces):
        return pieces
    raise ValueError("commas may be decimal marks or separators")


def class_is_last(numbers: Sequence[float]) -> bool:
    """Return whether a row looks like `cx cy w h class`: a fraction first and a possible class number last."""
    if len(numbers) < 5 or numbers[0].is_integer():
        return False
    return all(-SLACK <= value <= 1 + SLACK for value in numbers[:-1]) and numbers[-1].is_integer() and numbers[-1] >= 0


def box_of(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the corners x1, y1, x2, y2 of a box cx, cy, w, h, or of the box around an outline x1, y1, x2, y2, ..."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


class Row(NamedTuple):
    """An object: line number, class number, and corners x1, y1, x2, y2 as fractions of the image's sides."""

    line: int
    number: float
    corners: tuple[float, float, float, float]


class WrongRow(NamedTuple):
    """An invalid line: its number, the kind of finding (doctor/findings.py), and the problem."""

    line: int
    kind: str
    problem: str


def objects_of(file: str, point_numbers: int) -> Iterator[Row | WrongRow]:
    """Yield the nonempty lines of a label file.

    Args:
        file: the label file.
        point_numbers: how many keypoint numbers may follow each box; 0 allows outlines instead.

    Raises:
        DatasetError: the file cannot be read.
    """
    for line, content in enumerate(read_text(file, what="label file", error=DatasetError).splitlines(), 1):
        try:
            numbers = numbers_of(content)
        except ValueError:
            yield WrongRow(line, "unreadable-entry", f"{ROW} and with decimal points, got {content[:60]!r}")
            continue
        if not numbers:
            continue
        count, (number, *values) = len(numbers), numbers
        if problem := _wrong_count(numbers, point_numbers):
            got = repr(content[:60]) if problem == CLASS_LAST else counted(count, "number")
            yield WrongRow(line, "unreadable-entry", f"{problem}, got {got}")
            continue
        if point_numbers:
            values = values[:4]
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            yield WrongRow(
                line,
                "not-fraction" if all(map(math.isfinite, values)) else "unreadable-entry",
                f"expected fractions of the image's sides, 0 to 1, got {content[:60]!r}. "
                "Divide pixel coordinates by the width and height of the image",
            )
            continue
        yield Row(line, number, box_of(values))


def _wrong_count(numbers: Sequence[float], point_numbers: int) -> str:
    """Return what was expected instead of this number of values; empty if it is right."""
    count = len(numbers) - 1
    if class_is_last(numbers):
        return CLASS_LAST
    if point_numbers:
        if count in (4, 4 + point_numbers):
            return ""
        return f"expected 'class cx cy w h' and {counted(point_numbers, 'number')} of keypoints (kpt_shape)"
    return ROW if count != 4 and (count < 6 or count % 2) else ""


def has_objects(file: str) -> bool:
    """Return whether a text file begins with a row of numbers, unlike a list of images or classes."""
    try:
        rows = read_text(file, what="label file", error=DatasetError).splitlines()
        numbers = numbers_of(next(filter(str.strip, rows), ""))
    except ValueError:  # a DatasetError is one too
        return False
    return len(numbers) >= 5 and all(map(math.isfinite, numbers))
