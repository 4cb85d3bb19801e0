"""From an image to the network's input: the one resize for every caller.

`preprocess` gives float32 (c, h, w) in [0, 1]. Training, evaluation, prediction and every runtime use it, so an image
means the same to all of them. Reading files is in `images`.
"""

from threading import Thread

import numpy as np
from PIL import Image

from rtdetr.images import ImageSource, image_size, load_image, open_image

__all__ = ["ImageSource", "image_size", "load_image", "open_image", "preprocess", "resize", "scale"]

_WORTH_A_THREAD = 200 * 200  # pixels of a result below which starting one takes longer


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
