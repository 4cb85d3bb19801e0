"""Random brightness, contrast, saturation, hue and channel order, in 16-bit integers.

Equivalent to torchvision's `RandomPhotometricDistort`, with the same probabilities and ranges and each operation within
one level of torchvision's on tensors, in a fraction of the time. Hue needs no conversion to HSV: a rotation by a small
angle moves each channel by the excess of the next one on the color circle, between the darkest and lightest channel of
the pixel.

Source: arXiv 1512.02325 (SSD) section 2.2.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Int16, UInt8

Planes = Int16[np.ndarray, "c n"]  # a band of pixels, one row per channel, changed in place
Step = tuple[str, float | list[int]]  # name of an operation, and its factor or the order of the channels

_CHANCE = 0.5
_RANGES = {"brightness": (0.875, 1.125), "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": (-0.05, 0.05)}
_BAND = 1 << 16  # pixels processed at a time, so that they stay in the CPU cache
_SAMPLE = 1 << 14  # pixels used to estimate the mean gray level for contrast


def draw_steps(rng: np.random.Generator, *, num_channels: int = 3) -> list[Step]:
    """Draw the operations for an image, in order; saturation, hue and channel order only for three channels."""
    factors = {name: rng.uniform(*limits) for name, limits in _RANGES.items() if rng.random() < _CHANCE}
    first, last = ("contrast", "saturation", "hue"), ("saturation", "hue", "contrast")
    names = ("brightness", *(first if rng.random() < 0.5 else last))
    steps: list[Step] = [(name, factors[name]) for name in names if name in factors]
    if rng.random() < _CHANCE:
        steps.append(("order", rng.permutation(3).tolist()))
    return [step for step in steps if num_channels == 3 or step[0] in ("brightness", "contrast")]


def distort(pixels: UInt8[np.ndarray, "h w c"], steps: list[Step]) -> UInt8[np.ndarray, "h w c"]:
    """Apply the steps to an image; factors are as in torchvision's functions.

    Differs: contrast uses the mean gray level of about 16,000 pixels instead of all.
    """
    if not steps:
        return pixels
    stride = max(1, round((pixels.shape[0] * pixels.shape[1] / _SAMPLE) ** 0.5))
    sample = _planes(pixels[::stride, ::stride])
    changes: list[Callable[[Planes], None]] = []
    for name, value in steps:
        match name, value:
            case "contrast", float():
                change = partial(_contrast, factor=value, pivot=round(float(_gray(sample).mean())))
            case "order", list():
                change = partial(_reorder, order=value)
            case _:
                change = partial(_BY_FACTOR[name], factor=value)
        change(sample)
        changes.append(change)
    result = np.empty_like(pixels)
    rows = max(1, _BAND // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        planes = _planes(band)
        for change in changes:
            change(planes)
        for channel, plane in enumerate(planes):
            result[top : top + rows, :, channel] = plane.reshape(band.shape[:2])
    return result


def _planes(pixels: np.ndarray) -> np.ndarray:
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), np.int16)
    np.copyto(planes, pixels.transpose(2, 0, 1))
    return planes.reshape(len(planes), -1)


def _gray(planes: np.ndarray) -> np.ndarray:
    """Return the ITU-R 601 luminance, rounded down; for any other number of channels than three, the mean."""
    if len(planes) != 3:
        return planes.mean(axis=0)
    red, green, blue = planes.view(np.uint16)
    gray = red * np.uint16(77)
    gray += green * np.uint16(150)
    gray += blue * np.uint16(29)
    gray >>= 8
    return gray.view(np.int16)


def _brightness(planes: np.ndarray, *, factor: float) -> None:
    change = planes * np.int16(round((factor - 1) * 1024))  # at most 255 * 128
    change >>= 10
    planes += change
    np.clip(planes, 0, 255, out=planes)


def _contrast(planes: np.ndarray, *, factor: float, pivot: int) -> None:
    _blend(planes, np.int16(pivot), factor)


def _saturation(planes: np.ndarray, *, factor: float) -> None:
    _blend(planes, _gray(planes), factor)


def _blend(planes: np.ndarray, center: np.ndarray | np.int16, factor: float) -> None:
    """Scale the distance from `center`, rounding down as torchvision does."""
    change = planes - center
    change *= np.int16(round((factor - 1) * 256))  # at most 255 * 128
    change >>= 8
    planes += change
    np.clip(planes, 0, 255, out=planes)


def _hue(planes: np.ndarray, *, factor: float) -> None:
    """Rotate the hue by `factor` of the circle, at most 1/12.

    Along the circle a channel rises, stays, falls and stays, and the next one is a third ahead of it. A small rotation
    lowers the channel by the excess of the next one over the new level of the falling edge, and raises it by the
    shortfall of the next one below that of the rising edge; both are what clipping the next one to these two levels
    removes from it.
    """
    darkest, lightest = planes.min(axis=0), planes.max(axis=0)
    turn = lightest - darkest
    turn *= np.int16(round(abs(factor) * 6 * 256))
    turn += 128
    turn >>= 8
    low, high = darkest + turn, lightest - turn
    neighbors = planes[[1, 2, 0] if factor > 0 else [2, 0, 1]]
    planes -= neighbors
    np.maximum(neighbors, low, out=neighbors)
    np.minimum(neighbors, high, out=neighbors)
    planes += neighbors
    np.maximum(planes, darkest, out=planes)
    np.minimum(planes, lightest, out=planes)


def _reorder(planes: np.ndarray, *, order: list[int]) -> None:
    planes[:] = planes[order]


_BY_FACTOR: dict[str, Callable[..., None]] = {"brightness": _brightness, "saturation": _saturation, "hue": _hue}
