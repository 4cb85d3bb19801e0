"""Select the best detections from a network's output for one image: `models/postprocess.py` in NumPy.

Every runtime uses these functions, so all of them select in the same way and do not need torch for it.
"""

import math
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """Detections of one image, best first: labels int64 (n,), boxes float32 (n, 4) in pixels, scores float32 (n,)."""

    labels: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray

    def take(self, which: np.ndarray) -> "Found":
        """Return the detections selected by a mask or an array of indices."""
        return Found(self.labels[which], self.boxes_xyxy[which], self.scores[which])


def best_pairs(
    logits: np.ndarray,
    boxes_cxcywh: np.ndarray,
    *,
    size_wh: np.ndarray,
    max_detections: int,
    one_label: bool = False,
    lowest: float = 0.0,
) -> Found:
    """Return the best query-class pairs; one query can give several.

    Args:
        logits: (q, k), class scores before the sigmoid.
        boxes_cxcywh: (q, 4), normalized.
        size_wh: width and height of the original image.
        max_detections: maximum number of detections to return.
        one_label: return only the best class of each query.
        lowest: scores well below this one may be omitted, which saves sorting them.
    """
    num_classes = logits.shape[1]
    values = logits.max(axis=1) if one_label else logits.reshape(-1)
    index = np.flatnonzero(values > _logit(lowest) - 1) if lowest > 0 else np.arange(len(values))
    if len(index) > max_detections:
        chosen = np.argpartition(values[index], -max_detections)[-max_detections:]
        index = index[np.sort(chosen)]
    index = index[np.argsort(-values[index], kind="stable")]
    if one_label:
        query, labels = index, logits[index].argmax(axis=1)
    else:
        query, labels = np.divmod(index, num_classes)
    with np.errstate(over="ignore"):  # exp of a large number is infinite, which gives a score of 0
        scores = 1 / (1 + np.exp(-values[index].astype(np.float32)))
    center, half = boxes_cxcywh[query, :2], boxes_cxcywh[query, 2:] * np.float32(0.5)
    boxes = np.concatenate([center - half, center + half], axis=1) * np.tile(size_wh, 2).astype(np.float32)
    return Found(labels.astype(np.int64), boxes.astype(np.float32), scores)


def best_of_boxes(found: Found, *, max_detections: int, one_label: bool = False) -> Found:
    """Sort the output of a graph with postprocessing, which is unsorted after NMS, and return the best detections.

    Args:
        found: detections in any order.
        max_detections: maximum number of detections to return.
        one_label: return only the best class of each query.
    """
    found = found.take(np.argsort(-found.scores, kind="stable"))
    if one_label:
        found = first_of_each_box(found)
    return found.take(np.arange(min(max_detections, len(found.scores))))


def first_of_each_box(found: Found) -> Found:
    """Keep the best class of each query if only pairs are known: pairs of one query have exactly the same box."""
    _, first = np.unique(found.boxes_xyxy, axis=0, return_index=True)
    return found.take(np.sort(first))


def suppress(found: Found, *, iou: float) -> Found:
    """Apply NMS per class with the IoU threshold `iou`; `found` is sorted, best first."""
    boxes = found.boxes_xyxy
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if not kept[i]:
            continue
        rest = np.flatnonzero(kept[i + 1 :] & (found.labels[i + 1 :] == found.labels[i])) + i + 1
        low = np.maximum(boxes[i, :2], boxes[rest, :2])
        high = np.minimum(boxes[i, 2:], boxes[rest, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        kept[rest[shared > iou * (areas[i] + areas[rest] - shared)]] = False
    return found.take(kept)


def _logit(score: float) -> float:
    return math.log(score / (1 - score)) if score < 1 else math.inf
