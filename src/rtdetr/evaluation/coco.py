"""COCO average precision of detections on a `DetectionDataset`: the numbers of pycocotools, computed by hotcoco.

Collect detections with `CocoEvaluator.add`, one image at a time and in any order, then call `summarize`. Images that
were not added count as images without detections. Memory stays bounded: detections beyond some ten thousand are kept on
disk (`spool.py`), and only a few classes are evaluated at a time.

Source: https://cocodataset.org/#detection-eval.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError
from rtdetr.evaluation.spool import ROW, Spool

_MAX_AT_ONCE = 20_000  # detections per call of hotcoco, which uses some hundred bytes for each
_MAX_DETECTIONS = 100  # per image and class
_CURVES = 1000  # detections that use as much memory as the curves of one class
_IMAGES_SENT = 100  # per process at a time: 1 MB with 300 detections each


class CocoMetrics(NamedTuple):
    """The twelve COCO numbers as fractions of 1, in COCO's order, then AP per class; -1 if there are no such objects.

    AP is averaged over IoU thresholds 0.50, 0.55, ... 0.95 and over classes, with up to 100 detections per image. The
    limits between small, medium and large objects are areas of 32 x 32 and 96 x 96 pixels.
    """

    ap: float
    ap50: float  # at IoU 0.50
    ap75: float  # at IoU 0.75
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float  # recall with one detection per image
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The twelve numbers, without `per_class`."""
        return self[:12]


class DetectionColumns(NamedTuple):
    """Detections of many images as flat arrays."""

    images: np.ndarray  # int64 (n,), positions in the dataset, ascending
    boxes_xyxy: np.ndarray  # float32 (n, 4), pixels
    scores: np.ndarray  # float32 (n,)
    labels: np.ndarray  # int64 (n,)


