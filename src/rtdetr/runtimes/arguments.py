"""Checks of arguments for detectors: counts, fractions and network sizes, as Python or NumPy numbers."""

import operator
from typing import Any

from rtdetr.config import STRIDES, size_problem
from rtdetr.errors import InputError, RTDETRError


def whole_number(value: Any, name: str, *, error: type[RTDETRError] = InputError) -> int:
    """Return a positive integer as an int.

    Raises:
        RTDETRError: of class `error`, if `value` is anything else.
    """
    number = _index(value)
    if number is None or number < 1:
        raise error(f"{name} must be an integer of at least 1, got {value!r}")
    return number


def is_share(value: Any) -> bool:
    """Whether `value` is a number in 0..1."""
    try:
        return 0 <= float(value) <= 1 and not isinstance(value, str | bytes)
    except (TypeError, ValueError, OverflowError):
        return False


def multiples_of_32(size_hw: Any) -> tuple[int, int]:
    """Return a valid network input size as two ints.

    Raises:
        InputError: `size_hw` is not two positive multiples of 32.
    """
    try:
        height, width = map(_index, () if isinstance(size_hw, str | bytes) else size_hw)
    except (TypeError, ValueError):
        height = width = None
    if height is None or width is None or min(height, width) < 1:
        raise InputError(f"expected the size as (height, width) in pixels, like (640, 640), got {size_hw!r}")
    if problem := size_problem((height, width)):
        raise InputError(f"size_hw (--size): {problem}")
    return height, width


def num_tokens(size_hw: tuple[int, int]) -> int:
    """Number of tokens in the network's three maps for an image."""
    return sum((size_hw[0] // stride) * (size_hw[1] // stride) for stride in STRIDES)


def _index(value: Any) -> int | None:
    """Return an integer as a Python int; None for anything else, including booleans."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
