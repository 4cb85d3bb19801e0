"""Detect boxes that were probably written in a different form than their format expects.

Most such boxes have an area inside their image, so no other check finds them: corners read as x y width height become
boxes that extend beyond the image and are clipped. Nothing is converted; the result is reported with the numbers that
support it.
"""

from collections.abc import Callable

import numpy as np

XYWH, CORNERS, CENTER = "x y width height", "x1 y1 x2 y2", "center x, center y, width, height"
_MIN_WRONG = 3  # boxes; fewer may be single mistakes
_WRONG_SHARE = 0.1
_RIGHT_SHARE = 0.98
_OVERHANG = 0.02  # share of the image's side; tools write boxes that extend slightly beyond the image
_OVERHANG_PIXELS = 2.0
_SMALLEST_SIDE = 8  # pixels; in a smaller image a box can be within the first pixel
_MANY, _NEARLY_ALL, _LARGE_SIDE = 20, 90, 250  # boxes, percent, pixels: conditions for percent in large images
_SLACK = 0.01  # tolerance of fractions beyond 0 and 1


def other_form(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, *, form: str, least: int = _MIN_WRONG) -> str:
    """Return which other form the boxes seem to have, and why; empty if the form they were read in is plausible.

    Args:
        boxes_xywh: boxes as read, float64 (n, 4), pixels.
        sizes_wh: image size per box, (n, 2), pixels.
        form: form they were read in. `CENTER` means YOLO's fractions, the others pixels.
        least: minimum number of boxes that must be wrong as read.

    Returns:
        A phrase that continues after "the boxes ".
    """
    if not len(boxes_xywh):
        return ""
    if form != CENTER and (found := _as_fractions(boxes_xywh, sizes_wh)):
        return found
    corners = _CORNERS[XYWH](boxes_xywh)
    wrong, total = int((~_inside(corners, sizes_wh)).sum()), len(corners)
    many_wrong = wrong >= max(least, _WRONG_SHARE * total)
    percent = _inside_as_percent(corners) if form == XYWH else 0
    if not many_wrong:
        return _in_first_hundred(corners, sizes_wh, percent)
    values = _VALUES[form](corners)
    inside = {other: int(_inside(_CORNERS[other](values), sizes_wh).sum()) for other in _CORNERS if other != form}
    best = max(inside, key=inside.__getitem__)
    if inside[best] < _RIGHT_SHARE * total:
        return _as_percent(wrong, total, percent)
    return (
        f"look like {best}: read as {form}, {wrong:,} of {total:,} have no area or extend far beyond the image; read "
        f"as {best}, {inside[best]:,} are inside their image"
    )


def _as_fractions(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> str:
    low, sides = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    in_first = ((low >= -_SLACK) & (low + sides <= 1 + _SLACK) & (sides > 0)).all(1)
    in_first &= (sizes_wh >= _SMALLEST_SIDE).all(1)
    if in_first.sum() < _WRONG_SHARE * len(boxes_xywh) or not (in_first & (sides < 1).any(1)).any():
        return ""
    return (
        f"look like fractions of the image's sides: {in_first.sum():,} of {len(boxes_xywh):,} are within the first "
        "pixel of their image; expected pixels"
    )


def _inside_as_percent(corners_xyxy: np.ndarray) -> int:
    """Return how many boxes are inside their image if read as percent; 0 if none comes near 100."""
    low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
    if not (high.max(axis=0) > _NEARLY_ALL).all():
        return 0
    inside = int(((low >= 0) & (low < high) & (high <= 100 * (1 + _OVERHANG))).all(1).sum())
    return inside if inside >= _RIGHT_SHARE * len(corners_xyxy) else 0


def _as_percent(wrong: int, total: int, inside: int) -> str:
    if not inside:
        return ""
    return (
        f"look like percent of the image's sides: read as {XYWH}, {wrong:,} of {total:,} have no area or extend far "
        f"beyond the image; read as percent, {inside:,} are inside their image"
    )


def _in_first_hundred(corners_xyxy: np.ndarray, sizes_wh: np.ndarray, inside: int) -> str:
    """Return the message about percent in images so large that a box in percent cannot extend beyond them."""
    total = len(corners_xyxy)
    if total < _MANY or not inside or not (sizes_wh >= _LARGE_SIDE).all():
        return ""
    return (
        f"look like percent of the image's sides: {inside:,} of {total:,} are within the first 100 pixels of images of "
        f"at least {_LARGE_SIDE} pixels, up to {corners_xyxy[:, 2:].max():.0f}; expected pixels"
    )


def _inside(corners_xyxy: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Return which boxes have an area and extend at most slightly beyond the image, bool (n,)."""
    low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
    free = np.maximum(_OVERHANG * sizes_wh, _OVERHANG_PIXELS)
    return np.all((low < high) & (low >= -free) & (high <= sizes_wh + free), axis=1)


def _of_center(values: np.ndarray) -> np.ndarray:
    middle, half = values[:, :2], values[:, 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=1)


_CORNERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # corners of boxes, per form
    XYWH: lambda values: np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1),
    CORNERS: lambda values: values,
    CENTER: _of_center,
}
_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # numbers of corner boxes, per form
    XYWH: lambda corners: np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
    CORNERS: lambda corners: corners,
    CENTER: lambda corners: np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    ),
}
