"""Agreement of two detectors on images: detections are compared as sets, in any order.

Ranking and query selection decide between close scores, so the rows of two correct outputs can differ; the objects do
not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from rtdetr.categories import Categories
from rtdetr.detections import Detections
from rtdetr.wording import counted

PAIR_IOU = 0.5  # boxes with a lower IoU are not of the same object


@dataclass(frozen=True)
class Tolerance:
    """How much an exported model may differ from the float32 PyTorch model.

    Attributes:
        matched: minimum share of detections that match within `iou` (or `pixels`) and `score`, 0..1.
        iou: minimum IoU of a matched pair.
        score: maximum score difference of a matched pair.
        ap_drop: maximum loss of AP on a dataset, 0..1.
        pixels: a pair with a lower IoU also matches if its box sides differ by at most this many pixels. Rounding
            moves the sides of all boxes by about the same distance, which changes the IoU of tiny boxes most.
    """

    matched: float
    iou: float
    score: float
    ap_drop: float
    pixels: float = 0.0


@dataclass(frozen=True)
class Agreement:
    """Counts of a set-wise comparison, over all images.

    Attributes:
        num_reference: compared detections of the reference: paired ones and missed ones.
        num_found: compared detections of the other detector: paired ones and extra ones.
        num_pairs: pairs of detections of the same class and object, with at least one score above the threshold.
        num_matched: pairs within the tolerance.
        missed: unpaired detections of the reference above the threshold.
        extra: unpaired detections of the other detector above the threshold.
        lowest_iou: lowest IoU of the pairs; 1 without pairs.
        mean_iou: mean IoU of the pairs; 1 without pairs.
        largest_score_difference: largest score difference of the pairs; 0 without pairs.
    """

    num_reference: int
    num_found: int
    num_pairs: int
    num_matched: int
    missed: int
    extra: int
    lowest_iou: float
    mean_iou: float
    largest_score_difference: float

    @property
    def matched_share(self) -> float:
        """Share of matched pairs among all objects that either detector found, 0..1; 1 if neither found any."""
        total = self.num_pairs + self.missed + self.extra
        return self.num_matched / total if total else 1.0

    @property
    def is_conclusive(self) -> bool:
        """Whether there was anything to compare."""
        return self.num_pairs + self.missed + self.extra > 0


def compare(
    reference: Sequence[Detections], found: Sequence[Detections], *, threshold: float, tolerance: Tolerance
) -> Agreement:
    """Compare the detections of each image.

    Args:
        reference: detections of the reference, down to a score of `threshold - tolerance.score`.
        found: detections of the other detector on the same images, down to the same score.
        threshold: a pair counts if at least one of its scores is above it. A score just below it, within the tolerance,
            is therefore not a missed detection.
        tolerance: limits within which a pair matches.
    """
    missed = extra = 0
    ious, differences, distances = [np.empty(0)], [np.empty(0)], [np.empty(0)]
    for one, other in zip(reference, found, strict=True):
        iou = _pair_ious(one, other)
        difference = np.abs(one.scores[:, None] - other.scores[None]).astype(np.float64)
        rows, columns = linear_sum_assignment(np.where(iou >= PAIR_IOU, iou - difference, -2.0), maximize=True)
        is_pair = iou[rows, columns] >= PAIR_IOU
        rows, columns = rows[is_pair], columns[is_pair]
        counts = (one.scores[rows] > threshold) | (other.scores[columns] > threshold)
        ious.append(iou[rows, columns][counts])
        differences.append(difference[rows, columns][counts])
        distances.append(np.abs(one.boxes_xyxy[rows] - other.boxes_xyxy[columns]).max(axis=1, initial=0.0)[counts])
        missed += int((np.delete(one.scores, rows) > threshold).sum())
        extra += int((np.delete(other.scores, columns) > threshold).sum())
    all_ious, all_differences = np.concatenate(ious), np.concatenate(differences)
    close = (all_ious >= tolerance.iou) | (np.concatenate(distances) <= tolerance.pixels)
    within = close & (all_differences <= tolerance.score)
    return Agreement(
        num_reference=len(all_ious) + missed,
        num_found=len(all_ious) + extra,
        num_pairs=len(all_ious),
        num_matched=int(within.sum()),
        missed=missed,
        extra=extra,
        lowest_iou=float(all_ious.min(initial=1.0)),
        mean_iou=float(all_ious.mean()) if len(all_ious) else 1.0,
        largest_score_difference=float(all_differences.max(initial=0.0)),
    )


def class_difference(reference: Categories, found: Categories) -> str | None:
    """Describe the first class that differs between two models, on one line; None if all classes agree."""
    if len(found) != len(reference):
        return f"it has {counted(len(found), 'class')}, expected {len(reference)}"
    for label, (one, other) in enumerate(zip(found, reference, strict=True)):
        if one != other:
            return f"class {label} is {one.name!r} with id {one.id}, expected {other.name!r} with id {other.id}"
    return None


def _pair_ious(one: Detections, other: Detections) -> np.ndarray:
    """IoU (n, m) of all pairs; 0 for pairs of different classes."""
    first, second = one.boxes_xyxy[:, None].astype(np.float64), other.boxes_xyxy[None].astype(np.float64)
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clip(0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clip(0).prod(-1) for boxes in (first, second)]
    union = areas[0] + areas[1] - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return np.where(one.labels[:, None] == other.labels[None], iou, 0.0)
