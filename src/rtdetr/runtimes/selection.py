"""From a network's output for one image to its best detections, in NumPy: what `models/postprocess.py` does in torch.

Every runtime ends here, so all of them choose alike; none needs torch for it.
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
        """Those that a mask or an array of positions names."""
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
    """Return the best pairs of a query and a class; one query may give several.

    Args:
        logits: (q, k), class scores before the sigmoid.
        boxes_cxcywh: (q, 4), normalized.
        size_wh: width and height of the original image.
        max_detections: the most to return.
        one_label: take the best class of each query only.
        lowest: scores up to a little below this one may be left out, which saves sorting them.
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
    with np.errstate(over="ignore"):  # exp of a large number is infinite, and the score 0
        scores = 1 / (1 + np.exp(-values[index].astype(np.float32)))
    center, half = boxes_cxcywh[query, :2], boxes_cxcywh[query, 2:] * np.float32(0.5)
    boxes = np.concatenate([center - half, center + half], axis=1) * np.tile(size_wh, 2).astype(np.float32)
    return Found(labels.astype(np.int64), boxes.astype(np.float32), scores)


def best_of_boxes(found: Found, *, max_detections: int, one_label: bool = False) -> Found:
    """Sort what a graph with post-processing found, in which suppression spoils the order, and take the best.

    Args:
        found: in any order.
        max_detections: the most to return.
        one_label: take the best class of each query only.
    """
    found = found.take(np.argsort(-found.scores, kind="stable"))
    if one_label:
        found = first_of_each_box(found)
    return found.take(np.arange(min(max_detections, len(found.scores))))


def first_of_each_box(found: Found) -> Found:
    """Keep the best class of each query where only pairs are known: pairs of one query have exactly the same box."""
    _, first = np.unique(found.boxes_xyxy, axis=0, return_index=True)
    return found.take(np.sort(first))


def suppress(found: Found, *, iou: float) -> Found:
    """In each class drop detections that overlap a better one by more than `iou`; found ones are best first."""
    boxes = found.boxes_xyxy
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = np.ones(len(boxes), dtype=bool)
    for place in range(len(boxes)):
        if not kept[place]:
            continue
        rest = np.flatnonzero(kept[place + 1 :] & (found.labels[place + 1 :] == found.labels[place])) + place + 1
        low = np.maximum(boxes[place, :2], boxes[rest, :2])
        high = np.minimum(boxes[place, 2:], boxes[rest, 2:])
        shared = np.maximum(high - low, 0).prod(axis=1)
        kept[rest[shared > iou * (areas[place] + areas[rest] - shared)]] = False
    return found.take(kept)


def _logit(score: float) -> float:
    return math.log(score / (1 - score)) if score < 1 else math.inf
