"""Classify wrong detections by kind of error.

A detection is wrong if it matches no object at IoU 0.5. Its kind is the first of these that applies:

- `localization`: IoU 0.1 to 0.5 with an object of the same class;
- `class`: IoU at least 0.5 with an object of another class;
- `duplicate`: IoU at least 0.5 with an object of the same class that is matched by a better detection;
- `background`: IoU below 0.1 with every object;
- `both`: IoU 0.1 to 0.5 with an object of another class.

`missed` counts objects that are neither found nor the target of a localization or class error.

Source: TIDE, arXiv 2008.08115, section 2.2, in the order of its published tool.
"""

import numpy as np

from rtdetr.evaluation.overlaps import Pairs

DETECTION_KINDS = ("localization", "class", "duplicate", "background", "both")
KINDS = (*DETECTION_KINDS, "missed")


def error_kinds(pairs: Pairs, is_same_class: np.ndarray, is_wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classify wrong detections.

    Args:
        pairs: pairs of detections and objects that overlap by at least `BACKGROUND_IOU`, `best_first`.
        is_same_class: bool (pairs,), whether detection and object have the same class.
        is_wrong: bool (n,), whether each detection is wrong.

    Returns:
        The kind of each detection, as a position in `DETECTION_KINDS`, int8 (n,), -1 if it is not wrong; and the target
        object of each localization or class error, int32 (n,), -1 for none.
    """
    same_iou, same_object = _best(pairs[is_same_class], len(is_wrong))
    other_iou, other_object = _best(pairs[~is_same_class], len(is_wrong))
    conditions = [
        ~is_wrong,
        (same_iou > 0) & (same_iou < 0.5),  # pairs below 0.1 are not listed
        other_iou >= 0.5,
        same_iou >= 0.5,
        other_iou == 0,
    ]
    kinds = np.select(conditions, [-1, 0, 1, 2, 3], default=4)
    targets = np.select([kinds == 0, kinds == 1], [same_object, other_object], default=-1)
    return kinds.astype(np.int8), targets.astype(np.int32)


def _best(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """IoU and row of the object with the largest overlap, per detection; 0 and -1 if there is none."""
    first = pairs[np.diff(pairs.detections, prepend=-1) != 0]  # the best pair comes first
    iou, objects = np.zeros(num_detections), np.full(num_detections, -1)
    iou[first.detections], objects[first.detections] = first.iou, first.objects
    return iou, objects
