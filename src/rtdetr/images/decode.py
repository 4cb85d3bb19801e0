"""Opening image files: the only place where the library calls Pillow's `open`.

Whatever a decoder raises becomes an `InputError` that names the file. Formats that Pillow needs a plugin for are
recognized by their first bytes, and the plugin is loaded when the first such file comes.
"""

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from rtdetr.errors import InputError
from rtdetr.images.formats import plugin_for, unidentified
from rtdetr.images.limit import MAX_PIXELS_VARIABLE, check_pixels, max_pixels, too_large
from rtdetr.images.locks import only_reader
from rtdetr.images.orientation import UPRIGHT, exif_orientation, exif_tag, load_pixels, plain, turn_back
from rtdetr.images.sources import File, head_of, name_of, openable
from rtdetr.native import silence_libtiff

_SINGLE_PAGE = ("MPO",)  # further pages of these are previews of the first
_MOST_NAMED = 5
_ADVICE = re.compile(r"(generic error\W*)?\b(please|check `stderr`|try (re)?building)\b.*", re.IGNORECASE)
_PILLOW_WARNINGS = (UserWarning, Image.DecompressionBombWarning)
_silence_libtiff = functools.cache(silence_libtiff)
_log = logging.getLogger(__name__)


def decode(source: File | Image.Image, *, reduction: int = 1, upright: bool = True) -> Image.Image:
    """Read the pixels of the first page and turn them upright; the mode is the file's own.

    Args:
        source: a file, or an image of PIL, which is not changed.
        reduction: 2, 4 or 8 lets a JPEG file be decoded with sides smaller by up to this factor.
        upright: apply EXIF rotation; False gives the pixels as the file stores them.

    Returns:
        An image that carries no orientation, so reading it again turns it no further.

    Raises:
        InputError: the file is missing, damaged, too large, or no image.
    """
    with opened(source) as image:
        if reduction > 1 and image is not source:
            image.draft(None, (max(image.width // reduction, 1), max(image.height // reduction, 1)))
        if image is not source:
            _say_pages(image, source)
        stated = exif_tag(image)
        load_pixels(image)
        if 0 in image.size:
            raise InputError(f"expected an image of at least 1x1 pixels, got {image.width}x{image.height}")
        if stated == 1:
            return image
        orientation = exif_orientation(image)
        if upright and orientation != 1:
            return plain(image.transpose(UPRIGHT[orientation]))
        if not upright and orientation == 1:  # a TIFF file, which Pillow has turned
            return plain(image.transpose(turn_back(stated)))
        return plain(image)


@contextlib.contextmanager
def opened(source: File | Image.Image) -> Iterator[Image.Image]:
    """Open an image for the block, without its pixels; what goes wrong in the block is an InputError with its name.

    Only decoding belongs into the block, because every exception there is taken for a decoder's.

    Raises:
        InputError: as for `decode`.
    """
    try:
        if isinstance(source, Image.Image):
            with only_reader(source, getattr(source, "fp", None)):  # two images may be opened from one file object
                yield source
        else:
            with only_reader(source), _open(openable(source)) as image:
                check_pixels(image.size, source)
                yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(unidentified(source)) from None
    except Image.DecompressionBombError as error:
        raise InputError(too_large(source, str(error))) from None
    except BaseException as error:  # decoders raise what they like
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of plugins written in Rust
            raise
        raise InputError(f"{name_of(source)} cannot be read as an image: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """What a decoder says, without its advice to those who build it."""
    said = _ADVICE.sub("", " ".join(str(error).split())).strip()
    return type(error).__name__ if not str(error).strip() else said if said else "it is damaged or cut off"


def _open(file: Path | BinaryIO) -> Image.Image:
    """Pillow's `open`, with the plugin that the file needs."""
    _silence_libtiff()
    _silence_pillow()
    if os.environ.get(MAX_PIXELS_VARIABLE):
        Image.MAX_IMAGE_PIXELS = max_pixels()  # Pillow warns beyond it and refuses beyond twice as many
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        plugin = plugin_for(head_of(file))
        if plugin is None:
            raise
        try:
            plugin.load()
        except ImportError:
            name = name_of(file)
            raise InputError(
                f"{name} is a {plugin.name} file, which needs a decoder: pip install {plugin.package}, or save the "
                "image as PNG or JPEG"
            ) from None
        return Image.open(file)


def _silence_pillow() -> None:
    """Keep Pillow from warning of damaged metadata, which spoils no pixels, and of sizes below the limit.

    Only what its modules warn of themselves: that they were called wrongly is said of the caller. The filters are those
    of the whole process, because any others that a thread sets are lost as soon as another one does.
    """
    for category in _PILLOW_WARNINGS:
        if ("ignore", None, category, re.compile(r"PIL\."), 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=r"PIL\.")


def _say_pages(image: Image.Image, source: object) -> None:
    """Say that of several pages or frames the first is used."""
    if getattr(image, "is_animated", False) and image.format not in _SINGLE_PAGE:
        _say_first_page(name_of(source), image.format or "image")


@functools.lru_cache(maxsize=10_000)
def _say_first_page(name: str, kind: str) -> None:
    said = _say_first_page.cache_info().currsize
    if said < _MOST_NAMED:
        _log.warning("%s (%s) has several pages or frames: the first one is used", name, kind)
    elif said == _MOST_NAMED:
        _log.warning("%s too; further files with several pages are not named", name)
