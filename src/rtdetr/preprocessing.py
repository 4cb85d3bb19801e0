"""Preprocessing: from an image to the network input, the same for prediction and evaluation in every runtime.

`preprocess` gives float32 (c, h, w) in [0, 1]. Every detector, `rtdetr.hf`, the checks of exports and quantization use
this resize, which is bit-identical to Pillow's. Three places use another one, with some values that differ by 1 of 255:
graphs exported with `preprocess`, the torch runtime with `fast_resize`, and training (`data/transforms.py`), which also
decodes large photos at reduced size. Files are read in `rtdetr.images`.
"""

import math
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import NamedTuple

import numpy as np
from PIL import Image

from rtdetr.errors import InputError
from rtdetr.images import ImageSource, image_size, load_image, open_image

__all__ = [
    "METHODS",
    "ImageSource",
    "Preparation",
    "fitting_size",
    "image_size",
    "load_image",
    "open_image",
    "preprocess",
    "resize",
    "resized_hw",
    "scale",
]
METHODS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Resampling filters, in the order of PIL's numbers."""

_WORTH_A_THREAD = 200 * 200  # output pixels; below, starting a thread takes longer

Part = tuple[slice, slice]  # rows and columns of a result


class Preparation(NamedTuple):
    """How images become network input, if not stretched to the input size with bilinear resampling.

    resample: PIL's number of the resampling filter.
    size: image size inside the input, as for `resized_hw`; the image is at the top left and the rest is black. None:
        the image is stretched to the input size.
    """

    resample: int = 2
    size: Mapping[str, int] | None = None

    def content_hw(self, image_hw: tuple[int, int], input_hw: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of an image inside the input.

        Raises:
            InputError: the image does not fit.
        """
        if self.size is None:
            return input_hw
        height, width = resized_hw(image_hw, self.size)
        if height > input_hw[0] or width > input_hw[1]:
            raise InputError(
                f"an image of {image_hw[0]}x{image_hw[1]} pixels (height x width) becomes {height}x{width} with the "
                f"size {dict(self.size)}, which does not fit into the model's input of {input_hw[0]}x{input_hw[1]}"
            )
        return height, width

    def apply(self, image: Image.Image | np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
        """Convert an image, as for `resize`, to network input: uint8 (c, h, w).

        Raises:
            InputError: the image does not fit.
        """
        image_hw = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        height, width = self.content_hw((image_hw[0], image_hw[1]), input_hw)
        pixels = resize(image, (height, width), resample=self.resample)
        padding = ((0, 0), (0, input_hw[0] - height), (0, input_hw[1] - width))
        return np.pad(pixels, padding) if self.size is not None else pixels

    def __str__(self) -> str:
        how = "stretched" if self.size is None else f"resized by {dict(self.size)} and padded"
        return f"{how}, {METHODS[self.resample]}"


def resize(image: Image.Image | np.ndarray, size_hw: tuple[int, int], *, resample: int = 2) -> np.ndarray:
    """Stretch a uint8 image to `size_hw` with antialiasing; returns uint8 (c, h, w).

    As in published evaluation: bilinear, without keeping the aspect ratio. Decoding JPEG at reduced size is faster but
    gives other pixels, so it is not used.

    Args:
        image: uint8 (h, w, c) from `load_image`, or a PIL image of mode RGB or L.
        size_hw: height and width of the result in pixels.
        resample: PIL's number of the resampling filter, see `METHODS`; 2 is bilinear.
    """
    if isinstance(image, np.ndarray) and image.shape[2] not in (1, 3):
        alone = [np.ascontiguousarray(image[:, :, c : c + 1]) for c in range(image.shape[2])]
        return np.concatenate([resize(band, size_hw, resample=resample) for band in alone])
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    planes = np.empty((len(image.getbands()), *size_hw), dtype=np.uint8)
    first, *second = _parts((image.height, image.width), size_hw, resample=resample)
    # Pillow releases the GIL; a new thread per call is safe with forked processes
    threads = [Thread(target=_resize_part, args=(image, planes, part, resample)) for part in second]
    for thread in threads:
        thread.start()
    _resize_part(image, planes, first, resample)
    for thread in threads:
        thread.join()
    return planes


def fitting_size(image_hw: tuple[int, int], sizes_hw: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the network size that distorts an image least; among equal aspect ratios, the one with the nearest area.

    Inference engines prepare for each new network size, so choose from a few sizes.

    Args:
        image_hw: height and width of the image, or any size to round to one in the list.
        sizes_hw: heights and widths to choose from.

    Raises:
        InputError: `sizes_hw` is empty, or a side is not positive.
    """
    if not sizes_hw or min(side for size in (image_hw, *sizes_hw) for side in size) < 1:
        raise InputError(
            "expected the size of an image and at least one network size, as positive heights and widths, got "
            f"{image_hw} and {sizes_hw}"
        )
    height, width = image_hw

    def distance(size_hw: tuple[int, int]) -> tuple[float, float]:
        other_height, other_width = size_hw
        shape = abs(math.log(other_height * width / (other_width * height)))
        return round(shape, 9), abs(math.log(other_height * other_width / (height * width)))

    return min(sizes_hw, key=distance)


def resized_hw(size_hw: tuple[int, int], size: Mapping[str, int]) -> tuple[int, int]:
    """Return height and width of an image after resizing, for the three forms of `size` in transformers.

    Args:
        size_hw: height and width of the image.
        size: {height, width} stretches; {shortest_edge, longest_edge} sets the short side, limited by the length of
            the long one; {max_height, max_width} makes the image as large as fits. The latter two keep the aspect
            ratio.

    Raises:
        InputError: `size` has another form, or the result would be empty.
    """
    height, width = size_hw
    asked = dict(size)
    match asked:
        case {"height": int(new_height), "width": int(new_width)}:
            new = (new_height, new_width)
        case {"shortest_edge": int(shortest), "longest_edge": int(longest)}:
            new = _with_shortest_edge(size_hw, shortest, longest)
        case {"max_height": int(max_height), "max_width": int(max_width)}:
            scale = min(max_height / height, max_width / width)
            new = (int(height * scale), int(width * scale))
        case _:
            raise InputError(
                "expected a size with the keys height and width, shortest_edge and longest_edge, or max_height and "
                f"max_width, got {asked}"
            )
    if min(new) < 1:
        raise InputError(f"an image of {height}x{width} pixels would become {new[0]}x{new[1]} with the size {asked}")
    return new


def preprocess(image: Image.Image | np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Convert a loaded image to network input.

    Args:
        image: uint8 (h, w, c) from `load_image`, or a PIL image of mode RGB.
        size_hw: height and width of the result in pixels.

    Returns:
        Contiguous float32 (c, h, w) in [0, 1]: `resize`, then division by 255, without mean and standard deviation.
    """
    return scale(resize(image, size_hw))


def scale(pixels: np.ndarray) -> np.ndarray:
    """Divide uint8 pixels by 255; returns contiguous float32 in [0, 1]."""
    return np.divide(pixels, np.float32(255), dtype=np.float32)


def _parts(image_hw: tuple[int, int], size_hw: tuple[int, int], *, resample: int) -> list[Part]:
    """Divide the result into the parts of two threads, which together are exactly equal to the whole; one if it is not.

    Rows are faster than columns. For some sizes Pillow would resize the sides of the rows in another order.
    """
    height, width = size_hw
    top, bottom = slice(0, height // 2), slice(height // 2, height)
    left, right = slice(0, width // 2), slice(width // 2, width)
    rows, columns = slice(0, height), slice(0, width)
    # parts of an odd size or with another filter would get other weights
    worth_it = image_hw != size_hw and resample == Image.Resampling.BILINEAR and height * width >= _WORTH_A_THREAD
    order = _height_first(image_hw, size_hw)
    same_order = image_hw[1] == width or _height_first(image_hw, (height // 2, width)) == order
    if worth_it and height % 2 == 0 and same_order:
        return [(top, columns), (bottom, columns)]
    if worth_it and width % 2 == 0 and not order:  # narrower parts never change this order
        return [(rows, left), (rows, right)]
    return [(rows, columns)]


def _height_first(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> bool:
    """Whether Pillow 13 and later resize the height before the width, which gives other values; earlier never do."""
    return image_hw[0] - size_hw[0] > max(2 * (image_hw[1] - size_hw[1]), 0)


def _resize_part(image: Image.Image, planes: np.ndarray, part: Part, resample: int) -> None:
    """Fill a part of the result, which also depends on the pixels just beyond that part of the image."""
    rows, columns = part
    _, height, width = planes.shape
    box = (
        image.width * columns.start / width,
        image.height * rows.start / height,
        image.width * columns.stop / width,
        image.height * rows.stop / height,
    )
    size_wh = columns.stop - columns.start, rows.stop - rows.start
    resized = image.resize(size_wh, Image.Resampling(resample), box=box)
    for plane, band in zip(planes, resized.getbands(), strict=True):
        values = np.frombuffer(resized.tobytes("raw", band), dtype=np.uint8)  # half the time of `split`
        plane[part] = values.reshape(size_wh[::-1])


def _with_shortest_edge(size_hw: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """Compute the size with transformers' arithmetic, including its rounding."""
    height, width = size_hw
    small, large = min(size_hw), max(size_hw)
    exact: float = shortest
    if large / small * shortest > longest:
        exact = longest * small / large
    short = round(exact)
    if small == short:
        return size_hw
    long = int(exact * large / small)
    return (short, long) if height < width else (long, short)
