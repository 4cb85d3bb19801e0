"""COCO average precision of detections against a `DetectionDataset`: pycocotools' numbers, computed by hotcoco.

Collect detections with `CocoEvaluator.add`, an image at a time and in any order, then `summarize`. Images that were not
added count as images without detections.

Source: https://cocodataset.org/#detection-eval.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import hotcoco
import numpy as np

from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError


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


class CocoEvaluator:
    """Detections of a dataset, kept as arrays."""

    def __init__(self, dataset: DetectionDataset) -> None:
        """Start without detections.

        Args:
            dataset: ground truth. Its labels must be those of the detections; see `DetectionDataset.with_categories`.
        """
        self._dataset = dataset
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
            raise InputError(f"expected an image id of {self._dataset.annotations_file}, got {image_id}")
        index = self._index_of_id[image_id]
        if index in self._found:
            raise InputError(f"image {image_id} was added before; give all its detections at once")
        num_classes = len(self._dataset.categories)
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise InputError(
                f"expected labels 0..{num_classes - 1} of {self._dataset.annotations_file}, got "
                f"{labels.min()}..{labels.max()}; open it with the model's categories"
            )
        self._found[index] = (np.asarray(boxes_xyxy, np.float32), np.asarray(scores, np.float32), np.asarray(labels))

    def summarize(self) -> CocoMetrics:
        """Compute AP and recall of everything added so far."""
        truth = self._ground_truth()
        evaluation = hotcoco.COCOeval(truth, truth.load_res(self._table()), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summary_lines()  # fills stats, without printing
        if evaluation.eval is None:
            raise AssertionError("accumulate() left no results")
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU, recall, class; all areas, 100 detections
        by_class = {}
        for label, name in enumerate(self._dataset.categories.names):
            values = precision[:, :, label]
            by_class[name] = float(values[values > -1].mean()) if (values > -1).any() else -1.0
        return CocoMetrics(*(float(number) for number in evaluation.stats), per_class=by_class)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Detections in COCO's results format: ids of the annotation file, boxes as [x, y, width, height]."""
        ids = self._dataset.categories.ids
        for index, (boxes_xyxy, scores, labels) in sorted(self._found.items()):
            image_id = int(self._dataset.image_ids[index])
            boxes = _xywh(boxes_xyxy).tolist()
            for box, score, label in zip(boxes, scores.tolist(), labels.tolist(), strict=True):
                yield {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}

    def _ground_truth(self) -> hotcoco.COCO:
        """Ground truth numbered by position: hotcoco needs ids >= 0, a file may have any."""
        columns = self._dataset.annotations
        return hotcoco.COCO.from_arrays(
            [{"id": index} for index in range(len(self._dataset))],
            [{"id": label, "name": name} for label, name in enumerate(self._dataset.categories.names)],
            np.repeat(np.arange(len(self._dataset)), np.diff(columns.starts)),
            columns.labels,
            columns.boxes_xywh,
            area=columns.areas,
            iscrowd=columns.iscrowd,
        )

    def _table(self) -> np.ndarray:
        """float64 (detections, 7): image, x, y, width, height, score, label; by image, in the order added."""
        parts = [
            np.column_stack([np.full(len(scores), index), _xywh(boxes_xyxy), scores, labels])
            for index, (boxes_xyxy, scores, labels) in sorted(self._found.items())
        ]
        return np.concatenate([np.empty((0, 7)), *parts])


def _xywh(boxes_xyxy: np.ndarray) -> np.ndarray:
    low, high = np.split(boxes_xyxy.astype(np.float64), 2, axis=1)
    return np.concatenate([low, high - low], axis=1)
