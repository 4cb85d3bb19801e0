"""Examine every image file once: readability, size, EXIF rotation and a thumbnail.

JPEG files are decoded at an eighth of their size, which still reads all their data (so truncated files are found) and
takes a quarter of the time. Several threads read and decode files in parallel.
"""

import hashlib
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images import open_image, viewable
from rtdetr.images.arrays import numpy_file
from rtdetr.images.decode import opened
from rtdetr.images.orientation import UPRIGHT, exif_orientation, exif_tag, upright_size

_log = logging.getLogger(__name__)
THUMB_SIDE = 16
_PLAIN_MODES = {
    "1",
    "L",
    "LA",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
}  # others can be unconvertible


class ImageFacts(NamedTuple):
    """Facts about an image file.

    error: why the file cannot be used; then the fields below are empty.
    stored_wh: width and height as stored in the file; `upright_wh` is after EXIF rotation.
    orientation: EXIF orientation, 1 to 8; 1 is upright.
    digest: hash of the file content.
    thumb: gray levels 0..255 of the upright image, 16x16.
    """

    error: str | None
    missing: bool = False
    stored_wh: tuple[int, int] = (0, 0)
    orientation: int = 1
    digest: bytes = b""
    thumb: np.ndarray = np.zeros((THUMB_SIDE, THUMB_SIDE), dtype=np.uint8)

    @property
    def upright_wh(self) -> tuple[int, int]:
        """Width and height after EXIF rotation, pixels."""
        width, height = self.stored_wh
        return (height, width) if self.orientation >= 5 else (width, height)

    @property
    def usable(self) -> bool:
        """Whether the file exists and is an image."""
        return self.error is None


def examine_all(paths: Sequence[Path]) -> list[ImageFacts]:
    """Return the facts of many files, in order; log the progress every ten seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata; set here because threads share the filters
        with ThreadPoolExecutor() as pool:
            return list(_reporting(pool.map(examine, paths), len(paths)))


def _reporting(facts: Iterator[ImageFacts], total: int) -> Iterator[ImageFacts]:
    reported = time.monotonic()
    for number, one in enumerate(facts, start=1):
        yield one
        if time.monotonic() - reported > 10:
            reported = time.monotonic()
            _log.info("read %d of %d images", number, total)


def examine(path: Path) -> ImageFacts:
    """Return the facts of one file; never raises."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: no file can have such a name
        return ImageFacts("does not exist", missing=True)
    except OSError as error:
        return ImageFacts(f"cannot be read: {error.strerror or error}")
    try:
        return _facts(data)
    except Exception:  # decoders fail in many ways on damaged files; use the loader's message
        try:
            upright = image_of(path)
        except InputError as error:
            return ImageFacts(str(error).removeprefix(f"{path} "))
    size_wh = upright.size
    if path.suffix.lower() == ".npy" and (levels := np.load(path, allow_pickle=False)).dtype == np.uint16:
        if levels.ndim == 3:
            levels = levels.mean(axis=2 if levels.shape[:2] == size_wh[::-1] else 0)
        upright = _over_all_levels(levels)
    return _described(data, upright, size_wh, 1)


def image_of(path: Path) -> Image.Image:
    """Return an image file for display: upright, 8-bit RGB.

    Raises:
        InputError: training could not read the file with any number of channels.
    """
    array = numpy_file(path)
    if array is not None and array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return open_image(array)  # rejects channels-first arrays
    return viewable(path if array is None else array)


def _facts(data: bytes) -> ImageFacts:
    with opened(data) as image:
        orientation = exif_tag(image)
        width, height = upright_size(image)
        stored_wh = (height, width) if orientation >= 5 else (width, height)
        mode, upright = image.mode, None
        if mode in _PLAIN_MODES:
            image.draft("L", (64, 64))
            image.load()
            turn = UPRIGHT.get(exif_orientation(image))
            upright = image if turn is None else image.transpose(turn)
    if upright is None:
        upright = open_image(data)  # rejects values that cannot be converted
        if mode.startswith("I"):
            upright = _over_all_levels(np.asarray(open_image(data, mode=None)))
    return _described(data, upright, stored_wh, orientation)


def _over_all_levels(values: np.ndarray) -> Image.Image:
    """Scale 16-bit levels up to white: cameras use 10 or 12 bits, and in 8 bits all such images would be black."""
    return Image.fromarray((values.astype(np.float32) * (255 / max(values.max(), 255))).astype(np.uint8))


def _described(data: bytes, upright: Image.Image, stored_wh: tuple[int, int], orientation: int) -> ImageFacts:
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")  # PIL warns about a direct conversion; the colors are the same
    gray = upright.convert("L")
    return ImageFacts(
        error=None,
        stored_wh=stored_wh,
        orientation=orientation,
        digest=hashlib.blake2b(data, digest_size=16).digest(),
        thumb=np.asarray(gray.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX)),
    )
