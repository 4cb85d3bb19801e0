"""Match detections with objects, for AP, precision and recall, confusion matrix and error types.

`match` compares the detections of a `CocoEvaluator` with the ground truth, some images at a time, and keeps 24 bytes
per detection; all other modules of this package use these columns. The rules are COCO's: per image and class,
detections are matched in order of descending score with the unmatched object that they overlap most; at most 100 count;
and detections on crowd regions are neither right nor wrong.

Source: https://cocodataset.org/#detection-eval.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rtdetr.evaluation.coco import CocoEvaluator, counting_rows, to_xywh
from rtdetr.evaluation.error_kinds import error_kinds
from rtdetr.evaluation.overlaps import Pairs, assign, overlaps

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_MAX_AT_ONCE = 20_000  # detections compared at a time
_BITS = 1 << np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections, objects and the matches between them. A "row" is a position in these arrays.

    Attributes:
        num_images: images of the dataset.
        num_classes: classes of the dataset.
        images: int32 (n,), image of each detection, as a position in the dataset.
        labels: int32 (n,), ascending.
        scores: float32 (n,), descending within a class.
        found: int32 (n,), the object matched at IoU 0.5; -1: none.
        kinds: int8 (n,), kind of error, as a position in `DETECTION_KINDS`; -1: not wrong.
        targets: int32 (n,), target object of a localization or class error; -1: none.
        true_bits: uint16 (n,), see `is_true`.
        ignored_bits: uint16 (n,), see `is_ignored`.
        object_images: int64 (m,), ascending.
        object_labels: int64 (m,).
        object_rows: int64 (m,), position in `dataset.annotations`; crowd regions are left out.
        pairs: pairs with an IoU of at least 0.5, of any classes; by detection, best first.
    """

    num_images: int
    num_classes: int
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    found: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray
    true_bits: np.ndarray
    ignored_bits: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_rows: np.ndarray
    pairs: Pairs

    def is_true(self, level: int = 0) -> np.ndarray:
        """Whether each detection matches an object at an IoU threshold (a position in `IOU_THRESHOLDS`), bool (n,)."""
        return (self.true_bits & _BITS[level]) != 0

    def is_ignored(self, level: int = 0, *, rows: slice = slice(None)) -> np.ndarray:
        """Whether each detection (or those in `rows`) is unmatched but on a crowd region of its class, bool (n,)."""
        return (self.ignored_bits[rows] & _BITS[level]) != 0

    @cached_property
    def class_starts(self) -> np.ndarray:
        """int64 (classes + 1,): class k has the detections class_starts[k]:class_starts[k + 1]."""
        return np.searchsorted(self.labels, np.arange(self.num_classes + 1, dtype=np.int32))

    @cached_property
    def num_objects(self) -> np.ndarray:
        """Number of objects per class without crowd regions, int64 (classes,)."""
        return np.bincount(self.object_labels, minlength=self.num_classes)


def match(evaluator: CocoEvaluator) -> Matches:
    """Match all detections with the ground truth."""
    dataset, annotations = evaluator.dataset, evaluator.dataset.annotations
    columns, pairs = _by_class(_match_images(evaluator, images) for images in evaluator.image_ranges(_MAX_AT_ONCE))
    object_rows = np.flatnonzero(~annotations.iscrowd)
    return Matches(
        num_images=len(dataset),
        num_classes=len(dataset.categories),
        **columns,
        object_images=np.repeat(np.arange(len(dataset)), np.diff(annotations.starts))[object_rows],
        object_labels=annotations.labels[object_rows],
        object_rows=object_rows,
        pairs=pairs,
    )


def _match_images(evaluator: CocoEvaluator, images: slice) -> tuple[dict[str, np.ndarray], Pairs]:
    """Return the columns of `Matches` for some images, by class and descending score, and their pairs."""
    given, annotations = evaluator.columns(images), evaluator.dataset.annotations
    kept = counting_rows(given.images, given.scores, given.labels)
    image_of, labels = given.images[kept], given.labels[kept]

    first, last = annotations.starts[[images.start, images.stop]].tolist()  # positions of the objects
    object_labels, iscrowd = annotations.labels[first:last], annotations.iscrowd[first:last]
    pairs = overlaps(
        image_of - images.start,
        to_xywh(given.boxes_xyxy[kept]),
        starts=annotations.starts[images.start : images.stop + 1] - first,
        boxes=annotations.boxes_xywh[first:last],
        iscrowd=iscrowd,
    )
    is_same_class = labels[pairs.detections] == object_labels[pairs.objects]
    crowd = pairs[iscrowd[pairs.objects] & is_same_class]
    crowd_iou = np.zeros(len(labels))
    np.maximum.at(crowd_iou, crowd.detections, crowd.iou)

    pairs = pairs[~iscrowd[pairs.objects]].best_first()
    is_same_class = labels[pairs.detections] == object_labels[pairs.objects]
    found = _assigned(pairs[is_same_class], num_detections=len(labels), num_objects=len(object_labels))
    is_ignored = (found < 0) & (crowd_iou[:, None] >= IOU_THRESHOLDS)
    kinds, targets = error_kinds(pairs, is_same_class, is_wrong=(found[:, 0] < 0) & ~is_ignored[:, 0])

    # rows of objects without crowd regions
    row_of = np.append(np.cumsum(~iscrowd) - 1, -1) + np.count_nonzero(~annotations.iscrowd[:first])
    row_of[-1] = -1
    columns = {
        "images": image_of.astype(np.int32),
        "labels": labels.astype(np.int32),
        "scores": given.scores[kept],
        "found": row_of[found[:, 0]].astype(np.int32),
        "kinds": kinds,
        "targets": row_of[targets].astype(np.int32),
        "true_bits": (found >= 0) @ _BITS,
        "ignored_bits": is_ignored @ _BITS,
    }
    pairs = pairs[pairs.iou >= IOU_THRESHOLDS[0]]
    return columns, pairs.renumbered(pairs.detections, row_of[pairs.objects])


def _assigned(pairs: Pairs, *, num_detections: int, num_objects: int) -> np.ndarray:
    """The object matched by each detection at each of `IOU_THRESHOLDS`, int64 (n, 10); -1: none."""
    candidates = (pairs[pairs.iou >= iou] for iou in IOU_THRESHOLDS)
    found = [assign(one, num_detections=num_detections, num_objects=num_objects) for one in candidates]
    return np.stack(found, axis=1)


def _by_class(parts: Iterable[tuple[dict[str, np.ndarray], Pairs]]) -> tuple[dict[str, np.ndarray], Pairs]:
    """Join results of `_match_images`, by class and descending score and, for equal scores, by image."""
    columns: dict[str, list[np.ndarray]] = {}
    pairs, num_rows = [], 0
    for found, overlapping in parts:
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
        pairs.append(overlapping.renumbered(overlapping.detections + num_rows, overlapping.objects))
        num_rows += len(found["labels"])
    order = np.lexsort((-np.concatenate(columns["scores"]), np.concatenate(columns["labels"])))
    joined = {name: np.concatenate(columns.pop(name))[order] for name in list(columns)}  # one at a time to save memory
    row_of = np.empty(num_rows, np.int64)
    row_of[order] = np.arange(num_rows)
    whole = Pairs.joined(pairs)
    return joined, whole.renumbered(row_of[whole.detections], whole.objects).best_first()