class CocoEvaluator:
    """Collects the detections on a dataset, with 16 bytes per image in memory and most detections on disk.

    If several processes each evaluate some of the images, `gathered` joins their detections in the main process. With
    other means of communication, send the `state()` of each process and call `CocoEvaluator.merged`.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        """Start without detections.

        Args:
            dataset: ground truth. Detections must use its labels; see `DetectionDataset.with_categories`.
        """
        self.dataset = dataset
        self._spool = Spool()
        self._starts = np.full(len(dataset), -1)  # an image has rows starts:starts + counts; -1: not added
        self._counts = np.zeros(len(dataset), np.int64)

    @property
    def num_added(self) -> int:
        """Images added so far."""
        return int((self._starts >= 0).sum())

    def add(
        self, image_id: int, *, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray, replace: bool = False
    ) -> None:
        """Add all detections of one image.

        Args:
            image_id: id in the annotation file.
            boxes_xyxy: (n, 4), pixels of the original image.
            scores: (n,).
            labels: (n,), labels of the dataset.
            replace: replace the detections that were added for this image.

        Raises:
            InputError: the image is unknown or was already added, a label is not in the dataset, the arrays differ in
                length, or the disk for temporary files is full.
        """
        index = int(np.searchsorted(self.dataset.image_ids, image_id))
        if index == len(self.dataset) or self.dataset.image_ids[index] != image_id:
            raise InputError(f"expected an image id of {self.dataset.annotations_file}, got {image_id}")
        if self._starts[index] >= 0 and not replace:
            raise InputError(
                f"image {image_id} was already added: pass all its detections in one call, or replace=True"
            )
        boxes_xyxy, num_classes = np.reshape(boxes_xyxy, (-1, 4)), len(self.dataset.categories)
        if not len(boxes_xyxy) == len(scores) == len(labels):
            raise InputError(
                f"image {image_id}: expected equal numbers of boxes, scores and labels, got {len(boxes_xyxy)}, "
                f"{len(scores)} and {len(labels)}"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise InputError(
                f"expected labels 0..{num_classes - 1} of {self.dataset.annotations_file}, got "
                f"{labels.min()}..{labels.max()}: open the dataset with the categories of the model"
            )
        self._append(index, boxes_xyxy, scores, labels)

    def state(self, images: slice = slice(None)) -> dict[str, np.ndarray]:
        """Return the detections added so far as plain arrays, to send them to another process.

        Args:
            images: positions in the dataset to return.

        Returns:
            `images`: int64 (i,), positions in the dataset of the images added; `counts`: int64 (i,), detections per
            image; `boxes_xyxy` (n, 4), `scores` (n,) and `labels` (n,) of all detections, image by image.
        """
        indices = np.arange(len(self.dataset))[images]
        indices = indices[self._starts[indices] >= 0]
        return {**self._columns(indices)._asdict(), "images": indices, "counts": self._counts[indices]}

    @classmethod
    def merged(cls, dataset: DetectionDataset, states: Iterable[Mapping[str, np.ndarray]]) -> "CocoEvaluator":
        """Merge the detections of several processes.

        If several processes evaluated the same image, for example because shares were padded to equal size, the
        detections of the first one count.

        Args:
            dataset: ground truth, the same in every process.
            states: results of `state()` in each process, consumed one at a time.
        """
        whole = cls(dataset)
        for state in states:
            ends = np.cumsum(state["counts"]).tolist()
            for index, start, end in zip(state["images"].tolist(), [0, *ends], ends, strict=False):
                if whole._starts[index] < 0:
                    whole._append(index, *(state[name][start:end] for name in ("boxes_xyxy", "scores", "labels")))
        return whole

    def gathered(self, gather: Callable[[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]) -> "CocoEvaluator":
        """Merge the detections of all processes of a run, some images at a time. Every process has to call it.

        Args:
            gather: returns the values of all processes in the main process and an empty list in the others, such as
                `rtdetr.training.distributed.Processes.gather`.

        Returns:
            All detections in the main process, none in the others.
        """
        parts = (slice(first, first + _IMAGES_SENT) for first in range(0, len(self.dataset), _IMAGES_SENT))
        return self.merged(self.dataset, (state for part in parts for state in gather(self.state(part))))

    def columns(self, images: slice = slice(None)) -> "DetectionColumns":
        """Return the detections of some images (default: all), by image and in the order added."""
        indices = np.arange(len(self.dataset))[images]
        return self._columns(indices[self._starts[indices] >= 0])

    def image_ranges(self, most: int) -> Iterator[slice]:
        """Split the dataset into ranges of images with about `most` detections each."""
        share_of = self._counts.cumsum() // most
        ends = [*(np.flatnonzero(np.diff(share_of)) + 1).tolist(), len(self.dataset)]
        return (slice(*ends_of_one) for ends_of_one in itertools.pairwise([0, *ends]))

    def summarize(self) -> CocoMetrics:
        """Compute AP and recall of all detections added so far.

        Classes are independent, so the detections are sorted by class on disk and evaluated a few classes at a time.
        Memory depends on the detections of these classes only.
        """
        names = self.dataset.categories.names
        spool, starts = self._sorted_by_class()
        share_of = (np.diff(starts) + _CURVES).cumsum() // _MAX_AT_ONCE
        precision = np.empty((10, 101, len(names), 4))  # IoU, recall, class, area; 100 detections per image
        recall = np.empty((10, len(names), 4, 3))  # IoU, class, area, detections
        for share in np.split(np.arange(len(names)), np.flatnonzero(np.diff(share_of)) + 1):
            rows = spool.read(int(starts[share[0]]), int(starts[share[-1] + 1]))
            precision[:, :, share], recall[:, share] = self._curves(share, rows)
        by_class = {name: _mean(precision[:, :, label, 0]) for label, name in enumerate(names)}
        return CocoMetrics(*_coco_numbers(precision, recall), per_class=by_class)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Detections in COCO results format: ids of the annotation file, boxes as [x, y, width, height].

        If the dataset was merged from several, each row has the ids of its own source, named by "source".
        """
        names, sources = self.dataset.categories.names, self.dataset.sources
        ids = {source.first: {category.name: category.id for category in source.categories} for source in sources}
        for index in np.flatnonzero(self._starts >= 0).tolist():
            found = self._read(index)
            source = self.dataset.source_of(index)
            named = {"source": str(source.annotations_file)} if len(sources) > 1 else {}
            image_id = int(self.dataset.image_ids[index]) - source.id_offset
            boxes = to_xywh(found["box_xyxy"]).tolist()
            for box, score, label in zip(boxes, found["score"].tolist(), found["label"].tolist(), strict=True):
                category_id = ids[source.first].get(names[label])
                if category_id is not None:  # otherwise the source does not have the class
                    yield {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, **named}

    def _append(self, index: int, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        rows = np.empty(len(scores), ROW)
        rows["image"], rows["label"], rows["score"], rows["box_xyxy"] = index, labels, scores, boxes_xyxy
        start = len(self._spool)
        self._spool.append(rows)
        self._starts[index], self._counts[index] = start, len(rows)

    def _read(self, index: int) -> np.ndarray:
        start = int(self._starts[index])
        return self._spool.read(start, start + int(self._counts[index]))

    def _columns(self, indices: np.ndarray) -> "DetectionColumns":
        rows = np.concatenate([np.empty(0, ROW), *(self._read(index) for index in indices.tolist())])
        return DetectionColumns(
            images=rows["image"].astype(np.int64),
            boxes_xyxy=rows["box_xyxy"].copy(),
            scores=rows["score"].copy(),
            labels=rows["label"].astype(np.int64),
        )

    def _sorted_by_class(self) -> tuple[Spool, np.ndarray]:
        """The detections that count, sorted by class, and the start of each class, int64 (classes + 1,)."""
        num_classes = len(self.dataset.categories)
        starts = np.zeros(num_classes + 1, np.int64)
        for rows in self._chunks():
            starts[1:] += np.bincount(rows["label"], minlength=num_classes).cumsum()
        spool, ends = Spool(), starts[:-1].tolist()
        for rows in self._chunks():
            rows = rows[rows["label"].argsort(kind="stable")]
            for part in np.split(rows, np.flatnonzero(np.diff(rows["label"])) + 1):
                for label in part["label"][:1].tolist():
                    spool.write(ends[label], part)
                    ends[label] += len(part)
        return spool, starts

    def _chunks(self) -> Iterator[np.ndarray]:
        """Detections that count, in chunks of limited size, in the order added.

        An image that is split between two chunks may have more, which hotcoco ignores.
        """
        for first in range(0, len(self._spool), _MAX_AT_ONCE):
            rows = self._spool.read(first, first + _MAX_AT_ONCE)
            positions = np.arange(first, first + len(rows))
            rows = rows[positions >= self._starts[rows["image"]]]  # others were replaced
            yield rows[np.sort(counting_rows(rows["image"], rows["score"], rows["label"]))]

    def _curves(self, labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Precision and recall of a few classes with the detections `rows`, as in `summarize`; -1 without objects."""
        rows = rows[rows["image"].argsort(kind="stable")]
        table = np.column_stack([rows["image"], to_xywh(rows["box_xyxy"]), rows["score"], rows["label"]])
        truth = self._ground_truth(labels, rows["image"])
        evaluation = hotcoco.COCOeval(truth, truth.load_res(table), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        curves = evaluation.eval  # every access copies
        if curves is None:
            raise AssertionError("accumulate() left no results")
        return curves["precision"][..., 2], curves["recall"]

    def _ground_truth(self, labels: np.ndarray, images_with_detections: np.ndarray) -> hotcoco.COCO:
        """Objects of a few classes, with positions as ids, because hotcoco needs ids >= 0 and a file may have any.

        Images without objects or detections of these classes are left out, which does not change the result.
        """
        columns, names = self.dataset.annotations, self.dataset.categories.names
        rows = np.flatnonzero(np.isin(columns.labels, labels))
        images = np.searchsorted(columns.starts, rows, side="right") - 1
        return hotcoco.COCO.from_arrays(
            [{"id": index} for index in np.union1d(images, images_with_detections).tolist()],
            [{"id": label, "name": names[label]} for label in labels.tolist()],
            images,
            columns.labels[rows],
            columns.boxes_xywh[rows],
            area=columns.areas[rows],
            iscrowd=columns.iscrowd[rows],
        )


def _coco_numbers(precision: np.ndarray, recall: np.ndarray) -> tuple[float, ...]:
    """COCO's numbers from the curves: areas are all, small, medium, large; detections 1, 10, 100."""
    return (
        *(_mean(part) for part in (precision[..., 0], precision[0, ..., 0], precision[5, ..., 0])),
        *(_mean(precision[..., area]) for area in (1, 2, 3)),
        *(_mean(recall[:, :, 0, most]) for most in (0, 1, 2)),
        *(_mean(recall[:, :, area, 2]) for area in (1, 2, 3)),
    )


def _mean(values: np.ndarray) -> float:
    """Mean over the values that exist; -1 if there are none."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else -1.0


def counting_rows(images: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Rows of the detections that count, by class, then by descending score and, for equal scores, by position."""
    order = np.lexsort((-scores, labels))
    groups = labels[order].astype(np.int64) * (images.max(initial=0) + 1) + images[order]
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    rank = np.empty(len(order), dtype=np.int64)
    rank[by_group] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[rank < _MAX_DETECTIONS]


def to_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Convert corners (n, 4) to corner and size, float64."""
    low, high = np.split(boxes_xyxy.astype(np.float64), 2, axis=1)
    return np.concatenate([low, high - low], axis=1)
