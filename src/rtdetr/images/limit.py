"""How many pixels an image may have: a guard against damaged files, which users can raise."""

import os
import re

from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images.sources import File, name_of

MAX_PIXELS_VARIABLE = "RTDETR_MAX_PIXELS"
_SLIDE_PIXELS = 400_000_000


def max_pixels() -> int | None:
    """The most pixels that an image may have: RTDETR_MAX_PIXELS, else what Pillow allows; None: any number.

    Raises:
        InputError: the variable is not a number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if text:
        return parse_pixels(text)
    return None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def parse_pixels(text: str) -> int:
    """Read a number of pixels: 250000000, 250M (millions) or 1G.

    Raises:
        InputError: anything else.
    """
    parts = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE | re.ASCII)
    count = round(float(parts[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[parts[2].lower()]) if parts else 0
    if count < 1:
        raise InputError(f"expected a number of pixels such as 250000000 or 250M, got {text!r}")
    return count


def allow_pixels(count: int) -> None:
    """Set the limit of `max_pixels` for this process and for those that it starts from now on."""
    os.environ[MAX_PIXELS_VARIABLE] = str(count)


def check_pixels(size_wh: tuple[int, int], source: File) -> None:
    """Refuse an image beyond the limit before its pixels take memory.

    Raises:
        InputError: `size_wh` has more pixels than allowed.
    """
    most, pixels = max_pixels(), size_wh[0] * size_wh[1]
    if most is not None and pixels > most:
        raise InputError(too_large(source, f"{size_wh[0]}x{size_wh[1]} pixels, more than {most:,}", pixels))


def pixels_hint(pixels: int) -> str:
    """What to do with an image that has more pixels than allowed."""
    tiles = ""
    if pixels >= _SLIDE_PIXELS:
        tiles = "; for objects that are small in it, cut it into tiles (such as with libvips' dzsave) and use those"
    millions = -(-pixels // 1_000_000)
    return f"allow it with --max-pixels {millions}M (Python: rtdetr.images.allow_pixels({millions}_000_000)){tiles}"


def too_large(source: object, reason: str, pixels: int = 0) -> str:
    """The message for an image beyond the limit, with Pillow's or our own reason."""
    if not pixels and (numbers := re.search(r"\((\d+) pixels\)", reason)):  # Pillow's own words
        pixels = int(numbers[1])
        reason = f"{pixels:,} pixels, more than {max_pixels() or 0:,}"
    return f"{name_of(source)} is too large: {reason}; {pixels_hint(pixels)}"
