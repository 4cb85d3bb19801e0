"""COCO average precision for Trainer and your own loops, from detections collected batch by batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rtdetr.data import DetectionDataset
from rtdetr.detections import MAX_DETECTIONS
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
    """The twelve COCO metrics as `map`, `map_50`, ..., `mar_large`; Trainer logs them as `eval_map` etc.

    With Trainer, in one or several processes:

        metric = CocoMetric(val_dataset)
        Trainer(..., compute_metrics=metric, preprocess_logits_for_metrics=metric.collect)

    In a loop, call `metric.add(outputs, labels)` for each batch of each process, then `metric.compute()` in all
    processes.

    Only the detections are kept, 8 kB per image on disk; logits, hidden states and labels are released with the batch.
    """

    def __init__(
        self, dataset: DetectionDataset, *, per_class: bool = False, max_detections: int = MAX_DETECTIONS
    ) -> None:
        """Create a metric without detections.

        Args:
            dataset: ground truth, including crowd regions; the labels are not used.
            per_class: also report the average precision per class, as `map_NAME`.
            max_detections: maximum number of detections per image.
        """
        self.dataset, self._per_class, self._max_detections = dataset, per_class, max_detections
        self._evaluator = CocoEvaluator(dataset)

    def add(self, outputs: Any, labels: Sequence[Mapping[str, Tensor]]) -> None:
        """Add the detections of a batch; for an image that occurs twice, the last ones count.

        Args:
            outputs: output of the model in eval mode: `logits` (b, q, k) and `pred_boxes` (b, q, 4), normalized cxcywh.
            labels: `image_id` and `orig_size` (height, width) of each image, which was stretched, not padded.
        """
        self._add(outputs.logits, outputs.pred_boxes, labels)

    def compute(self) -> dict[str, float]:
        """Return the metrics over all processes, -1 if there are no such objects, and reset.

        Call it in every process; all get the same result.
        """
        evaluator, self._evaluator = self._evaluator, CocoEvaluator(self.dataset)
        processes = _processes()
        if processes.world_size > 1:
            evaluator = evaluator.gathered(processes.gather)
        numbers = self._numbers(evaluator) if processes.is_main else {}
        return processes.gather_all(numbers)[0]

    def collect(self, predictions: Any, labels: Any) -> Any:
        """Use as `preprocess_logits_for_metrics` of Trainer: add a batch in its own process, before it is gathered.

        Returns:
            The image ids of the batch, which Trainer gathers from all processes instead of the model outputs.
        """
        if labels is None:
            return predictions
        logits, boxes = _logits_and_boxes(predictions)
        self._add(logits, boxes, labels)
        image_ids = torch.cat([label["image_id"].reshape(1) for label in labels])
        # Trainer would gather the labels next; their shapes differ between processes, so gloo would abort
        labels.clear()
        return image_ids

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Use as `compute_metrics` of Trainer, with or without `batch_eval_metrics`: metrics after the last batch.

        Raises:
            InputError: no detections were collected.
        """
        if not compute_result:
            return {}
        if not any(_processes().gather_all(self._evaluator.num_added > 0)):
            raise InputError(
                "CocoMetric has no detections; also pass preprocess_logits_for_metrics=metric.collect to Trainer"
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
    """Return the first two tensors (b, q, ...) of the model outputs, which come without the loss."""
    tensors = [part for part in predictions if isinstance(part, Tensor) and part.ndim == 3][:2]
    if len(tensors) < 2 or tensors[1].shape[-1] != 4:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "none"
        raise InputError(f"expected logits (b, q, k) and boxes (b, q, 4) among the predictions, got {shapes}")
    return tensors[0], tensors[1]


def _processes() -> Processes:
    """Return the process group that Trainer or Accelerate initialized."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(rank=dist.get_rank(), world_size=dist.get_world_size())
