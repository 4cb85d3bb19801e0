"""From anything that is an image to the network's input: one conversion and one resize for every caller.

`load_image` gives RGB uint8 (h, w, 3), `preprocess` float32 (3, h, w) in [0, 1]. Training, evaluation, prediction and
every runtime use these, so a picture means the same to all of them.
"""

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from rtdetr.errors import InputError, nearest

ImageSource = str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | np.ndarray

FLOAT_MARGIN = 1e-3  # beyond [0, 1], for interpolated values
_WORTH_A_THREAD = 200 * 200  # pixels of a result below which starting one takes longer
_ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {  # the transposition that undoes each EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# what Pillow's readers raise for files that are broken
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)


def load_image(source: ImageSource, *, num_channels: int = 3, reduction: int = 1) -> np.ndarray:
    """Read an image as uint8 (h, w, num_channels), RGB and upright.

    Args:
        source: a path, the bytes of an image file, a file object, a PIL image, or an array (h, w), (h, w, 1), (h, w, 3)
            or (h, w, 4) of uint8, bool, uint16 or floats in [0, 1]; colours are in the order RGB. A file NAME.npy is
            the array in it.
        num_channels: channels of the model. 1 converts to grey. Any number but 1 and 3 takes arrays (h, w, k) as they
            are, images with as many bands (an RGBA file for 4 channels) and TIFF files with as many grey pages.
        reduction: 2, 4 or 8 lets a JPEG file be decoded with sides that are smaller by up to this factor, rounded up,
            which takes much less time; other files are read whole.

    EXIF rotation is applied. Transparency is dropped as PIL's `convert("RGB")` does, which is what published code
    trains with: what lies under transparent pixels becomes visible. 16-bit values are divided by 257 and float values
    multiplied by 255, both rounded.

    Differs: published code clips 16-bit grey images at 255, which turns them white, and ignores EXIF rotation.

    Raises:
        InputError: no such file, not an image, a truncated or empty one, or an array of another shape, type or range.
    """
    source = _array_of(source)
    if num_channels not in (1, 3):
        source = _stacked(source, num_channels)
    if isinstance(source, np.ndarray) and num_channels not in (1, 3):
        if source.ndim != 3 or source.shape[2] != num_channels:
            raise InputError(f"expected an array (h, w, {num_channels}) for this model, got {source.shape}")
        return _to_uint8(source)
    if num_channels == 3:
        return np.array(_convert(_decode(source, reduction=reduction), "RGB"))
    image = _decode(source, reduction=reduction)
    if num_channels == 1:
        return np.array(_convert(image, "L"))[:, :, None]
    if len(image.getbands()) != num_channels:
        raise InputError(
            f"expected an image with {num_channels} channels for this model, got {_name(source)} of mode {image.mode}; "
            f"pass an array (h, w, {num_channels})"
        )
    return np.array(image)


def open_image(source: ImageSource, *, mode: str | None = "RGB") -> Image.Image:
    """Read an image as an upright PIL image; see `load_image`, of which this is the cheaper form.

    Args:
        source: as for `load_image`.
        mode: "RGB", "L", or None for the mode that the file has.

    Raises:
        InputError: as for `load_image`.
    """
    image = _decode(_array_of(source))
    return image if mode is None else _convert(image, mode)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height in pixels, after EXIF rotation, of what `load_image` would read; pixels are not decoded.

    Raises:
        InputError: as for `load_image`, but damage behind the header of a file is not found.
    """
    source = _array_of(source)
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    with _open(source) as image:
        # a PNG file may have it behind the pixels, which Pillow would decode to look there
        return image.size if image.format == "PNG" and "exif" not in image.info else upright_size(image)


def resize(image: Image.Image | np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Stretch a uint8 image to `size_hw`, bilinear with antialiasing; returns uint8 (c, h, w).

    Published evaluation resizes so, and without keeping the aspect ratio. JPEG's decoding at reduced size is faster
    but gives other pixels, so it is not used.

    Args:
        image: uint8 (h, w, c) from `load_image`, or a PIL image.
        size_hw: height and width of the result in pixels.
    """
    if isinstance(image, np.ndarray) and image.shape[2] not in (1, 3):
        bands = [resize(np.ascontiguousarray(image[:, :, c : c + 1]), size_hw) for c in range(image.shape[2])]
        return np.concatenate(bands)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    planes = np.empty((len(image.getbands()), *size_hw), dtype=np.uint8)
    middle = size_hw[0] // 2
    if size_hw[0] * size_hw[1] < _WORTH_A_THREAD or size_hw[0] % 2:
        _resize_rows(image, planes, slice(0, size_hw[0]))
    else:  # Pillow lets other threads run meanwhile; a thread of each call is safe where processes fork
        other = Thread(target=_resize_rows, args=(image, planes, slice(0, middle)))
        other.start()
        _resize_rows(image, planes, slice(middle, size_hw[0]))
        other.join()
    return planes


