"""A run that is ready to start, as used by the loop (`train.py`) and the steps (`step.py`). `setup.py` builds it."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtdetr.categories import Categories
from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.detections import Detections, Detector
from rtdetr.evaluation import CocoEvaluator, EvaluationReport
from rtdetr.evaluation.evaluate import detect_dataset
from rtdetr.losses import Criterion, Distillation
from rtdetr.models import RTDETR
from rtdetr.training.checkpoint import TrainingState
from rtdetr.training.distributed import Processes
from rtdetr.training.pseudo_labels import PseudoLabels
from rtdetr.training.teacher import Teacher
from rtdetr.weights import metadata

MakeDetector = Callable[[RTDETR, Categories, str], Detector]  # the last argument is the device


@dataclass(frozen=True)
class Job:
    """A run that is ready to start. Only `state` changes during training.

    Attributes:
        config: the final settings.
        folder: output folder.
        device: where the network runs.
        dtype: compute type of the network; weights, loss and optimizer stay float32.
        train_data: training dataset.
        val_data: validation dataset, with the labels of `train_data`; None: no evaluation.
        loader: this process's share of the batches of `train_data`.
        criterion: the training objective.
        teacher: the trained detector that guides the training; None: without.
        pseudo_labels: labels of the images without annotations, at the end of `train_data`; None: no such images.
        distillation: loss terms of the teacher.
        make_detector: builds the detector to evaluate from the averaged model.
        state: model, EMA, optimizer, gradient scaler and progress.
        processes: the processes that share each batch.
        network: `state.model`, wrapped in DistributedDataParallel if there are several processes.
        log: logger for messages to the user.
        description: text of plan.txt; empty except in the main process.
        fingerprints: fingerprints of the datasets, saved in checkpoints; see `fingerprint.py`.
    """

    config: TrainConfig
    folder: Path
    device: torch.device
    dtype: torch.dtype
    train_data: DetectionDataset
    val_data: DetectionDataset | None
    loader: TrainLoader
    criterion: Criterion
    teacher: Teacher | None
    pseudo_labels: PseudoLabels | None
    distillation: Distillation
    make_detector: MakeDetector
    state: TrainingState
    processes: Processes
    network: nn.Module
    log: logging.Logger
    description: str
    fingerprints: dict[str, torch.Tensor]

    @property
    def num_labelled(self) -> int:
        """Number of images of `train_data` with annotations, which come first."""
        return len(self.train_data) - (0 if self.pseudo_labels is None else len(self.pseudo_labels.images))

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory layout of images and convolution weights."""
        return torch.channels_last if self.config.channels_last else torch.contiguous_format

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of a checkpoint: the model, its classes and the settings of the run."""
        about_model = metadata(self.state.ema.module.config, self.train_data.categories)
        thresholds = self.state.progress.thresholds
        about_model |= {} if thresholds is None else {"thresholds": thresholds}
        return {**about_model, "training": self.config.model_dump(mode="json")}

    def is_evaluated(self, epoch: int) -> bool:
        """Whether an evaluation follows this epoch, counted from 0."""
        every, is_last = self.config.evaluate_every, epoch + 1 == self.config.recipe.epochs
        return self.val_data is not None and ((epoch + 1) % every == 0 or is_last)

    @property
    def should_stop_early(self) -> bool:
        """Whether `early_stopping` evaluations in a row brought no improvement."""
        limit = self.config.early_stopping
        return limit is not None and self.state.progress.evaluations_since_best >= limit

    def selection_metric(self, report: EvaluationReport) -> float:
        """Return the value of the metric that selects the best weights."""
        return float(getattr(report.metrics, self.config.best_metric))

    def evaluate(self) -> EvaluationReport | None:
        """Evaluate the averaged model on the validation data; each process takes its share of the images.

        Returns:
            The report in the main process; None in the others.
        """
        assert self.val_data is not None
        started = time.perf_counter()
        processes = self.processes
        # without synchronized batch norm the running statistics differ per process; those of the main process are saved
        processes.broadcast_tensors(self.state.ema.module.buffers())
        indices = range(processes.rank, len(self.val_data), processes.world_size)
        evaluator = self.detect(self.state.ema.module, self.val_data, indices=indices)
        if processes.world_size > 1:
            evaluator = evaluator.gathered(processes.gather)
            if not processes.is_main:
                return None
        return EvaluationReport.of(evaluator, seconds=time.perf_counter() - started)

    def detect(self, model: RTDETR, dataset: DetectionDataset, *, indices: Sequence[int]) -> CocoEvaluator:
        """Collect the detections of a model on some images of a dataset with the labels of `train_data`."""
        detector = self.make_detector(model, self.train_data.categories, str(self.device))

        def predict(images: list[Any]) -> list[Detections]:
            found = detector(images, threshold=0.0, batch_size=len(images))
            return found if isinstance(found, list) else [found]

        return detect_dataset(
            predict,
            dataset,
            indices=indices,
            num_channels=detector.in_channels,
            batch_size=max(1, self.config.recipe.batch_size // self.processes.world_size),
            progress=self.processes.is_main,
        )
