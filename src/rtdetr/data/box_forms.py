"""Whether boxes look as if they were written in another form than the one that their format has.

Such boxes mostly have an area inside their image, so nothing else finds them: corners read as x y width height become
boxes that reach over the border and are cut there. Nothing is converted; what is found is told, with the numbers that
it rests on.
"""

from collections.abc import Callable

import numpy as np

XYWH, CORNERS, CENTER = "x y width height", "x1 y1 x2 y2", "center x, center y, width, height"
_LEAST_WRONG = 3  # boxes; fewer may be slips
_WRONG_SHARE = 0.1
_RIGHT_SHARE = 0.98
_OVERHANG = 0.02  # share of the image's side; tools write boxes that reach over the border by a little
_OVERHANG_PIXELS = 2.0
_SMALLEST_SIDE = 8  # pixels; in a smaller image a box may well lie in the first pixel
_MANY, _NEARLY_ALL, _LARGE_SIDE = 20, 90, 250  # boxes, percent, pixels: where boxes in pixels would be elsewhere too
_SLACK = 0.01  # of fractions


def other_form(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, *, form: str, least: int = _LEAST_WRONG) -> str:
    """What boxes look like that are not of the form they were read in, and why; nothing where they may be.

    Args:
        boxes_xywh: as read, float64 (n, 4), pixels.
        sizes_wh: of the image of each, (n, 2), pixels.
        form: that they were read in. `CENTER` stands for YOLO's fractions, the others for pixels.
        least: boxes that must be wrong as read.

    Returns:
        A phrase that goes on from "the boxes ".
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
        f"look like {best}: read as {form}, {wrong:,} of {total:,} have no area or reach far over the border; read as "
        f"{best}, {inside[best]:,} lie inside their image"
    )


def _as_fractions(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> str:
    low, sides = boxes_xywh[:, :2], boxes_xywh[:, 2:]
    in_first = ((low >= -_SLACK) & (low + sides <= 1 + _SLACK) & (sides > 0)).all(1)
    in_first &= (sizes_wh >= _SMALLEST_SIDE).all(1)
    if in_first.sum() < _WRONG_SHARE * len(boxes_xywh) or not (in_first & (sides < 1).any(1)).any():
        return ""
    return (
        f"look like fractions of the image's sides: {in_first.sum():,} of {len(boxes_xywh):,} lie within the first "
        "pixel of their image; expected pixels"
    )


def _inside_as_percent(corners_xyxy: np.ndarray) -> int:
    """How many boxes lie inside their image, read as percent; 0: they reach nowhere near 100, so they are none."""
    low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
    if not (high.max(axis=0) > _NEARLY_ALL).all():
        return 0
    inside = int(((low >= 0) & (low < high) & (high <= 100 * (1 + _OVERHANG))).all(1).sum())
    return inside if inside >= _RIGHT_SHARE * len(corners_xyxy) else 0


def _as_percent(wrong: int, total: int, inside: int) -> str:
    if not inside:
        return ""
    return (
        f"look like percent of the image's sides: read as {XYWH}, {wrong:,} of {total:,} have no area or reach far "
        f"over the border; read as percent, {inside:,} lie inside their image"
    )


def _in_first_hundred(corners_xyxy: np.ndarray, sizes_wh: np.ndarray, inside: int) -> str:
    """Percent in images so large that no box in percent can reach over the border."""
    total = len(corners_xyxy)
    if total < _MANY or not inside or not (sizes_wh >= _LARGE_SIDE).all():
        return ""
    return (
        f"look like percent of the image's sides: {inside:,} of {total:,} lie within the first 100 pixels of images of "
        f"at least {_LARGE_SIDE}, and reach {corners_xyxy[:, 2:].max():.0f}; expected pixels"
    )


def _inside(corners_xyxy: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Which boxes have an area and reach over no border by more than a little, bool (n,)."""
    low, high = corners_xyxy[:, :2], corners_xyxy[:, 2:]
    free = np.maximum(_OVERHANG * sizes_wh, _OVERHANG_PIXELS)
    return np.all((low < high) & (low >= -free) & (high <= sizes_wh + free), axis=1)


def _of_center(values: np.ndarray) -> np.ndarray:
    middle, half = values[:, :2], values[:, 2:] / 2
    return np.concatenate([middle - half, middle + half], axis=1)


_CORNERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of boxes in each form
    XYWH: lambda values: np.concatenate([values[:, :2], values[:, :2] + values[:, 2:]], axis=1),
    CORNERS: lambda values: values,
    CENTER: _of_center,
}
_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # the numbers of each form for boxes x1 y1 x2 y2
    XYWH: lambda corners: np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
    CORNERS: lambda corners: corners,
    CENTER: lambda corners: np.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    ),
}
