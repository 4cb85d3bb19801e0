"""COCO average precision of detections against a `DetectionDataset`: pycocotools' numbers, computed by hotcoco.

Collect detections with `CocoEvaluator.add`, an image at a time and in any order, then `summarize`. Images that were not
added count as images without detections.

Source: https://cocodataset.org/#detection-eval.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError

_MOST_AT_ONCE = 50_000  # detections that hotcoco gets, for each of which it takes some hundred bytes


class CocoMetrics(NamedTuple):
    """The twelve COCO numbers as fractions of 1, in COCO's order, then AP by class; -1 where there is no such object.

    AP is averaged over IoU 0.50, 0.55, ... 0.95 and classes, of up to 100 detections an image. Small, medium and large
    objects are divided at areas of 32 x 32 and 96 x 96 pixels.
    """

    ap: float
    ap50: float  # at IoU 0.50
    ap75: float  # at IoU 0.75
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float  # recall with one detection an image
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: dict[str, float]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The twelve, without the classes."""
        return self[:12]


class DetectionColumns(NamedTuple):
    """Detections of many images as flat arrays."""

    images: np.ndarray  # int64 (n,), ascending positions in the dataset
    boxes_xyxy: np.ndarray  # float32 (n, 4), pixels
    scores: np.ndarray  # float32 (n,)
    labels: np.ndarray  # int64 (n,)


