"""Why detections are wrong, and the AP50 that each kind of error costs.

A wrong detection is one that found no object at IoU 0.5. It is of the first kind that fits:

- `localisation`: IoU 0.1 to 0.5 with an object of its class;
- `class`: IoU 0.5 with an object of another class;
- `duplicate`: IoU 0.5 with an object of its class, which a better detection has;
- `background`: IoU below 0.1 with every object;
- `both`: IoU 0.1 to 0.5 with an object of another class.

`missed` are the objects that were not found and that no localisation or class error was meant for.

The cost of a kind is the AP50 gained if an oracle corrected those errors alone: localisation and class errors become
right where nothing has found the object and no error of either kind on it has a higher score, and vanish elsewhere;
duplicate, background and both vanish; missed objects are not asked for.

Source: TIDE, arXiv 2008.08115, sections 2.2 and 2.3, in the order and with the oracles of its published tool.
"""

from typing import NamedTuple

import numpy as np

from rtdetr.evaluation.matching import Matches, Pairs
from rtdetr.evaluation.precision import interpolated_precision

DETECTION_KINDS = ("localisation", "class", "duplicate", "background", "both")
KINDS = (*DETECTION_KINDS, "missed")


class ErrorTypes(NamedTuple):
    """Errors by kind.

    Attributes:
        counts: number of errors of each of `KINDS`.
        ap50_cost: AP50 that each kind costs, as a fraction of 1; None where the dataset has no objects.
        kinds: int64 (n,), the kind of each detection of `Matches` as a position in `DETECTION_KINDS`; -1: no error.
        targets: int64 (n,), the object that a localisation or class error was meant for; -1: none.
    """

    counts: dict[str, int]
    ap50_cost: dict[str, float | None]
    kinds: np.ndarray
    targets: np.ndarray


def error_types(matches: Matches) -> ErrorTypes:
    """Sort all errors by kind; the detections are those that count for AP, whatever their score."""
    pairs, count = matches.pairs, len(matches.scores)
    is_same = matches.labels[pairs.detections] == matches.object_labels[pairs.objects]
    same_iou, same_object = _best(pairs[is_same], count)
    other_iou, other_object = _best(pairs[~is_same], count)

    is_wrong = (matches.found < 0) & ~matches.is_ignored[:, 0]
    conditions = [
        ~is_wrong,
        (same_iou > 0) & (same_iou < 0.5),  # pairs below 0.1 are not listed
        other_iou >= 0.5,
        same_iou >= 0.5,
        other_iou == 0,
    ]
    kinds = np.select(conditions, [-1, 0, 1, 2, 3], default=4)
    targets = np.select([kinds == 0, kinds == 1], [same_object, other_object], default=-1)

    is_missed = np.ones(len(matches.object_labels), dtype=bool)
    is_missed[matches.found[matches.found >= 0]] = False
    is_missed[targets[targets >= 0]] = False
    counts = {name: int((kinds == kind).sum()) for kind, name in enumerate(DETECTION_KINDS)}
    counts["missed"] = int(is_missed.sum())
    return ErrorTypes(counts, _costs(matches, kinds, targets, is_missed), kinds, targets)


def _costs(matches: Matches, kinds: np.ndarray, targets: np.ndarray, is_missed: np.ndarray) -> dict[str, float | None]:
    labels, is_true, num_objects = matches.labels, matches.found >= 0, matches.num_objects
    if not num_objects.any():
        return dict.fromkeys(KINDS)
    kept = ~matches.is_ignored[:, 0]
    base = _ap50(matches.scores, labels, is_true, kept, num_objects)
    costs, correctable = {}, _correctable(matches, targets)
    for kind, name in enumerate(DETECTION_KINDS):
        fixed = correctable[kinds[correctable] == kind]
        new_labels, new_true = labels.copy(), is_true.copy()
        new_labels[fixed], new_true[fixed] = matches.object_labels[targets[fixed]], True
        remaining = kept & ((kinds != kind) | new_true)
        costs[name] = _ap50(matches.scores, new_labels, new_true, remaining, num_objects) - base
    asked = num_objects - np.bincount(matches.object_labels[is_missed], minlength=len(num_objects))
    return {**costs, "missed": _ap50(matches.scores, labels, is_true, kept, asked) - base}


def _correctable(matches: Matches, targets: np.ndarray) -> np.ndarray:
    """Errors that would find their object: on each object that nothing has found the one of the highest score."""
    is_free = np.ones(len(matches.object_labels), dtype=bool)
    is_free[matches.found[matches.found >= 0]] = False
    rows = np.flatnonzero(targets >= 0)
    rows = rows[is_free[targets[rows]]]
    rows = rows[np.argsort(-matches.scores[rows], kind="stable")]
    _, first = np.unique(targets[rows], return_index=True)
    return rows[first]


def _best(pairs: Pairs, num_detections: int) -> tuple[np.ndarray, np.ndarray]:
    """IoU and row of the object that each detection overlaps most; 0 and -1: none."""
    first = pairs[np.diff(pairs.detections, prepend=-1) != 0]  # the pairs come best first
    iou, objects = np.zeros(num_detections), np.full(num_detections, -1)
    iou[first.detections], objects[first.detections] = first.iou, first.objects
    return iou, objects


def _ap50(
    scores: np.ndarray, labels: np.ndarray, is_true: np.ndarray, kept: np.ndarray, num_objects: np.ndarray
) -> float:
    """Mean AP50 over the classes with objects, of detections in any order."""
    order = np.flatnonzero(kept)
    order = order[np.lexsort((-scores[order], labels[order]))]
    labels, rows = labels[order], np.flatnonzero(is_true[order])
    seen = rows + 1 - np.searchsorted(labels, labels[rows])
    by_class = interpolated_precision(labels[rows], np.ones(len(rows), np.int64), seen, num_objects=num_objects)
    return float(by_class[num_objects > 0].mean()) if num_objects.any() else 0.0
