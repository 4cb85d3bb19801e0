"""Opening image files: the only place where the library calls Pillow's `open`.

Every exception of a decoder becomes an `InputError` that names the file. Formats that need a Pillow plugin are
recognized by their first bytes, and the plugin is loaded with the first such file.
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

_SINGLE_PAGE = ("MPO",)  # further pages of this format are previews of the first
_MAX_NAMED = 5
_ADVICE = re.compile(r"(generic error\W*)?\b(please|check `stderr`|try (re)?building)\b.*", re.IGNORECASE)
_PILLOW_WARNINGS = (UserWarning, Image.DecompressionBombWarning)
_silence_libtiff = functools.cache(silence_libtiff)
_log = logging.getLogger(__name__)


def decode(source: File | Image.Image, *, reduction: int = 1, upright: bool = True) -> Image.Image:
    """Read the pixels of the first page and turn them upright; the mode is that of the file.

    Args:
        source: a file, or a PIL image, which is not changed.
        reduction: 2, 4 or 8 allows decoding a JPEG file with sides reduced by up to this factor.
        upright: apply EXIF rotation; False returns the pixels as stored.

    Returns:
        An image without EXIF orientation, so that reading it again does not rotate it.

    Raises:
        InputError: the file is missing, damaged, too large, or not an image.
    """
    with opened(source) as image:
        if reduction > 1 and image is not source:
            image.draft(None, (max(image.width // reduction, 1), max(image.height // reduction, 1)))
        if image is not source:
            _warn_pages(image, source)
        stated = exif_tag(image)
        load_pixels(image)
        if 0 in image.size:
            raise InputError(f"expected an image of at least 1x1 pixels, got {image.width}x{image.height}")
        if stated == 1:
            return image
        orientation = exif_orientation(image)
        if upright and orientation != 1:
            return plain(image.transpose(UPRIGHT[orientation]))
        if not upright and orientation == 1:  # a TIFF file, which Pillow has turned upright
            return plain(image.transpose(turn_back(stated)))
        return plain(image)


@contextlib.contextmanager
def opened(source: File | Image.Image) -> Iterator[Image.Image]:
    """Open an image for the block, without its pixels; exceptions in the block become InputErrors that name it.

    The block should only decode, because every exception in it is treated as a decoder's.

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
    except BaseException as error:  # decoders raise many types
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of plugins in Rust
            raise
        raise InputError(f"{name_of(source)} cannot be read as an image: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Return the message of a decoder, without its advice for building it."""
    message = _ADVICE.sub("", " ".join(str(error).split())).strip()
    return type(error).__name__ if not str(error).strip() else message if message else "it is damaged or truncated"


def _open(file: Path | BinaryIO) -> Image.Image:
    """Call Pillow's `open`, after loading the plugin that the file needs."""
    _silence_libtiff()
    _silence_pillow()
    if os.environ.get(MAX_PIXELS_VARIABLE):
        Image.MAX_IMAGE_PIXELS = max_pixels()  # Pillow warns above it and raises above twice as many
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
    """Suppress Pillow's warnings about damaged metadata, which does not affect pixels, and sizes below the limit.

    This affects only warnings attributed to Pillow's own modules; warnings about wrong use are attributed to the
    caller. The filters apply to the whole process, because those of one thread are lost when another sets its own.
    """
    for category in _PILLOW_WARNINGS:
        if ("ignore", None, category, re.compile(r"PIL\."), 0) not in warnings.filters:
            warnings.filterwarnings("ignore", category=category, module=r"PIL\.")


def _warn_pages(image: Image.Image, source: object) -> None:
    """Warn that only the first of several pages or frames is used."""
    if getattr(image, "is_animated", False) and image.format not in _SINGLE_PAGE:
        _warn_first_page(name_of(source), image.format or "image")


@functools.lru_cache(maxsize=10_000)
def _warn_first_page(name: str, kind: str) -> None:
    count = _warn_first_page.cache_info().currsize
    if count < _MAX_NAMED:
        _log.warning("%s (%s) has several pages or frames: the first one is used", name, kind)
    elif count == _MAX_NAMED:
        _log.warning("%s has several pages or frames, too; further files are not listed", name)
