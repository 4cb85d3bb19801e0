"""Which detection found which object: the matching behind AP, precision and recall, confusion and error types.

`match` compares all detections of a `CocoEvaluator` with the ground truth once; everything else in this room reads the
flat arrays of its result. The rules are COCO's: in an image and class, detections by falling score take the free object
they overlap most; at most 100 of them count; hits on crowd regions are neither right nor wrong.

Source: https://cocodataset.org/#detection-eval.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rtdetr.evaluation.coco import CocoEvaluator, counted, to_xywh

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
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

    def renumbered(self, detections: np.ndarray, objects: np.ndarray) -> "Pairs":
        """The same overlaps with other row numbers."""
        return Pairs(detections, objects, self.iou)

    def best_first(self) -> "Pairs":
        """The same, by detection and then falling IoU; of equal overlaps COCO prefers the later object."""
        return self[np.lexsort((-self.objects, -self.iou, self.detections))]


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections, objects and what they have to do with each other. "Row" is a position in these arrays.

    Attributes:
        num_images: images of the dataset.
        num_classes: classes of the dataset.
        images: int64 (n,), image of each detection, as a position in the dataset.
        labels: int64 (n,), ascending.
        scores: float64 (n,), descending within a class.
        boxes_xywh: float64 (n, 4).
        found: int64 (n,), the object that a detection found at IoU 0.5; -1: none.
        is_true: bool (n, 10), whether it found any, at each of `IOU_THRESHOLDS`.
        is_ignored: bool (n, 10), whether it found none but lies on a crowd region of its class.
        object_images: int64 (m,), ascending.
        object_labels: int64 (m,).
        object_rows: int64 (m,), position of each in `dataset.annotations`; crowd regions are left out.
        pairs: overlaps of at least `BACKGROUND_IOU`, whatever the classes; by detection, best first.
    """

    num_images: int
    num_classes: int
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes_xywh: np.ndarray
    found: np.ndarray
    is_true: np.ndarray
    is_ignored: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_rows: np.ndarray
    pairs: Pairs

    @cached_property
    def class_starts(self) -> np.ndarray:
        """int64 (classes + 1,): class k owns the detections class_starts[k]:class_starts[k + 1]."""
        return np.searchsorted(self.labels, np.arange(self.num_classes + 1))

    @cached_property
    def num_objects(self) -> np.ndarray:
        """int64 (classes,), crowd regions not counted."""
        return np.bincount(self.object_labels, minlength=self.num_classes)


def match(evaluator: CocoEvaluator) -> Matches:
    """Match all detections with the ground truth."""
    dataset, columns = evaluator.dataset, evaluator.dataset.annotations
    given = evaluator.columns()
    kept = counted(given.images, given.scores, given.labels)
    images, labels, scores = given.images[kept], given.labels[kept], given.scores[kept].astype(np.float64)
    boxes_xywh = to_xywh(given.boxes_xyxy[kept])

    pairs = _overlaps(images, boxes_xywh, starts=columns.starts, boxes=columns.boxes_xywh, iscrowd=columns.iscrowd)
    on_crowd = columns.iscrowd[pairs.objects]
    crowd = pairs[on_crowd & (labels[pairs.detections] == columns.labels[pairs.objects])]
    crowd_iou = np.zeros(len(scores))
    np.maximum.at(crowd_iou, crowd.detections, crowd.iou)

    object_rows = np.flatnonzero(~columns.iscrowd)
    row_of = np.cumsum(~columns.iscrowd) - 1
    pairs = pairs[~on_crowd]
    pairs = pairs.renumbered(pairs.detections, row_of[pairs.objects]).best_first()
    object_labels = columns.labels[object_rows]
    candidates = pairs[labels[pairs.detections] == object_labels[pairs.objects]]
    found = np.stack(
        [
            assign(candidates[candidates.iou >= iou], num_detections=len(scores), num_objects=len(object_rows))
            for iou in IOU_THRESHOLDS
        ],
        axis=1,
    )
    return Matches(
        num_images=len(dataset),
        num_classes=len(dataset.categories),
        images=images,
        labels=labels,
        scores=scores,
        boxes_xywh=boxes_xywh,
        found=found[:, 0].copy(),
        is_true=found >= 0,
        is_ignored=(found < 0) & (crowd_iou[:, None] >= IOU_THRESHOLDS),
        object_images=np.repeat(np.arange(len(dataset)), np.diff(columns.starts))[object_rows],
        object_labels=object_labels,
        object_rows=object_rows,
        pairs=pairs,
    )


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


def _overlaps(
    images: np.ndarray, boxes_xywh: np.ndarray, *, starts: np.ndarray, boxes: np.ndarray, iscrowd: np.ndarray
) -> Pairs:
    """All pairs of a detection and an object of its image with at least `BACKGROUND_IOU`; objects as given."""
    parts = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for detections, objects in _same_image(images, starts):
        iou = _iou(boxes_xywh[detections], boxes[objects], iscrowd[objects])
        parts.append(Pairs(detections, objects, iou)[iou >= BACKGROUND_IOU])
    return Pairs(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("detections", "objects", "iou")))


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
