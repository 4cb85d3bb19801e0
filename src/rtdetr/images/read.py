"""Read an image: `load_image` returns uint8 (h, w, channels), `open_image` a PIL image in RGB, both upright.

Training, evaluation, prediction, export and every runtime read images here, so that all of them get the same pixels.
"""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images.arrays import numpy_file, pil_array, stated_bands, tiff_bands, tiff_pages, to_uint8
from rtdetr.images.decode import decode, opened
from rtdetr.images.formats import tiff_hint
from rtdetr.images.orientation import upright_size
from rtdetr.images.sources import File, name_of
from rtdetr.wording import counted

ImageSource = str | os.PathLike[str] | bytes | bytearray | BinaryIO | Image.Image | np.ndarray
LoadedImage = Image.Image | np.ndarray  # an image that was read: a PIL image in RGB, or uint8 (h, w, channels)


def load_image(source: ImageSource, *, num_channels: int = 3, reduction: int = 1, upright: bool = True) -> np.ndarray:
    """Read an image as uint8 (h, w, num_channels), RGB and upright.

    Args:
        source: a path, the bytes of an image file, a file object, a PIL image, or an array (h, w), (h, w, 1), (h, w, 3)
            or (h, w, 4) of uint8, bool, uint16 or floats in [0, 1], with colors in RGB order. From a file NAME.npy, its
            array is used.
        num_channels: number of channels of the model. 1 converts to grayscale. Any number other than 1 and 3 needs an
            array (h, w, num_channels), or a file with as many bands (such as RGBA for 4) or grayscale TIFF pages. TIFF
            files with any number of bands need the package tifffile.
        reduction: 2, 4 or 8 allows decoding a JPEG file with sides reduced by up to this factor, rounded up, which is
            much faster; other files are read at full size.
        upright: apply EXIF rotation; False returns the pixels as stored.

    Transparency is dropped as in PIL's `convert("RGB")`, like in published training code: the colors of transparent
    pixels become visible. 16-bit values are divided by 257 and float values multiplied by 255, both rounded; of 16-bit
    color files, Pillow reads the upper 8 bits. Of several pages or frames the first is read, with a warning.

    Differs: published code clips 16-bit grayscale images at 255, which turns them white, and ignores EXIF rotation.

    Raises:
        InputError: the file does not exist, is not an image, is truncated or empty, or has more pixels than allowed, or
            the array has another shape, type or range.
    """
    array = numpy_file(source)
    if array is not None:
        source = array
    if num_channels == 3:
        return np.array(_convert(_rgb_source(source, reduction=reduction, upright=upright), "RGB"))
    if num_channels == 1:
        return np.array(_convert(_decode(source, reduction=reduction, upright=upright), "L"))[:, :, None]
    return _bands(source, num_channels, upright=upright)


def open_image(source: ImageSource, *, mode: str | None = "RGB", upright: bool = True) -> Image.Image:
    """Read an image as an upright PIL image; like `load_image`, but cheaper.

    The result has no EXIF orientation: opening it again returns the same image.

    Args:
        source: as for `load_image`.
        mode: "RGB", "L", or None for the mode of the file.
        upright: as for `load_image`.

    Raises:
        InputError: as for `load_image`.
    """
    array = numpy_file(source)
    image = _rgb_source(source if array is None else array, upright=upright)
    return image if mode is None else _convert(image, mode)


def read_image(source: ImageSource, *, num_channels: int = 3, upright: bool = True) -> LoadedImage:
    """Read an image for a model with `num_channels`: a PIL image in RGB for 3, which is cheapest, otherwise an array.

    Raises:
        InputError: as for `load_image`.
    """
    if num_channels == 3:
        return open_image(source, upright=upright)
    return load_image(source, num_channels=num_channels, upright=upright)


def viewable(source: ImageSource, *, upright: bool = True) -> Image.Image:
    """Return an RGB image for display: of more than four channels the first three, of two the first as grayscale.

    Raises:
        InputError: as for `load_image`, but any number of channels is accepted.
    """
    array = source if isinstance(source, np.ndarray) else numpy_file(source)
    if array is None:
        try:
            return open_image(source, upright=upright)
        except InputError:
            array = None if isinstance(source, np.ndarray | Image.Image) else tiff_bands(source, upright=upright)
            if array is None:
                raise
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        array = array[:, :, :3] if array.shape[2] > 4 else array[:, :, :1]
    return open_image(np.ascontiguousarray(array))


