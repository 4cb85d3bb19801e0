"""Precision, recall and F1 over the score threshold, the threshold with the best F1, and the confusion matrix there.

All are at IoU 0.5. A detection counts at a threshold if its score is above it, as in `Detections.above`.
"""

from typing import NamedTuple

import numpy as np

from rtdetr.evaluation.matching import Matches
from rtdetr.evaluation.overlaps import assign

DEFAULT_THRESHOLD = 0.5  # for classes without a true positive


class Curves(NamedTuple):
    """Precision, recall and F1 per class over the score threshold.

    Attributes:
        scores: float64 (1001,), the thresholds 0, 0.001, ... 1.
        precision: float64 (classes, 1001); NaN above the highest score.
        recall: float64 (classes, 1001); NaN for classes without objects.
        f1: float64 (classes, 1001); NaN for classes without objects.
    """

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray


class ClassResult(NamedTuple):
    """Results of one class; None if it has no objects or, for precision, no detections.

    `precision`, `recall`, `f1` and the counts are at IoU 0.5 and the score `threshold` with the best F1. Without a true
    positive there is no such threshold: it is None, and they are at `DEFAULT_THRESHOLD`.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float | None
    true_positives: int
    false_positives: int


def score_curves(matches: Matches) -> Curves:
    """Compute precision, recall and F1 at 1001 thresholds."""
    scores = np.linspace(0, 1, 1001)
    shape = matches.num_classes, len(scores)
    precision, recall, f1 = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for label, num_objects in enumerate(matches.num_objects.tolist()):
        own, true = _counted(matches, label)
        above = len(own) - np.searchsorted(own[::-1], scores, side="right")
        hits = np.concatenate([[0], true])[above]
        np.divide(hits, above, out=precision[label], where=above > 0)
        if num_objects:
            recall[label] = hits / num_objects
            f1[label] = 2 * hits / (above + num_objects)
    return Curves(scores, precision, recall, f1)


def best_thresholds(matches: Matches) -> np.ndarray:
    """Return the score threshold with the best F1 per class, float64 (classes,).

    It is halfway between the lowest score that is kept and the next lower one. Classes without objects or without a
    true positive get `DEFAULT_THRESHOLD`.
    """
    thresholds = np.full(matches.num_classes, DEFAULT_THRESHOLD)
    for label, num_objects in enumerate(matches.num_objects.tolist()):
        scores, true = _counted(matches, label)
        if len(scores) == 0 or true[-1] == 0:
            continue
        below = np.append(scores[1:], 0.0)
        f1 = 2 * true / (np.arange(1, len(scores) + 1) + num_objects)
        best = int(np.where(scores > below, f1, -1).argmax())  # equal scores cannot be told apart
        thresholds[label] = (scores[best] + below[best]) / 2
    return thresholds


def is_shown(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """Whether each detection is above the threshold of its class; detections on crowd regions do not count."""
    shown = ~matches.is_ignored()
    for label, threshold in enumerate(thresholds):
        rows = slice(*matches.class_starts[label : label + 2])
        shown[rows] &= matches.scores[rows].astype(np.float64) > threshold  # NumPy 1 would round the threshold
    return shown


def class_results(
    matches: Matches, thresholds: np.ndarray, *, names: list[str], average_precision: np.ndarray
) -> list[ClassResult]:
    """Return the results of every class.

    Args:
        matches: detections matched with objects.
        thresholds: score threshold of each class.
        names: class names by label.
        average_precision: AP by class and IoU threshold, from `PrecisionTable.average`.
    """
    shown = is_shown(matches, thresholds)
    hits = np.bincount(matches.labels[shown & (matches.found >= 0)], minlength=len(names)).tolist()
    wrong = np.bincount(matches.labels[shown & (matches.found < 0)], minlength=len(names)).tolist()
    rows = zip(names, matches.num_objects.tolist(), average_precision, thresholds.tolist(), hits, wrong, strict=True)
    return [
        ClassResult(
            name=name,
            objects=objects,
            ap=float(ap.mean()) if objects else None,
            ap50=float(ap[0]) if objects else None,
            precision=true / (true + false) if true + false else None,
            recall=true / objects if objects else None,
            f1=2 * true / (true + false + objects) if objects else None,
            threshold=threshold if true else None,
            true_positives=true,
            false_positives=false,
        )
        for name, objects, ap, threshold, true, false in rows
    ]


def confusion_matrix(matches: Matches, thresholds: np.ndarray) -> np.ndarray:
    """Compute the confusion matrix, int64 (classes + 1, classes + 1): rows are true, columns predicted classes.

    The last row counts detections on background, the last column missed objects. The matches of AP come first, so the
    diagonal agrees with precision and recall. Then each remaining detection, in order of descending score, is matched
    with the remaining object of another class that it overlaps most, with an IoU of at least 0.5.
    """
    shown, background = is_shown(matches, thresholds), matches.num_classes
    right = shown & (matches.found >= 0)
    left = np.flatnonzero(shown & ~right)
    left = left[np.argsort(-matches.scores[left], kind="stable")]
    rank = np.full(len(matches.scores), -1, np.int32)
    rank[left] = np.arange(len(left))
    is_free = np.ones(len(matches.object_labels), dtype=bool)
    is_free[matches.found[right]] = False
    pairs = matches.pairs
    pairs = pairs[(rank[pairs.detections] >= 0) & is_free[pairs.objects]]
    pairs = pairs.renumbered(rank[pairs.detections], pairs.objects).best_first()
    taken = assign(pairs, num_detections=len(left), num_objects=len(is_free))
    confused = taken >= 0
    is_free[taken[confused]] = False
    labels = matches.labels
    cells = [
        (labels[right], labels[right]),
        (matches.object_labels[taken[confused]], labels[left[confused]]),
        (np.full_like(left[~confused], background), labels[left[~confused]]),
        (matches.object_labels[is_free], np.full(is_free.sum(), background)),
    ]
    side = background + 1
    numbers = np.concatenate([true * side + predicted for true, predicted in cells])
    return np.bincount(numbers, minlength=side * side).reshape(side, side)


def _counted(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Descending scores of a class's detections that count, and the number of true positives down to each."""
    rows = slice(*matches.class_starts[label : label + 2])
    kept = ~matches.is_ignored(rows=rows)
    return matches.scores[rows][kept].astype(np.float64), np.cumsum((matches.found[rows] >= 0)[kept])
