"""Which detections and objects of an image overlap, and who gets whom when each may have one: COCO's greedy matching.

Everything works on the flat arrays of many images at once.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

BACKGROUND_IOU = 0.1  # below it a detection has nothing to do with an object; arXiv 2008.08115
_PAIRS_AT_ONCE = 1_000_000  # bounds the memory for IoU


@dataclass(frozen=True, eq=False)
class Pairs:
    """Detections and objects of the same image that overlap, in brackets a selection of them.

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
        """The pairs of several, one after the other."""
        nothing = cls(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        arrays = zip(*((part.detections, part.objects, part.iou) for part in (nothing, *parts)), strict=True)
        return cls(*map(np.concatenate, arrays))

    def renumbered(self, detections: np.ndarray, objects: np.ndarray) -> "Pairs":
        """The same overlaps with other row numbers."""
        return Pairs(detections, objects, self.iou)

    def best_first(self) -> "Pairs":
        """The same, by detection and then falling IoU; of equal overlaps COCO prefers the later object."""
        return self[np.lexsort((-self.objects, -self.iou, self.detections))]


def overlaps(
    images: np.ndarray, boxes_xywh: np.ndarray, *, starts: np.ndarray, boxes: np.ndarray, iscrowd: np.ndarray
) -> Pairs:
    """All pairs of a detection and an object of its image with at least `BACKGROUND_IOU`; objects as given."""
    parts = []
    for detections, objects in _same_image(images, starts):
        iou = _iou(boxes_xywh[detections], boxes[objects], iscrowd[objects])
        parts.append(Pairs(detections, objects, iou)[iou >= BACKGROUND_IOU])
    return Pairs.joined(parts)


def assign(pairs: Pairs, *, num_detections: int, num_objects: int) -> np.ndarray:
    """Give each detection, the lowest row first, the free object it overlaps most, among those it is paired with.

    All detections are served at once, in rounds: one whose best object nobody before it could want gets that object,
    then both leave. That is the result of serving one after the other, in a few rounds.

    Args:
        pairs: who may get what, `best_first`.
        num_detections: length of the result.
        num_objects: above the highest row of an object.

    Returns:
        int64 (num_detections,), the object of each; -1: none was left.
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
    """Rows of every detection with every object of its image, a bounded number of pairs at a time."""
    ends = np.cumsum(np.diff(starts)[images])  # pairs up to and with each detection
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(0, total, _PAIRS_AT_ONCE), side="right").tolist()
    for first, last in itertools.pairwise([*cuts, len(images)]):
        counts = np.diff(starts)[images[first:last]]
        detections = np.repeat(np.arange(first, last), counts)
        position = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield detections, starts[images[detections]] + position


def _iou(boxes_xywh: np.ndarray, objects_xywh: np.ndarray, iscrowd: np.ndarray) -> np.ndarray:
    """IoU of the boxes at the same position; on a crowd region the share of the box that lies on it."""
    x, y, width, height = boxes_xywh.T
    object_x, object_y, object_width, object_height = objects_xywh.T
    shared_width = np.minimum(x + width, object_x + object_width) - np.maximum(x, object_x)
    shared_height = np.minimum(y + height, object_y + object_height) - np.maximum(y, object_y)
    intersection = shared_width.clip(0) * shared_height.clip(0)
    area = width * height
    union = np.where(iscrowd, area, area + object_width * object_height - intersection)
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
