"""The maximum number of pixels of an image: a guard against damaged files, which users can raise."""

import os
import re

from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images.sources import File, name_of

MAX_PIXELS_VARIABLE = "RTDETR_MAX_PIXELS"
_SLIDE_PIXELS = 400_000_000


def max_pixels() -> int | None:
    """Return the maximum number of pixels of an image: RTDETR_MAX_PIXELS or Pillow's limit; None: no limit.

    Raises:
        InputError: the variable is not a number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text:
        return parse_pixels(text)
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def parse_pixels(text: str) -> int:
    """Parse a number of pixels: 250000000, 250M (millions) or 1G.

    Raises:
        InputError: the text is anything else.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE | re.ASCII)
    count = round(float(parts[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[parts[2].lower()]) if parts else 0
    if count < 1:
        raise InputError(f"expected a number of pixels such as 250000000 or 250M, got {text!r}")
    return count


def allow_pixels(count: int) -> None:
    """Set the limit of `max_pixels` for this process and for processes that it starts afterwards."""
    os.environ[MAX_PIXELS_VARIABLE] = str(count)


def check_pixels(size_wh: tuple[int, int], source: File) -> None:
    """Check the size of an image before memory is allocated for its pixels.

    Raises:
        InputError: `size_wh` has more pixels than allowed.
    """
    most, pixels = max_pixels(), size_wh[0] * size_wh[1]
    if most is not None and pixels > most:
        raise InputError(too_large(source, f"{size_wh[0]}x{size_wh[1]} pixels, more than {most:,}", pixels))


def pixels_hint(pixels: int) -> str:
    """Return advice for an image that has more pixels than allowed."""
    tiles = ""
    if pixels >= _SLIDE_PIXELS:
        tiles = "; to detect small objects, cut it into tiles instead (e.g. with libvips' dzsave)"
    millions = -(-pixels // 1_000_000)
    return f"allow it with --max-pixels {millions}M (Python: rtdetr.images.allow_pixels({millions}_000_000)){tiles}"


def too_large(source: object, reason: str, pixels: int = 0) -> str:
    """Return the error message for an image above the limit, with Pillow's or our own reason."""
    if not pixels and (numbers := re.search(r"\((\d+) pixels\)", reason)):  # Pillow's own message
        pixels = int(numbers[1])
        reason = f"{pixels:,} pixels, more than {max_pixels() or 0:,}"
    return f"{name_of(source)} is too large: {reason}; {pixels_hint(pixels)}"
