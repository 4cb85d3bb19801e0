"""Checks of boxes: position in the image, area, duplicates, and size at the training resolution."""

import numpy as np

from rtdetr.config import SizeHW
from rtdetr.data.annotations import clamped_xyxy
from rtdetr.data.box_forms import other_form
from rtdetr.data.doctor.findings import Example
from rtdetr.data.doctor.survey import Collector, Survey

_FINEST_CELL = 8  # pixels per cell of the network's finest feature map
_ROUNDING = 1.0  # pixels by which a box may extend beyond the image without a finding


def check_boxes(survey: Survey, found: Collector, *, size_hw: SizeHW) -> None:
    """Add the findings about the boxes of every split.

    Args:
        survey: the dataset.
        found: collects the findings.
        size_hw: height and width that training resizes every image to, pixels.
    """
    for p, part in enumerate(survey.parts):
        if doubt := doubtful_form(survey, p):
            found.add_one("other-box-form", Example(part.name, part.source.name, "", f"has boxes that {doubt}"))
        degenerate, outside = bad_boxes(survey, p)
        _add(survey, found, p, "degenerate-box", degenerate, "has width {w:g} and height {h:g}")
        _add(
            survey,
            found,
            p,
            "box-outside",
            outside,
            "spans x {x:g} to {x2:g}, y {y:g} to {y2:g}, but the image is {size}",
        )
        known = np.all(survey.sizes_wh[p] > 0, axis=1)[survey.parts[p].box_images]
        good = ~degenerate & ~outside & known
        text = "extends {over:.3g} pixels beyond the image of {size}"
        _add(survey, found, p, "box-over-border", good & (overhang(survey, p) > _ROUNDING), text)
        _add(survey, found, p, "repeated-box", good & repeated_boxes(survey, p), "repeats an earlier box")
        sides = resized_sides(survey, p, size_hw)
        counted = good & ~survey.parts[p].iscrowd
        # augmentation drops objects narrower than a pixel before or after the resize
        vanishing = counted & ((sides < 1).any(1) | (_inside(survey, p) < 1).any(1))
        text = f"is {{tw:.3g}}x{{th:.3g}} pixels at {size_hw[0]}x{size_hw[1]} ({{w:.3g}}x{{h:.3g}} in the image)"
        _add(survey, found, p, "vanishing-box", vanishing, text, sides=sides)
        tiny = counted & ~vanishing & (sides.prod(1) < _FINEST_CELL**2)
        _add(survey, found, p, "tiny-box", tiny, text, sides=sides)


def doubtful_form(survey: Survey, part: int) -> str:
    """Return which other form the boxes of a split seem to have; empty if they look right."""
    record = survey.parts[part]
    sizes = survey.sizes_wh[part][record.box_images]
    known = np.all(sizes > 0, axis=1)
    return other_form(survey.boxes_xywh[part][known], sizes[known], form=record.form)


def bad_boxes(survey: Survey, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which boxes have no width or height, and which others are entirely outside their image, bool (boxes,)."""
    boxes, sizes = survey.boxes_xywh[part], survey.sizes_wh[part][survey.parts[part].box_images]
    degenerate = np.any(boxes[:, 2:] <= 0, axis=1)
    corners = clamped_xyxy(boxes, sizes)
    outside = np.any(corners[:, 2:] <= corners[:, :2], axis=1) & ~degenerate & np.all(sizes > 0, axis=1)
    return degenerate, outside


def repeated_boxes(survey: Survey, part: int) -> np.ndarray:
    """Return which boxes have the same image, class and coordinates as an earlier one, bool (boxes,)."""
    record = survey.parts[part]
    columns = [record.box_images, record.labels, record.iscrowd, *survey.boxes_xywh[part].T]
    order = np.lexsort(columns[::-1])  # stable: the earlier of equal rows comes first
    equal = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in columns:
        equal &= column[order][1:] == column[order][:-1]
    repeated = np.zeros(len(order), dtype=bool)
    repeated[order[1:][equal]] = True
    return repeated


def resized_sides(survey: Survey, part: int, size_hw: SizeHW) -> np.ndarray:
    """Return width and height of the visible part of each box at the training size, float64 (boxes, 2), pixels."""
    sizes = survey.sizes_wh[part][survey.parts[part].box_images]
    return _inside(survey, part) * np.array(size_hw[::-1]) / np.maximum(sizes, 1)


def _inside(survey: Survey, part: int) -> np.ndarray:
    corners = clamped_xyxy(survey.boxes_xywh[part], survey.sizes_wh[part][survey.parts[part].box_images])
    return (corners[:, 2:] - corners[:, :2]).astype(np.float64)


def visible_share(survey: Survey, part: int) -> np.ndarray:
    """Return the fraction of each box's area inside its image, float64 (boxes,); 1 for boxes without an area."""
    areas = survey.boxes_xywh[part][:, 2:].clip(0).prod(1)
    inside = _inside(survey, part).clip(0).prod(1)
    return np.divide(inside, areas, out=np.ones_like(areas), where=areas > 0)


def overhang(survey: Survey, part: int) -> np.ndarray:
    """Return how far each box extends beyond its image, pixels."""
    boxes, sizes = survey.boxes_xywh[part], survey.sizes_wh[part][survey.parts[part].box_images]
    return np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sizes).max(axis=1, initial=0)


def _add(
    survey: Survey,
    found: Collector,
    part: int,
    kind: str,
    wrong: np.ndarray,
    text: str,
    *,
    sides: np.ndarray | None = None,
) -> None:
    """Add the boxes selected by `wrong`; `text` is formatted with their coordinates."""

    def example(box: int) -> Example:
        x, y, w, h = survey.boxes_xywh[part][box]
        image = int(survey.parts[part].box_images[box])
        width, height = survey.sizes_wh[part][image]
        tw, th = (0.0, 0.0) if sides is None else sides[box]
        over = max(-x, -y, x + w - width, y + h - height)
        detail = text.format(x=x, y=y, w=w, h=h, x2=x + w, y2=y + h, size=f"{width}x{height}", tw=tw, th=th, over=over)
        return survey.example((part, image), detail, box=box)

    found.add(kind, np.flatnonzero(wrong), example)
