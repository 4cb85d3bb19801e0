"""Images as arrays: NumPy files, TIFF files with any number of bands, and conversion of pixel values to uint8."""

import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import SAMPLESPERPIXEL, TiffImageFile

from rtdetr.errors import InputError
from rtdetr.images.decode import opened
from rtdetr.images.formats import TIFF_STARTS
from rtdetr.images.limit import check_pixels
from rtdetr.images.orientation import ORIENTATION_TAG, exif_tag, load_pixels, turn_array, turn_back
from rtdetr.images.sources import File, existing, name_of, openable

_MAX_COMPRESSION = 2000  # decoded bytes per byte of a TIFF file; deflate reaches 1032
FLOAT_MARGIN = 1e-3  # allowed beyond [0, 1], for interpolated values
_log = logging.getLogger(__name__)


def numpy_file(source: object) -> np.ndarray | None:
    """Return the array (h, w) or (h, w, channels) of a file NAME.npy; None for any other source.

    Raises:
        InputError: the file is missing or damaged, or its array has another shape.
    """
    if not isinstance(source, str | os.PathLike) or Path(source).suffix.lower() != ".npy":
        return None
    file = existing(source)
    try:  # memory-mapped, so that a header that states a huge array allocates no memory
        array = np.array(np.lib.format.open_memmap(file, mode="r"))
    except Exception as error:  # the header is Python text, and its parser raises many types
        raise InputError(f"{file} cannot be read as a NumPy array: {' '.join(str(error).split())}") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{file}: expected an array (h, w) or (h, w, channels), got {array.shape}")
    return array


def tiff_pages(source: File | Image.Image, num_channels: int, *, upright: bool = True) -> np.ndarray | None:
    """Return channels (h, w, num_channels) stored as the grayscale pages of a TIFF file; None for other files.

    Raises:
        InputError: the file is damaged.
    """
    with opened(source) as image:
        if image.format != "TIFF" or getattr(image, "n_frames", 1) != num_channels or len(image.getbands()) > 1:
            return None
        pages, turns = [], set()
        for page in range(num_channels):
            image.seek(page)
            turns.add(exif_tag(image))  # read before the pixels, which Pillow turns upright
            load_pixels(image)
            pages.append(np.array(image))
        if len({page.shape for page in pages}) > 1 or len(turns) > 1:
            raise InputError(
                f"{name_of(source)}: pages used as channels must have the same size and orientation; save them again"
            )
        stack = np.stack(pages, axis=2)
        stated = turns.pop()
        if not upright and stated != 1:
            stack = np.stack([np.array(Image.fromarray(page).transpose(turn_back(stated))) for page in pages], axis=2)
        return stack


def tiff_bands(source: File, *, upright: bool = True) -> np.ndarray | None:
    """Return all bands (h, w, k) of the first page of a TIFF file, in their stored dtype.

    Pillow reads files with up to three 8-bit bands and one for transparency; others need the package tifffile.

    Returns:
        None if it is not a TIFF file, tifffile cannot read it either, or tifffile is not installed (see `tiff_hint`).

    Raises:
        InputError: the file does not exist, or has more pixels than allowed.
    """
    file = openable(source)
    stream = file.open("rb") if isinstance(file, Path) else file
    try:
        stream.seek(0)
        start = stream.read(4)
        stream.seek(0)
        if start not in TIFF_STARTS:
            return None
        try:
            import tifffile
        except ImportError:
            return None
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # errors are raised as exceptions
        try:
            with tifffile.TiffFile(stream) as tiff:
                page = tiff.pages.first
                check_pixels((page.imagewidth, page.imagelength), source)
                if page.nbytes > _MAX_COMPRESSION * stream.seek(
                    0, os.SEEK_END
                ):  # damaged header; avoid a huge allocation
                    return None
                array = np.asarray(page.asarray())
                if page.axes in ("SYX", "CYX"):
                    array = array.transpose(1, 2, 0)
                tag = page.tags.get(ORIENTATION_TAG)
                orientation = int(tag.value) if tag is not None and upright else 1
        except InputError:
            raise
        except Exception:  # Pillow's error message is sufficient
            return None
        finally:
            stream.seek(0)
    finally:
        if isinstance(file, Path):
            stream.close()
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or 0 in array.shape:
        return None
    return turn_array(array, orientation)


def tensor_array(source: Any, *, num_channels: int = 3) -> Any:
    """Return a PyTorch tensor (channels, h, w) as an array (h, w, channels) that shares its memory if possible.

    Anything else is returned unchanged. PyTorch is not imported here; unless it already is, there are no tensors.

    Raises:
        InputError: the tensor has another shape.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(source, torch.Tensor):
        return source
    shape = tuple(source.shape)
    known = (1, 3, 4) if num_channels in (1, 3) else (num_channels,)
    if source.ndim != 3 or shape[0] not in known:
        hint = "; it looks channels-last: permute(2, 0, 1)" if source.ndim == 3 and shape[2] in known else ""
        channels = " or ".join(map(str, known))
        raise InputError(
            f"expected an image tensor (channels, height, width) with {channels} channels, got {shape}{hint}"
        )
    tensor = source.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).permute(1, 2, 0).numpy()


def stated_bands(source: File | Image.Image) -> tuple[int, int]:
    """Return the number of bands in the header of a TIFF file's first page, and of pages; 0, 1 for other files."""
    try:
        with opened(source) as image:
            bands = image.tag_v2.get(SAMPLESPERPIXEL, 1) if isinstance(image, TiffImageFile) else 0
            return (bands if isinstance(bands, int) else 0), getattr(image, "n_frames", 1)
    except InputError:
        return 0, 1


def pil_array(array: np.ndarray) -> np.ndarray:
    """Check an array's shape and convert it to uint8 for PIL: (h, w), (h, w, 3) or (h, w, 4)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = (
            "; it looks channels-first: transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        )
        raise InputError(f"expected an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), got {array.shape}{hint}")
    return np.ascontiguousarray(to_uint8(array))


def to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale pixel values to 0..255: uint16 is divided by 257, floats in [0, 1] are multiplied by 255, both rounded.

    Raises:
        InputError: the array is empty, or has values of another type or range.
    """
    if 0 in array.shape:
        raise InputError(f"expected an image of at least 1x1 pixels, got an array {array.shape}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        if 0 < array.max() < 256:
            _warn_dark()
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"expected pixels of type uint8, uint16, bool or float in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -FLOAT_MARGIN and high <= 1 + FLOAT_MARGIN):  # written so that NaN fails
        problem = "NaN" if np.isnan(low) else f"{low:g}..{high:g}"
        raise InputError(f"expected float pixels in [0, 1], got {problem}; divide 8-bit values by 255")
    return (array * 255.0).round().clip(0, 255).astype(np.uint8)


@functools.cache
def _warn_dark() -> None:
    _log.warning(
        "a 16-bit image has no value above 255 and is therefore almost black: if these are 8-bit values stored in 16 "
        "bits, store or pass them as uint8 (array.astype('uint8')). This warning is shown once"
    )