class CocoEvaluator:
    """Detections of a dataset, kept as arrays.

    Several processes evaluate a share of the images each: `state()` of each is sent to one of them, where
    `CocoEvaluator.merged` makes a whole of the states.
    """

    def __init__(self, dataset: DetectionDataset) -> None:
        """Start without detections.

        Args:
            dataset: ground truth. Its labels must be those of the detections; see `DetectionDataset.with_categories`.
        """
        self.dataset = dataset
        self._index_of_id = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
        self._found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def add(self, image_id: int, *, boxes_xyxy: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Add all detections of one image.

        Args:
            image_id: id in the annotation file.
            boxes_xyxy: (n, 4), pixels of the original image.
            scores: (n,).
            labels: (n,), labels of the dataset.

        Raises:
            InputError: the image is unknown or was added before, or a label is not in the dataset.
        """
        if image_id not in self._index_of_id:
            raise InputError(f"expected an image id of {self.dataset.annotations_file}, got {image_id}")
        index = self._index_of_id[image_id]
        if index in self._found:
            raise InputError(f"image {image_id} was added before; give all its detections at once")
        num_classes = len(self.dataset.categories)
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise InputError(
                f"expected labels 0..{num_classes - 1} of {self.dataset.annotations_file}, got "
                f"{labels.min()}..{labels.max()}; open it with the model's categories"
            )
        self._found[index] = (
            np.asarray(boxes_xyxy, np.float32).reshape(-1, 4),
            np.asarray(scores, np.float32),
            np.asarray(labels, np.int64),
        )

    def state(self) -> dict[str, np.ndarray]:
        """Everything added so far as plain arrays, to be sent to another process.

        Returns:
            `images`: int64 (i,), the images added, as positions in the dataset; `counts`: int64 (i,), detections of
            each; `boxes_xyxy` (n, 4), `scores` (n,) and `labels` (n,) of all of them, image after image.
        """
        indices = np.array(sorted(self._found), dtype=np.int64)
        counts = np.array([len(self._found[index][1]) for index in indices.tolist()], dtype=np.int64)
        return {**self.columns()._asdict(), "images": indices, "counts": counts}

    @classmethod
    def merged(cls, dataset: DetectionDataset, states: Iterable[Mapping[str, np.ndarray]]) -> "CocoEvaluator":
        """Join what several processes found.

        An image that more than one of them evaluated, because the images were padded to equal shares, counts once, with
        the detections of the first.

        Args:
            dataset: ground truth, the same in every process.
            states: what `state()` returned in each.
        """
        whole = cls(dataset)
        for state in states:
            ends = np.cumsum(state["counts"]).tolist()
            for index, start, end in zip(state["images"].tolist(), [0, *ends], ends, strict=False):
                rows = slice(start, end)
                whole._found.setdefault(
                    index, (state["boxes_xyxy"][rows], state["scores"][rows], state["labels"][rows])
                )
        return whole

    def columns(self) -> "DetectionColumns":
        """All detections, by image, in the order added."""
        found = sorted(self._found.items())
        boxes, scores, labels = ([parts[column] for _, parts in found] for column in range(3))
        return DetectionColumns(
            images=np.repeat(np.array([index for index, _ in found], np.int64), [len(part) for part in scores]),
            boxes_xyxy=np.concatenate([np.empty((0, 4), np.float32), *boxes]),
            scores=np.concatenate([np.empty(0, np.float32), *scores]),
            labels=np.concatenate([np.empty(0, np.int64), *labels]),
        )

    def summarize(self) -> CocoMetrics:
        """Compute AP and recall of everything added so far.

        Classes do not influence one another, so that many detections are evaluated a few classes at a time: memory
        follows the detections of these, not all.
        """
        found = self.columns()
        counts = np.bincount(found.labels, minlength=len(self.dataset.categories))
        shares = np.split(np.arange(len(counts)), np.flatnonzero(np.diff(counts.cumsum() // _MOST_AT_ONCE)) + 1)
        parts = [self._curves(found, labels) for labels in shares]
        precision, recall = (np.concatenate([part[i] for part in parts], axis=axis) for i, axis in ((0, 2), (1, 1)))
        by_class = {
            name: _mean(precision[:, :, label, 0, -1]) for label, name in enumerate(self.dataset.categories.names)
        }
        return CocoMetrics(*_twelve(precision, recall), per_class=by_class)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Detections in COCO's results format: ids of the annotation file, boxes as [x, y, width, height].

        Of a dataset joined from several, each row has the ids of its image's source, which "source" names.
        """
        names, sources = self.dataset.categories.names, self.dataset.sources
        ids = {source.first: {category.name: category.id for category in source.categories} for source in sources}
        for index, (boxes_xyxy, scores, labels) in sorted(self._found.items()):
            source = self.dataset.source_of(index)
            named = {"source": str(source.annotations_file)} if len(sources) > 1 else {}
            image_id = int(self.dataset.image_ids[index]) - source.id_offset
            boxes = to_xywh(boxes_xyxy).tolist()
            for box, score, label in zip(boxes, scores.tolist(), labels.tolist(), strict=True):
                category_id = ids[source.first].get(names[label])
                if category_id is not None:  # else the source does not know the class
                    yield {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, **named}

    def _curves(self, found: "DetectionColumns", labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Precision (IoU, recall, class, area, detections) and recall (IoU, class, area, detections) of a few classes.

        -1 where a class has no object.
        """
        truth = self._ground_truth(labels)
        rows = np.isin(found.labels, labels)
        boxes = to_xywh(found.boxes_xyxy[rows])
        table = np.column_stack([found.images[rows], boxes, found.scores[rows], found.labels[rows]])
        evaluation = hotcoco.COCOeval(truth, truth.load_res(table), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        if evaluation.eval is None:
            raise AssertionError("accumulate() left no results")
        return evaluation.eval["precision"], evaluation.eval["recall"]

    def _ground_truth(self, labels: np.ndarray) -> hotcoco.COCO:
        """Objects of a few classes, numbered by position: hotcoco needs ids >= 0, a file may have any."""
        columns, names = self.dataset.annotations, self.dataset.categories.names
        rows = np.isin(columns.labels, labels)
        return hotcoco.COCO.from_arrays(
            [{"id": index} for index in range(len(self.dataset))],
            [{"id": label, "name": names[label]} for label in labels.tolist()],
            np.repeat(np.arange(len(self.dataset)), np.diff(columns.starts))[rows],
            columns.labels[rows],
            columns.boxes_xywh[rows],
            area=columns.areas[rows],
            iscrowd=columns.iscrowd[rows],
        )


def _twelve(precision: np.ndarray, recall: np.ndarray) -> tuple[float, ...]:
    """COCO's numbers from the curves: areas are all, small, medium, large; detections 1, 10, 100."""
    curves = precision[..., 2]
    return (
        *(_mean(part) for part in (curves[..., 0], curves[0, ..., 0], curves[5, ..., 0])),
        *(_mean(curves[..., area]) for area in (1, 2, 3)),
        *(_mean(recall[:, :, 0, most]) for most in (0, 1, 2)),
        *(_mean(recall[:, :, area, 2]) for area in (1, 2, 3)),
    )


def _mean(values: np.ndarray) -> float:
    """Mean over what exists; -1 if nothing does."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else -1.0


def to_xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Corners (n, 4) to corner and size, float64."""
    low, high = np.split(boxes_xyxy.astype(np.float64), 2, axis=1)
    return np.concatenate([low, high - low], axis=1)
