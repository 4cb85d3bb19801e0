"""Rows of YOLO label files: the numbers of one, and the objects of a file.

A row is `class cx cy w h`, or an outline `class x1 y1 x2 y2 x3 y3 ...` of which the surrounding box is taken; all
numbers but the class are fractions of the upright image's sides, divided by spaces. Commas are understood where they
can mean one thing only; see `numbers_of`.
"""

import math
import re
from collections.abc import Iterator, Sequence

from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text
from rtdetr.wording import counted

CLASS_LAST = "expected the class number first, it seems to be last"
SLACK = 0.01  # fractions beyond the border that are taken for rounding; such boxes are cut there
ROW = "expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 ...', numbers divided by spaces"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")


def numbers_of(row: str) -> list[float]:
    """The numbers of a row.

    Commas are decimal marks if spaces divide the numbers and each number has at most one comma, and no point:
    `0 0,5 0,5 0,1 0,1`. They divide the numbers if nothing else does, and decimal points or a space after every comma
    show it: `0,0.5,0.5,0.1,0.1` and `0, 0.5, 0.5, 1, 1`. Any other row with commas is refused.

    Raises:
        ValueError: something is not a number, or the commas can be read in two ways.
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
    raise ValueError("commas that may be decimal marks or divide the numbers")


def class_is_last(numbers: Sequence[float]) -> bool:
    """Whether a row looks like `cx cy w h class`: a fraction comes first and what may be a class number last."""
    if len(numbers) < 5 or numbers[0].is_integer():
        return False
    return all(-SLACK <= value <= 1 + SLACK for value in numbers[:-1]) and numbers[-1].is_integer() and numbers[-1] >= 0


def box_of(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Corners x1, y1, x2, y2 of a box given as cx, cy, w, h, or of the one around an outline x1, y1, x2, y2, ..."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def objects_of(file: str, point_numbers: int) -> Iterator[tuple[int, float, tuple[float, float, float, float]]]:
    """Line, class number and corners, as fractions of the image's sides, of each object in a label file.

    Args:
        file: the label file.
        point_numbers: how many numbers of key points may follow each box; 0: outlines are allowed instead.

    Raises:
        DatasetError: the file cannot be read, or a row is wrong; names file and line.
    """
    for line, content in enumerate(read_text(file, what="label file", error=DatasetError).splitlines(), 1):
        try:
            numbers = numbers_of(content)
        except ValueError:
            raise DatasetError(f"{file}:{line}: {ROW} and with decimal points; got {content[:60]!r}") from None
        if not numbers:
            continue
        if class_is_last(numbers):
            raise DatasetError(f"{file}:{line}: {CLASS_LAST}; got {content[:60]!r}")
        count, (number, *values) = len(numbers), numbers
        if point_numbers:
            if len(values) not in (4, 4 + point_numbers):
                raise DatasetError(
                    f"{file}:{line}: expected 'class cx cy w h' and {counted(point_numbers, 'number')} of points, as "
                    f"kpt_shape says; got {counted(count, 'number')}"
                )
            values = values[:4]
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise DatasetError(f"{file}:{line}: {ROW}; got {counted(count, 'number')}")
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            raise DatasetError(
                f"{file}:{line}: expected fractions of the image's sides, 0 to 1, got {content[:60]!r}. "
                "Divide pixels by the width and height of the image"
            )
        yield line, number, box_of(values)


def has_objects(file: str) -> bool:
    """Whether a text file begins with a row of numbers, as a list of images or of classes does not."""
    try:
        rows = read_text(file, what="label file", error=DatasetError).splitlines()
        numbers = numbers_of(next(filter(str.strip, rows), ""))
    except ValueError:  # a DatasetError is one too
        return False
    return len(numbers) >= 5 and all(map(math.isfinite, numbers))