def image_size(source: ImageSource) -> tuple[int, int]:
    """Width and height in pixels, after EXIF rotation, of the result of `load_image`; pixels are not decoded.

    Raises:
        InputError: as for `load_image`, but damage after the header of a file is not detected.
    """
    array = source if isinstance(source, np.ndarray) else numpy_file(source)
    if array is not None:
        return array.shape[1], array.shape[0]
    assert not isinstance(source, np.ndarray)
    try:
        with opened(source) as image:
            # a PNG file may have EXIF after the pixels, which Pillow would decode to find it
            return image.size if image.format == "PNG" and "exif" not in image.info else upright_size(image)
    except InputError:
        bands = None if isinstance(source, Image.Image) else tiff_bands(source)
        if bands is None:
            raise
        return bands.shape[1], bands.shape[0]


def size_of(image: LoadedImage) -> tuple[int, int]:
    """Width and height in pixels of an image that was read."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def _decode(source: ImageSource, *, reduction: int = 1, upright: bool = True) -> Image.Image:
    if isinstance(source, np.ndarray):
        return Image.fromarray(pil_array(source))
    return decode(source, reduction=reduction, upright=upright)


def _rgb_source(source: ImageSource, *, reduction: int = 1, upright: bool = True) -> Image.Image:
    """Return an image to convert to RGB, including TIFF files with three or four bands that Pillow cannot read."""
    try:
        return _decode(source, reduction=reduction, upright=upright)
    except InputError:
        bands = None
        if not isinstance(source, np.ndarray | Image.Image):
            bands = tiff_bands(source, upright=upright)
        if bands is None:
            raise
        return Image.fromarray(pil_array(bands))


def _bands(source: ImageSource, num_channels: int, *, upright: bool) -> np.ndarray:
    """Return the channels as stored; there must be `num_channels`."""
    array = source if isinstance(source, np.ndarray) else _stored_bands(source, num_channels, upright=upright)
    if array.ndim != 3 or array.shape[2] != num_channels:
        if isinstance(source, np.ndarray):
            raise InputError(f"expected an array (h, w, {num_channels}) for this model, got {array.shape}")
        found = array.shape[2] if array.ndim == 3 else 1
        stated, pages = stated_bands(source)
        if stated > found and not tiff_hint(source):
            raise InputError(
                f"{name_of(source)} has {counted(stated, 'channel')} according to its header, but only {found} can be "
                f"read: it is damaged or of an unsupported type; use NumPy files (h, w, {num_channels})"
            )
        each = f" in each of {counted(pages, 'page')}" if stated and pages > 1 else ""
        raise InputError(
            f"expected an image with {counted(num_channels, 'channel')} for this model, got {name_of(source)} with "
            f"{found}{each}; use NumPy files (h, w, {num_channels}), or images with as many bands{tiff_hint(source)}"
        )
    return to_uint8(array)


def _stored_bands(source: File | Image.Image, num_channels: int, *, upright: bool) -> np.ndarray:
    """Return grayscale pages, or Pillow's image if it has `num_channels` bands, otherwise all bands of a TIFF file."""
    try:
        pages = tiff_pages(source, num_channels, upright=upright)
        if pages is not None:
            return pages
        array = np.array(decode(source, upright=upright))
    except InputError:
        bands = None if isinstance(source, Image.Image) else tiff_bands(source, upright=upright)
        if bands is None or bands.shape[2] == 1:
            raise
        return bands
    if array.ndim < 3 or array.shape[2] != num_channels:
        bands = None if isinstance(source, Image.Image) else tiff_bands(source, upright=upright)
        return array if bands is None else bands  # Pillow drops bands silently
    return array


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert to RGB or L; images with more than 8 bits are scaled."""
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
        image = Image.fromarray(to_uint8(values))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about a direct conversion; the colors are the same
    try:
        return image.convert(mode)
    except ValueError:
        raise InputError(f"images of mode {image.mode} cannot be converted to {mode}: save the image as RGB") from None
