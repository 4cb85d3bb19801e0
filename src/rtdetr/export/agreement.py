"""How far two detectors agree on images: detections are compared as sets, whatever their order.

Ranking and query selection cut at close scores, so the rows of two correct outputs differ; the objects do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from rtdetr.categories import Categories
from rtdetr.detections import Detections
from rtdetr.wording import counted

PAIR_IOU = 0.5  # below it two boxes are not of the same object


@dataclass(frozen=True)
class Tolerance:
    """How much an exported model may differ from the float32 PyTorch model.

    Attributes:
        matched: least share of detections with a partner within `iou` and `score`, 0..1.
        iou: least IoU of such a pair.
        score: largest difference of scores of such a pair.
        ap_drop: most AP that may be lost on a dataset, 0..1.
    """

    matched: float
    iou: float
    score: float
    ap_drop: float


@dataclass(frozen=True)
class Agreement:
    """What a set-wise comparison counted, over all images.

    Attributes:
        num_reference: detections of the reference above the threshold.
        num_found: detections of the other detector above it.
        num_pairs: of the same class and object in both.
        num_matched: pairs within the tolerance.
        missed: detections of the reference without a partner.
        extra: detections of the other without a partner.
        lowest_iou: of all pairs; 1 without pairs.
        mean_iou: of all pairs; 1 without pairs.
        largest_score_difference: of all pairs; 0 without pairs.
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
        """Matched pairs among all objects that either of them found, 0..1; 1 where neither found any."""
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
        reference: of the reference, down to `threshold - tolerance.score`.
        found: of the other detector on the same images, down to the same score.
        threshold: detections count whose score, or whose partner's, is above it. A score that the tolerance lets fall
            just below is therefore no missed detection.
        tolerance: what makes a pair a match.
    """
    missed = extra = 0
    ious, differences = [np.empty(0)], [np.empty(0)]
    for one, other in zip(reference, found, strict=True):
        iou = _pair_ious(one, other)
        difference = np.abs(one.scores[:, None] - other.scores[None]).astype(np.float64)
        rows, columns = linear_sum_assignment(np.where(iou >= PAIR_IOU, iou - difference, -2.0), maximize=True)
        is_pair = iou[rows, columns] >= PAIR_IOU
        rows, columns = rows[is_pair], columns[is_pair]
        counts = (one.scores[rows] > threshold) | (other.scores[columns] > threshold)
        ious.append(iou[rows, columns][counts])
        differences.append(difference[rows, columns][counts])
        missed += int((np.delete(one.scores, rows) > threshold).sum())
        extra += int((np.delete(other.scores, columns) > threshold).sum())
    all_ious, all_differences = np.concatenate(ious), np.concatenate(differences)
    within = (all_ious >= tolerance.iou) & (all_differences <= tolerance.score)
    return Agreement(
        num_reference=sum(int((one.scores > threshold).sum()) for one in reference),
        num_found=sum(int((one.scores > threshold).sum()) for one in found),
        num_pairs=len(all_ious),
        num_matched=int(within.sum()),
        missed=missed,
        extra=extra,
        lowest_iou=float(all_ious.min(initial=1.0)),
        mean_iou=float(all_ious.mean()) if len(all_ious) else 1.0,
        largest_score_difference=float(all_differences.max(initial=0.0)),
    )


def class_difference(reference: Categories, found: Categories) -> str | None:
    """The first class that two models name differently, on one line; None: they agree."""
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
