"""Convert all image inputs that transformers accepts to RGB arrays, and resize them.

Images are read with `rtdetr.images`, as in the rest of the library.
"""

import functools
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.image_utils import load_image as load_transformers_image

from rtdetr.errors import InputError
from rtdetr.images import load_image
from rtdetr.images.orientation import exif_orientation
from rtdetr.preprocessing import resize

SizeHW = tuple[int, int]
Size = Mapping[str, int] | SizeDict
_CHANNELS = (1, 3, 4)  # of gray, RGB and RGBA images
_logger = logging.getLogger(__name__)


def as_list(images: Any) -> list[Any]:
    """Return a flat list of images from one image, a batch (b, ...) as an array or tensor, or a nested list.

    Raises:
        InputError: the list is empty.
    """
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        images = list(images)
    if not isinstance(images, list | tuple):
        return [images]
    flat = [image for entry in images for image in (as_list(entry) if isinstance(entry, list | tuple) else [entry])]
    if not flat:
        raise InputError("expected at least one image, got an empty list")
    return flat


def image_array(image: Any, *, channels_first: bool | None = None) -> np.ndarray:
    """Return one image as (h, w, 3), RGB and upright: uint8, or float32 if its values were floats.

    Args:
        image: a path, a URL (http, https or data), bytes, a file object, a PIL image, or an array or tensor,
            (h, w), channels first or channels last, of uint8, other integers in 0..255, uint16 (divided by 257), bool,
            or floats, which are kept unchanged.
        channels_first: axis order of an array; None detects it, and takes (3, h, 3) as channels first.

    Raises:
        InputError: the input is not an image, or its values are out of range.
    """
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:image/")):
        image = load_transformers_image(image)
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        return _read_array(image, channels_first)
    if isinstance(image, Image.Image) and exif_orientation(image) != 1:
        _warn_once(
            "an image was rotated according to its EXIF orientation: boxes refer to the upright image, so pass its "
            "height and width as target_sizes (PIL.ImageOps.exif_transpose rotates an image)"
        )
    return load_image(image)


def padded_size(sizes: list[SizeHW], pad_size: Size | None) -> SizeHW:
    """Return height and width of a padded batch: `pad_size`, or the largest height and width.

    Raises:
        InputError: `pad_size` is too small.
    """
    height, width = max(size[0] for size in sizes), max(size[1] for size in sizes)
    if pad_size is None:
        return height, width
    target = pad_size["height"], pad_size["width"]
    if not all(isinstance(side, int) for side in target) or target[0] < height or target[1] < width:
        raise InputError(f"expected a pad_size of at least {height}x{width} (height, width), got {dict(pad_size)}")
    return target


def resize_image(image: np.ndarray, size_hw: SizeHW, *, resample: int) -> np.ndarray:
    """Stretch an image (h, w, 3) with antialiasing; return (3, h, w) of the same type.

    Args:
        image: uint8 or float32, from `image_array`.
        size_hw: new height and width.
        resample: PIL resampling method; models are trained with 2 (bilinear).
    """
    if image.shape[:2] == size_hw:
        return image.transpose(2, 0, 1)
    if image.dtype == np.uint8:
        return resize(image, size_hw, resample=resample)
    size_wh, method = (size_hw[1], size_hw[0]), Image.Resampling(resample)
    bands = [Image.fromarray(np.ascontiguousarray(image[:, :, band])) for band in range(3)]
    return np.stack([np.asarray(band.resize(size_wh, method)) for band in bands])


def _read_array(array: np.ndarray, channels_first: bool | None) -> np.ndarray:
    if array.ndim == 3:
        if channels_first is None:
            channels_first = array.shape[0] in _CHANNELS
        if channels_first:
            array = array.transpose(1, 2, 0)
    if np.issubdtype(array.dtype, np.integer) and array.dtype not in (np.uint8, np.uint16):
        if array.size and (array.min() < 0 or array.max() > 255):
            raise InputError(f"expected integer pixels in 0..255, got {array.min()}..{array.max()}")
        array = array.astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        return load_image(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or 0 in array.shape:
        raise InputError(f"expected an array (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError("expected finite pixels, got NaN or infinity")
    return np.repeat(array, 3, axis=2).astype(np.float32) if array.shape[2] == 1 else array[:, :, :3].astype(np.float32)


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning(message)
