"""What a cleaned copy would lose: images and boxes that are listed or labeled, and in no split of the copy."""

from collections import Counter

import numpy as np

from rtdetr.data.doctor.box_checks import repeated_boxes
from rtdetr.data.doctor.findings import KINDS
from rtdetr.data.doctor.survey import Survey
from rtdetr.errors import DatasetError

MOST_LOST = 0.05  # share of a split's images or boxes that may be left out without being asked for
_MOST_REASONS = 4
_REMEDY = "Correct the data, or accept the loss with --allow-loss (Python: allow_loss=True); nothing was written"


def refuse_loss(
    survey: Survey,
    kept_images: list[np.ndarray],
    copies: list[np.ndarray],
    kept_boxes: list[np.ndarray],
    kinds: Counter[str],
) -> None:
    """Refuse a copy of which a split would have lost more than a few percent of its images or boxes.

    Copies of images and boxes are no loss: the copy has another of each.

    Args:
        survey: the data set.
        kept_images: for each split which images are copied, bool (images,).
        copies: which are left out as copies of another, bool (images,).
        kept_boxes: for each split the positions of the boxes that are copied.
        kinds: how often something was left out or changed for which reason.

    Raises:
        DatasetError: names the split, both numbers and the reasons; or says how many label files have no image.
    """
    for p, part in enumerate(survey.parts):
        is_copy = copies[p][part.box_images] | (kept_images[p][part.box_images] & repeated_boxes(survey, p))
        is_copy[kept_boxes[p]] = False
        images = part.num_listed_images - int(kept_images[p].sum()) - int(copies[p].sum())
        boxes = part.num_listed_boxes - len(kept_boxes[p]) - int(is_copy.sum())
        if images <= MOST_LOST * part.num_listed_images and boxes <= MOST_LOST * part.num_listed_boxes:
            continue
        raise DatasetError(
            f"{part.source}: a cleaned copy would lose {images} of {part.num_listed_images} images and {boxes} of "
            f"{part.num_listed_boxes} boxes of {part.name!r} ({_reasons(kinds)}). {_REMEDY}"
        )
    images, labels = sum(part.num_listed_images for part in survey.parts), kinds["label-without-image"]
    if labels > MOST_LOST * (images + labels):
        raise DatasetError(
            f"{survey.parts[0].source}: a cleaned copy would lose the objects of {labels} label files, whose images "
            f"are missing; {images} images are there. {_REMEDY}"
        )


def _reasons(kinds: Counter[str]) -> str:
    wrong = [(kind, count) for kind, count in kinds.most_common() if KINDS[kind].severity != "note"]
    return ", ".join(f"{KINDS[kind].title}: {count}" for kind, count in wrong[:_MOST_REASONS])
