"""Average precision from `Matches`, and its confidence interval by bootstrap over images.

`CocoEvaluator.summarize` computes the same numbers with hotcoco. This module computes them repeatedly, with image
weights or corrected detections.
"""

from typing import NamedTuple

import numpy as np

from rtdetr.evaluation.matching import IOU_THRESHOLDS, Matches

RECALL_POINTS = np.linspace(0, 1, 101)


class Interval(NamedTuple):
    """Confidence interval of a number."""

    low: float
    high: float


def interpolated_precision(
    labels: np.ndarray, weights: np.ndarray, seen: np.ndarray, *, num_objects: np.ndarray
) -> np.ndarray:
    """COCO's interpolated precision at 101 recalls: the highest precision at that or a higher recall.

    Args:
        labels: class of each true positive, ascending, by descending score within a class.
        weights: int64, weight of each true positive.
        seen: int64, number of detections of its class that count, down to and including it.
        num_objects: int64 (classes,), number of objects that count.

    Returns:
        float64 (classes, 101); NaN for classes without objects.
    """
    num_classes = len(num_objects)
    starts = np.searchsorted(labels, np.arange(num_classes + 1))
    total = np.cumsum(weights)
    before = np.concatenate([[0], total])[starts]
    true = total - before[labels]
    precision = np.divide(true, seen, out=np.zeros(len(seen)), where=seen > 0)
    # one reverse running maximum for all classes: an offset above 1 separates the classes
    offsets = 2.0 * (num_classes - labels)
    best = np.maximum.accumulate((precision + offsets)[::-1])[::-1] - offsets

    # number of true positives that reaches a recall, corrected for rounding of the product
    counts = num_objects[:, None].astype(np.float64)
    needed = np.ceil(RECALL_POINTS * counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        needed -= (needed > 0) & ((needed - 1) / counts >= RECALL_POINTS)
        needed += needed / counts < RECALL_POINTS
    position = np.searchsorted(total, before[:-1, None] + needed)
    position = np.maximum(position, starts[:-1, None])
    reached = position < starts[1:, None]
    result = np.where(reached, np.append(best, 0.0)[np.where(reached, position, len(best))], 0.0)
    result[num_objects == 0] = np.nan
    return result


class PrecisionTable:
    """Precision of matches at every IoU threshold, for any image weights."""

    def __init__(self, matches: Matches) -> None:
        self._matches = matches
        self._levels = [_Level.of(matches, column) for column in range(len(IOU_THRESHOLDS))]

    def precision(self, image_weights: np.ndarray | None = None) -> np.ndarray:
        """Return precision by class, IoU threshold and recall, float64 (classes, 10, 101); NaN without objects.

        Args:
            image_weights: int64 (images,), weight of each image; None: 1.
        """
        matches = self._matches
        weights = np.ones(matches.num_images, np.int64) if image_weights is None else image_weights
        num_objects = np.zeros(matches.num_classes, np.int64)
        np.add.at(num_objects, matches.object_labels, weights[matches.object_images])
        seen = np.zeros(len(matches.images) + 1, np.int64)
        seen[1:] = weights[matches.images]
        np.cumsum(seen, out=seen)
        levels = [
            interpolated_precision(
                level.labels,
                weights[matches.images[level.rows]],
                level.seen(seen, np.concatenate([[0], np.cumsum(weights[matches.images[level.ignored]])])),
                num_objects=num_objects,
            )
            for level in self._levels
        ]
        return np.stack(levels, axis=1)

    def average(self, image_weights: np.ndarray | None = None) -> np.ndarray:
        """Return AP by class and IoU threshold, float64 (classes, 10); NaN for classes without objects."""
        return self.precision(image_weights).mean(-1)

    def bootstrap(self, *, num_resamples: int, seed: int = 0, confidence: float = 0.95) -> dict[str, Interval]:
        """Compute confidence intervals of AP and AP50 by sampling images with replacement.

        Repeated images raise AP slightly, so the samples are shifted to make their mean equal to the AP of the dataset.

        Args:
            num_resamples: number of samples. With 200, the ends of a 95% interval vary by about 1/20 of its width.
            seed: random seed.
            confidence: confidence level, the fraction of samples inside the interval.

        Returns:
            Intervals of "ap" and "ap50"; empty if the dataset has no objects.

        Source: the percentile method of Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.
        """
        rng = np.random.default_rng(seed)
        count = self._matches.num_images
        measured = _mean_ap(self.average())
        draws = [
            _mean_ap(self.average(np.bincount(rng.integers(0, count, count), minlength=count)))
            for _ in range(num_resamples)
        ]
        drawn = np.array([draw for draw in draws if draw is not None])  # samples without objects have no AP
        if measured is None or len(drawn) == 0:
            return {}
        tail = (1 - confidence) / 2
        shifted = np.clip(drawn - drawn.mean(0) + measured, 0, 1)
        low, high = np.quantile(shifted, [tail, 1 - tail], axis=0).tolist()
        return {name: Interval(low[i], high[i]) for i, name in enumerate(("ap", "ap50"))}


def _mean_ap(by_class: np.ndarray) -> tuple[float, float] | None:
    """AP and AP50 over the classes with objects; None if there are no objects."""
    by_class = by_class[~np.isnan(by_class[:, 0])]
    return (float(by_class.mean()), float(by_class[:, 0].mean())) if len(by_class) else None


class _Level(NamedTuple):
    """Data of one IoU threshold that does not depend on the image weights.

    `rows` and `labels` of the true positives, and rows of the `ignored` detections. For each true positive, the
    detections of its class down to it are the rows `since` to `until`, and likewise among the ignored detections.
    """

    rows: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    since: np.ndarray
    until: np.ndarray
    ignored_since: np.ndarray
    ignored_until: np.ndarray

    @classmethod
    def of(cls, matches: Matches, column: int) -> "_Level":
        rows, ignored = np.flatnonzero(matches.is_true(column)), np.flatnonzero(matches.is_ignored(column))
        labels = matches.labels[rows]
        since, until = matches.class_starts[labels], rows + 1
        return cls(
            rows, labels, ignored, since, until, np.searchsorted(ignored, since), np.searchsorted(ignored, until)
        )

    def seen(self, total: np.ndarray, total_ignored: np.ndarray) -> np.ndarray:
        """Total weight of the detections down to each true positive, from cumulative sums with a leading zero."""
        ignored = total_ignored[self.ignored_until] - total_ignored[self.ignored_since]
        return total[self.until] - total[self.since] - ignored
