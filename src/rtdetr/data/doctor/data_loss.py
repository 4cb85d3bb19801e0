"""Measure what a cleaned copy would lose: listed or labeled images and boxes that no split of the copy has."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from rtdetr.data.doctor.box_checks import doubtful_form, visible_share
from rtdetr.data.doctor.findings import KINDS
from rtdetr.data.doctor.survey import Survey
from rtdetr.data.records import Part
from rtdetr.errors import DatasetError
from rtdetr.wording import are, counted

MAX_LOST = 0.05  # fraction of a split's images or boxes that may be omitted without --allow-loss
COPIES = ("same-image", "leak", "repeated-box")  # the copy has another one of these
_STRONG_CUT = 0.25  # fraction of a box's area; if more is clipped, the box is no longer the annotated one
_UNREAD = ("unreadable-entry", "not-fraction", "unknown-image", "duplicate-id", "misplaced-label")
_WITH_IMAGES = "with those images"
_MAX_REASONS = 4
_REMEDY = "Correct the data, or accept the loss with --allow-loss (Python: allow_loss=True); nothing was written"


class Chosen(NamedTuple):
    """Content of a split of the copy.

    images: mask of the copied images, bool (images,).
    why: kind of finding per omitted image.
    boxes: positions of the copied boxes, in the order of the images.
    dropped: number of omitted boxes of the copied images, by kind of finding.
    """

    images: np.ndarray
    why: dict[int, str]
    boxes: np.ndarray
    dropped: Counter[str]


def refuse_loss(survey: Survey, chosen: list[Chosen], *, num_stray_labels: int) -> None:
    """Refuse a copy if a split would lose more than a few percent of its images or boxes.

    Duplicate images and boxes do not count as lost: the copy keeps one of each. A box that is clipped by more than a
    quarter counts as lost. Boxes that seem to be in another form are refused too, because this could not be detected
    after clipping.

    Args:
        survey: the dataset.
        chosen: content of the copy, per split.
        num_stray_labels: number of label files without an image.

    Raises:
        DatasetError: too much would be lost; the message has the split, numbers and reasons, or the number of label
            files without an image.
    """
    for p, part in enumerate(survey.parts):
        if doubt := doubtful_form(survey, p):
            raise DatasetError(
                f"{part.source}: the boxes of {part.name!r} {doubt}. Convert them first, or copy them unchanged with "
                "--allow-loss (Python: allow_loss=True); nothing was written"
            )
        images, boxes = _lost_images(part, chosen[p]), _lost_boxes(part, chosen[p])
        cut = int((visible_share(survey, p)[chosen[p].boxes] < 1 - _STRONG_CUT).sum())
        most_images, most_boxes = MAX_LOST * part.num_listed_images, MAX_LOST * part.num_listed_boxes
        if images.total() <= most_images and boxes.total() + cut <= most_boxes:
            continue
        num_images, num_boxes = counted(part.num_listed_images, "image"), counted(part.num_listed_boxes, "box")
        cuts = f", and {counted(cut, 'box')} would be clipped by more than a quarter" if cut else ""
        raise DatasetError(
            f"{part.source}: the cleaned copy of {part.name!r} would lose {images.total()} of {num_images}"
            f"{_reasons(images)} and {boxes.total()} of {num_boxes}{_reasons(boxes)}{cuts}. {_REMEDY}"
        )
    images = sum(part.num_listed_images for part in survey.parts)
    if num_stray_labels > MAX_LOST * (images + num_stray_labels):
        raise DatasetError(
            f"{survey.parts[0].source}: the cleaned copy would lose the objects of "
            f"{counted(num_stray_labels, 'label file')} with missing images; {counted(images, 'image')} "
            f"{are(images)} present. {_REMEDY}"
        )


def _lost_images(part: Part, chosen: Chosen) -> Counter[str]:
    """Return the number of images of a split that the copy lacks, by reason; each counts once."""
    lost = Counter(KINDS[kind].title for kind in chosen.why.values() if kind not in COPIES)
    return _with_unread(lost, part, part.num_listed_images - len(part.images))


def _lost_boxes(part: Part, chosen: Chosen) -> Counter[str]:
    """Return the number of boxes of a split that the copy lacks, by reason; each counts once."""
    lost = Counter({KINDS[kind].title: n for kind, n in chosen.dropped.items() if kind not in COPIES})
    left_out = [image for image, kind in chosen.why.items() if kind not in COPIES]
    lost[_WITH_IMAGES] = int(np.isin(part.box_images, left_out).sum())
    return _with_unread(lost, part, part.num_listed_boxes - len(part.labels))


def _with_unread(lost: Counter[str], part: Part, count: int) -> Counter[str]:
    kinds = {problem.kind for problem in (*part.problems, *part.changes)}
    titles = [KINDS[kind].title for kind in _UNREAD if kind in kinds]
    lost[" or ".join(titles) or KINDS["unreadable-entry"].title] += count
    return lost


def _reasons(lost: Counter[str]) -> str:
    reasons = [(title, count) for title, count in lost.most_common() if count]
    return f" ({'; '.join(f'{title}: {count}' for title, count in reasons[:_MAX_REASONS])})" if reasons else ""
