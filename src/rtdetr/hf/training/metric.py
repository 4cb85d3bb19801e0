"""COCO average precision for Trainer and for loops of one's own, from detections that are collected batch by batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError
from rtdetr.evaluation import CocoEvaluator, CocoMetrics
from rtdetr.models.postprocess import postprocess
from rtdetr.training.distributed import Processes

NAMES = dict(
    zip(
        CocoMetrics._fields[:12],
        "map map_50 map_75 map_small map_medium map_large mar_1 mar_10 mar_100 mar_small mar_medium mar_large".split(),
        strict=True,
    )
)


class CocoMetric:
    """The twelve COCO numbers under the names `map`, `map_50`, ..., `mar_large`; Trainer logs them as `eval_map` etc.

    Under Trainer, in one process or several:

        metric = CocoMetric(val_dataset)
        Trainer(..., compute_metrics=metric, preprocess_logits_for_metrics=metric.collect)

    In a loop: `metric.add(outputs, labels)` for each batch, in each process its own, then `metric.compute()` in all.

    Kept of an image are its detections, 8 kB on disk; logits, hidden states and labels are forgotten with the batch.
    """

    def __init__(self, dataset: DetectionDataset, *, per_class: bool = False, max_detections: int = 300) -> None:
        """Start without detections.

        Args:
            dataset: ground truth, crowd regions included; it is not taken from the labels.
            per_class: give each class's average precision as well, as `map_NAME`.
            max_detections: the most of an image.
        """
        self.dataset, self._per_class, self._max_detections = dataset, per_class, max_detections
        self._evaluator = CocoEvaluator(dataset)

    def add(self, outputs: Any, labels: Sequence[Mapping[str, Tensor]]) -> None:
        """Take the detections of a batch; of an image that comes twice, the last ones.

        Args:
            outputs: of the model in eval mode: `logits` (b, q, k) and `pred_boxes` (b, q, 4), normalized cxcywh.
            labels: `image_id` and `orig_size` (height, width) of each image, which was stretched, not padded.
        """
        self._add(outputs.logits, outputs.pred_boxes, labels)

    def compute(self) -> dict[str, float]:
        """Return the numbers for what was added in all processes, -1 where there is no such object, and start anew.

        Every process has to call it, and gets the same.
        """
        evaluator, self._evaluator = self._evaluator, CocoEvaluator(self.dataset)
        processes = _processes()
        if processes.world_size > 1:
            evaluator = evaluator.gathered(processes.gather)
        numbers = self._numbers(evaluator) if processes.is_main else {}
        return processes.gather_all(numbers)[0]

    def collect(self, predictions: Any, labels: Any) -> Any:
        """For Trainer's `preprocess_logits_for_metrics`: take a batch where it was computed, before it is gathered.

        Returns:
            The ids of the batch's images: Trainer gathers these from all processes instead of the model's outputs.
        """
        if labels is None:
            return predictions
        logits, boxes = _logits_and_boxes(predictions)
        self._add(logits, boxes, labels)
        image_ids = torch.cat([label["image_id"].reshape(1) for label in labels])
        # Trainer would gather the labels next, whose shapes differ between processes: gloo aborts
        labels.clear()
        return image_ids

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """For Trainer's `compute_metrics`, with `batch_eval_metrics` or without: the numbers after the last batch.

        Raises:
            InputError: nothing was collected.
        """
        if not compute_result:
            return {}
        if not any(_processes().gather_all(self._evaluator.num_added > 0)):
            raise InputError(
                "CocoMetric has no detections: give Trainer preprocess_logits_for_metrics=metric.collect as well"
            )
        return self.compute()

    def _add(self, logits: Tensor, boxes: Tensor, labels: Sequence[Mapping[str, Tensor]]) -> None:
        sizes_wh = torch.stack([label["orig_size"].flip(0) for label in labels]).to(boxes.device)
        found = postprocess(logits, boxes, sizes_wh=sizes_wh, max_detections=self._max_detections)
        classes, boxes_xyxy, scores = (part.float().cpu().numpy() for part in found)
        for i, label in enumerate(labels):
            self._evaluator.add(
                int(label["image_id"]),
                boxes_xyxy=boxes_xyxy[i],
                scores=scores[i],
                labels=classes[i].astype(np.int64),
                replace=True,
            )

    def _numbers(self, evaluator: CocoEvaluator) -> dict[str, float]:
        metrics = evaluator.summarize()
        numbers = {NAMES[name]: value for name, value in zip(NAMES, metrics.numbers, strict=True)}
        if self._per_class:
            numbers |= {f"map_{name}": value for name, value in metrics.per_class.items()}
        return numbers


def _logits_and_boxes(predictions: Any) -> tuple[Tensor, Tensor]:
    """The first two tensors (b, q, ...) of the model's outputs, without the loss, in their order."""
    tensors = [part for part in predictions if isinstance(part, Tensor) and part.ndim == 3][:2]
    if len(tensors) < 2 or tensors[1].shape[-1] != 4:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
        raise InputError(f"expected logits (b, q, k) and boxes (b, q, 4) among the predictions, got {shapes}")
    return tensors[0], tensors[1]


def _processes() -> Processes:
    """The processes that Trainer or Accelerate joined."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(rank=dist.get_rank(), world_size=dist.get_world_size())