def preprocess(image: Image.Image | np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Turn a loaded image into the network's input.

    Args:
        image: uint8 (h, w, c) from `load_image`, or a PIL image of mode RGB.
        size_hw: height and width of the result in pixels.

    Returns:
        Contiguous float32 (c, h, w) in [0, 1]: `resize`, then division by 255. No mean or deviation is subtracted.
    """
    return scale(resize(image, size_hw))


def scale(pixels: np.ndarray) -> np.ndarray:
    """Divide uint8 pixels by 255; returns contiguous float32 in [0, 1]."""
    return np.divide(pixels, np.float32(255), dtype=np.float32)


def _resize_rows(image: Image.Image, planes: np.ndarray, rows: slice) -> None:
    """Fill some rows of the result; they depend on the image's rows just beyond their own part of it, too."""
    _, height, width = planes.shape
    part = (0, image.height * rows.start / height, image.width, image.height * rows.stop / height)
    if image.size != (width, height):
        image = image.resize((width, rows.stop - rows.start), Image.Resampling.BILINEAR, box=part)
    elif (rows.start, rows.stop) != (0, height):
        image = image.crop((0, rows.start, width, rows.stop))
    for plane, band in zip(planes, image.split(), strict=True):
        plane[rows] = band


def _decode(source: ImageSource, *, reduction: int = 1) -> Image.Image:
    """Read the pixels and turn them upright; the mode is still the file's own. All images are decoded here."""
    if isinstance(source, np.ndarray):
        return Image.fromarray(_as_picture(source))
    with _open(source) as image:
        if reduction > 1 and image is not source:
            image.draft(None, (max(image.width // reduction, 1), max(image.height // reduction, 1)))
        image.load()
        return _upright(image)


@contextlib.contextmanager
def _open(source: str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image) -> Iterator[Image.Image]:
    """Open an image for the block, without its pixels; what goes wrong in it is an InputError that names the source."""
    try:
        if isinstance(source, Image.Image):
            yield source
        else:
            with Image.open(_openable(source)) as image:
                yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{_name(source)} is not an image in a format that Pillow reads") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{_name(source)} is too large: {error}; raise PIL.Image.MAX_IMAGE_PIXELS to allow it"
        ) from None
    except _DAMAGED as error:
        raise InputError(f"{_name(source)} cannot be read as an image: {error}") from None


def _array_of(source: ImageSource) -> ImageSource:
    """The array in a NumPy file; any other source as it is."""
    if not isinstance(source, str | os.PathLike) or Path(source).suffix.lower() != ".npy":
        return source
    file = _existing(source)
    try:  # mapped, so that a header that promises a huge array reserves no memory
        array = np.array(np.lib.format.open_memmap(file, mode="r"))
    except Exception as error:  # the header is Python text, and its parser raises whatever the tokenizer does
        raise InputError(f"{file} cannot be read as a NumPy array: {' '.join(str(error).split())}") from None
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{file}: expected an array (h, w) or (h, w, channels), got {array.shape}")
    return array


def _stacked(source: ImageSource, num_channels: int) -> ImageSource:
    """The pages of a TIFF file as channels, where there is one for each; any other source as it is."""
    if isinstance(source, np.ndarray):
        return source
    with _open(source) as image:
        if image.format != "TIFF" or getattr(image, "n_frames", 1) != num_channels or len(image.getbands()) > 1:
            return source
        pages = []
        for page in range(num_channels):
            image.seek(page)
            pages.append(np.array(image))
        return np.stack(pages, axis=2)


def _openable(source: str | os.PathLike[str] | bytes | bytearray | BinaryIO) -> Path | BinaryIO:
    """What PIL can open: an existing path or a binary file object."""
    if isinstance(source, bytes | bytearray):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return _existing(source)
    if not hasattr(source, "read"):
        raise InputError(f"expected a path, bytes, PIL image or numpy array, got {type(source).__name__}")
    return source


def _existing(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that exists, or say what is wrong with it."""
    file = Path(path)
    if file.is_file():
        if file.stat().st_size == 0:
            raise InputError(f"{file} is empty (0 bytes): copy or download it again")
        return file
    if file.is_dir():
        raise InputError(f"expected an image file, got the folder {file}; list its images and pass them one by one")
    if "://" in str(path):
        raise InputError(f"addresses are not opened: download {path} and pass the file")
    if not file.parent.is_dir():
        raise InputError(f"no image {file}: the folder {file.parent} does not exist")
    names = [entry.name for entry in file.parent.iterdir() if entry.is_file()]
    raise InputError(f"no image {file}.{nearest(file.name, names)}")


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF rotation; PIL's own `exif_transpose` also rewrites the metadata, which fails where it is damaged."""
    if 0 in image.size:
        raise InputError(f"expected an image of at least 1x1 pixels, got {image.width}x{image.height}")
    orientation = exif_orientation(image)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image file once it is upright; its pixels need not have been read."""
    if isinstance(image, TiffImageFile):
        # Pillow swaps the size when it opens the file or, before release 11, when it reads the pixels
        turned = _exif_tag(image) >= 5
        return (image.tag_v2[IMAGELENGTH], image.tag_v2[IMAGEWIDTH]) if turned else image.size
    return (image.height, image.width) if exif_orientation(image) >= 5 else image.size


def exif_orientation(image: Image.Image) -> int:
    """How the decoded pixels of an opened image file are turned, 1 to 8 as in EXIF; 1, upright, where it is not said.

    That of a TIFF file is 1: Pillow turns its pixels upright while it reads them.
    """
    return 1 if isinstance(image, TiffImageFile) else _exif_tag(image)


def _exif_tag(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1  # damaged metadata does not spoil the pixels
    return orientation if orientation in UPRIGHT else 1


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert to RGB or L, with deep images scaled to 8 bits."""
    if image.mode == mode:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        if image.mode != "F":
            low, high = values.min(), values.max()
            if low < 0 or high > 65535:
                raise InputError(
                    f"expected integer pixels in 0..65535, got {low}..{high} in an image of mode {image.mode}"
                )
            values = values.astype(np.uint16)
        image = Image.fromarray(_to_uint8(values))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about the direct way; the colours are the same
    try:
        return image.convert(mode)
    except ValueError:
        raise InputError(f"images of mode {image.mode} cannot be converted to {mode}: save the image as RGB") from None


def _as_picture(array: np.ndarray) -> np.ndarray:
    """Check an array's shape and give uint8 that PIL takes: (h, w), (h, w, 3) or (h, w, 4)."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = (
            "; it looks channels-first: transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        )
        raise InputError(f"expected an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), got {array.shape}{hint}")
    return np.ascontiguousarray(_to_uint8(array))


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """Scale pixel values to 0..255."""
    if 0 in array.shape:
        raise InputError(f"expected an image of at least 1x1 pixels, got an array {array.shape}")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"expected pixels of type uint8, uint16, bool or float in [0, 1], got {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -FLOAT_MARGIN and high <= 1 + FLOAT_MARGIN):  # written so that NaN fails
        problem = "NaN" if np.isnan(low) else f"{low:g}..{high:g}"
        raise InputError(f"expected float pixels in [0, 1], got {problem}; divide 8-bit values by 255")
    return (array * 255.0).round().clip(0, 255).astype(np.uint8)


def _name(source: object) -> str:
    """What to call a source in a message."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "name", None) or getattr(source, "filename", None)
    return str(name) if isinstance(name, str) and name else "the given image"
