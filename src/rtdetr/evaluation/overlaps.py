"""Overlaps of detections and objects, and COCO's greedy one-to-one matching.

All functions work on flat arrays of many images at once.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BACKGROUND_IOU = 0.1  # a lower IoU means that a detection and an object are unrelated; arXiv 2008.08115
_PAIRS_AT_ONCE = 1_000_000  # limits the memory for IoU


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of overlapping detections and objects in the same image; indexing selects some of them.

    Attributes:
        detections: int64 (p,), rows of the detections.
        objects: int64 (p,), rows of the objects.
        iou: float64 (p,).
    """

    detections: np.ndarray
    objects: np.ndarray
    iou: np.ndarray

    def __getitem__(self, which: np.ndarray) -> "Pairs":
        return Pairs(self.detections[which], self.objects[which], self.iou[which])

    def __len__(self) -> int:
        return len(self.iou)

    @classmethod
    def joined(cls, parts: Iterable["Pairs"]) -> "Pairs":
        """Concatenate pairs."""
        nothing = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        arrays = zip(*((part.detections, part.objects, part.iou) for part in (nothing, *parts)), strict=True)
        return cls(*map(np.concatenate, arrays))

    def renumbered(self, detections: np.ndarray, objects: np.ndarray) -> "Pairs":
        """Return the same pairs with other row numbers."""
        return Pairs(detections, objects, self.iou)

    def best_first(self) -> "Pairs":
        """Sort by detection, then by descending IoU; for equal IoU, COCO prefers the later object."""
        return self[np.lexsort((-self.objects, -self.iou, self.detections))]


def overlaps(
    images: np.ndarray, boxes_xywh: np.ndarray, *, starts: np.ndarray, boxes: np.ndarray, iscrowd: np.ndarray
) -> Pairs:
    """Return all pairs of a detection and an object in the same image with an IoU of at least `BACKGROUND_IOU`."""
    parts = []
    for detections, objects in _same_image(images, starts):
        iou = _iou(boxes_xywh[detections], boxes[objects], iscrowd[objects])
        parts.append(Pairs(detections, objects, iou)[iou >= BACKGROUND_IOU])
    return Pairs.joined(parts)


def assign(pairs: Pairs, *, num_detections: int, num_objects: int) -> np.ndarray:
    """Match each detection, in order of its row, with the unmatched object of its pairs that it overlaps most.

    All detections are processed at once, in rounds. A detection is matched with its best object if no earlier detection
    has a pair with that object; then both are removed. The result equals that of matching one detection at a time.

    Args:
        pairs: candidate pairs, `best_first`.
        num_detections: number of detections, the length of the result.
        num_objects: number of objects.

    Returns:
        int64 (num_detections,), the object of each detection; -1: none.
    """
    result = np.full(num_detections, -1)
    is_free = np.ones(num_objects, dtype=bool)
    while len(pairs):
        is_best = np.diff(pairs.detections, prepend=-1) != 0
        first = np.full(num_objects, num_detections)
        np.minimum.at(first, pairs.objects, pairs.detections)
        settled = pairs[is_best & (first[pairs.objects] == pairs.detections)]
        result[settled.detections] = settled.objects
        is_free[settled.objects] = False
        pairs = pairs[(result[pairs.detections] < 0) & is_free[pairs.objects]]
    return result


def _same_image(images: np.ndarray, starts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows of all pairs of a detection and an object in the same image, in chunks of limited size."""
    ends = np.cumsum(np.diff(starts)[images])  # number of pairs up to and including each detection
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(0, total, _PAIRS_AT_ONCE), side="right").tolist()
    for first, last in itertools.pairwise([*cuts, len(images)]):
        counts = np.diff(starts)[images[first:last]]
        detections = np.repeat(np.arange(first, last), counts)
        position = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield detections, starts[images[detections]] + position


def _iou(boxes_xywh: np.ndarray, objects_xywh: np.ndarray, iscrowd: np.ndarray) -> np.ndarray:
    """IoU of boxes at the same position; for a crowd region, the fraction of the box inside it."""
    x, y, width, height = boxes_xywh.T
    object_x, object_y, object_width, object_height = objects_xywh.T
    shared_width = np.minimum(x + width, object_x + object_width) - np.maximum(x, object_x)
    shared_height = np.minimum(y + height, object_y + object_height) - np.maximum(y, object_y)
    intersection = shared_width.clip(0) * shared_height.clip(0)
    area = width * height
    union = np.where(iscrowd, area, area + object_width * object_height - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
