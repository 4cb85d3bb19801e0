"""Log of a run: averages the measurements of the steps and passes them to the files and the display."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from rtdetr.data import TrainLoader
from rtdetr.reports.curves import draw_learning_curve
from rtdetr.reports.display import RunDisplay
from rtdetr.reports.environment import peak_cuda_memory_gib, resident_memory_gib
from rtdetr.reports.metrics import EpochRecord, StepRecord, Sums
from rtdetr.reports.progress import Progress
from rtdetr.reports.run_folder import attempt
from rtdetr.reports.sinks import MetricsWriter
from rtdetr.structures import Target

SECONDS_PER_CURVE = 30.0  # minimum interval between drawings, which take half a second


class RunLog:
    """Reports steps and epochs to the files of the run, the experiment trackers, the learning curve and the display."""

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        *,
        num_epochs: int,
        every: int,
        device: torch.device | None = None,
        loggers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Continue the files in `folder` at `progress`, which the training loop updates.

        Args:
            folder: folder of the run.
            progress: progress of the run.
            num_epochs: number of epochs of the run.
            every: number of steps averaged per row of the files.
            device: device with the memory to report.
            loggers: experiment trackers to log to; see `loggers.py`.
            config: settings of the run, for the trackers.

        Raises:
            ConfigError, MissingDependencyError, TrainingError: as for `MetricsWriter`.
        """
        self._folder = folder
        self._progress = progress
        self._num_epochs = num_epochs
        self._every = every
        self._device = device
        self._writer = MetricsWriter(
            folder, iteration=progress.iteration, epoch=progress.epoch, loggers=loggers, config=config
        )
        self._display = RunDisplay(num_epochs=num_epochs)
        self._process = Sums()
        self._begin = self._waited = 0.0
        self._drawn = self._epoch_trained = time.perf_counter()
        self._between_epochs: list[float] = []  # seconds for evaluation and saving

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.stop_bar()
        self._writer.close()

    def say(self, text: str) -> None:
        """Print a line to the display."""
        self._display.say(text)

    def batches(self, loader: TrainLoader) -> Iterator[tuple[Tensor, list[Target]]]:
        """Yield the batches of an epoch, measuring the wait for each batch and the time to process it."""
        progress = self._progress
        self._display.start_bar(progress.epoch + 1, done=progress.batch, total=progress.batches_per_epoch)
        iterator = iter(loader)
        while True:
            self._begin = time.perf_counter()
            batch = next(iterator, None)
            self._waited = time.perf_counter() - self._begin
            if batch is None:
                break
            yield batch
        self._display.stop_bar()
        self._epoch_trained = time.perf_counter()

    def step(
        self, terms: Mapping[str, float] | None, *, gradient_norm: float, learning_rates: list[float], num_images: int
    ) -> None:
        """Record the step on the latest batch, which `progress` already includes.

        Args:
            terms: weighted loss terms; None: the step was skipped and does not count.
            gradient_norm: global norm before clipping.
            learning_rates: learning rate of each parameter group.
            num_images: number of images in the batch.
        """
        seconds = time.perf_counter() - self._begin
        if terms is not None:
            measured = {"num_images": num_images, "waited": self._waited, "seconds": seconds}
            for sums in (self._progress.since_row, self._progress.of_epoch, self._process):
                sums.add(terms, gradient_norm=gradient_norm, **measured)
        self._display.advance()
        batch, length = self._progress.batch, self._progress.batches_per_epoch
        is_row = batch % self._every == 0 or batch == length
        if self._progress.since_row.steps and (is_row or self._display.is_live):
            record = self._record(learning_rates)
            self._display.step(record, batch=batch, seconds_left=self._seconds_left())
            if is_row:
                self._writer.step(record)
                self._progress.since_row = Sums()

    def end_epoch(self, ap: Sequence[float] | None) -> None:
        """Report the current epoch as finished, with the twelve COCO numbers if it was evaluated."""
        progress = self._progress
        terms = progress.of_epoch.mean_terms()
        record = EpochRecord(
            epoch=progress.epoch + 1,
            iteration=progress.iteration,
            loss=sum(terms.values()) if terms else None,
            terms=terms,
            ap=None if ap is None else list(ap),
            seconds=progress.of_epoch.seconds,
        )
        progress.of_epoch = Sums()
        self._writer.epoch(record)
        self._between_epochs.append(time.perf_counter() - self._epoch_trained)
        best = None
        if progress.best_ap is not None and progress.best_epoch is not None:
            best = progress.best_ap, progress.best_epoch + 1
        self._display.end_epoch(record, best=best)
        if time.perf_counter() - self._drawn > SECONDS_PER_CURVE:
            attempt("the learning curve", lambda: draw_learning_curve(self._folder))
            self._drawn = time.perf_counter()

    def _record(self, learning_rates: list[float]) -> StepRecord:
        """The means of the steps since the last row."""
        progress = self._progress
        recent = progress.since_row
        terms = recent.mean_terms()
        return StepRecord(
            iteration=progress.iteration,
            epoch=progress.epoch + 1,
            loss=sum(terms.values()),
            terms=terms,
            learning_rates=learning_rates,
            gradient_norm=recent.gradient_norm / recent.steps if math.isfinite(recent.gradient_norm) else None,
            images_per_second=recent.images / recent.seconds,
            data_wait=recent.waited / recent.seconds,
            memory_gib=resident_memory_gib(),
            cuda_memory_gib=peak_cuda_memory_gib(self._device),
        )

    def _seconds_left(self) -> float:
        """Estimate from the steps of this process and, after the first one, its evaluations."""
        epochs_left = self._num_epochs - self._progress.epoch
        steps_left = epochs_left * self._progress.batches_per_epoch - self._progress.batch
        pauses = self._between_epochs
        pause = sum(pauses) / len(pauses) if pauses else 0.0
        return steps_left * self._process.seconds / self._process.steps + epochs_left * pause


class SilentLog:
    """A `RunLog` that does nothing, for all processes except the main one."""

    def __enter__(self) -> "SilentLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def say(self, text: str) -> None:
        """Do nothing."""

    def batches(self, loader: TrainLoader) -> Iterator[tuple[Tensor, list[Target]]]:
        """Yield the batches of an epoch."""
        yield from loader

    def step(
        self, terms: Mapping[str, float] | None, *, gradient_norm: float, learning_rates: list[float], num_images: int
    ) -> None:
        """Do nothing."""

    def end_epoch(self, ap: Sequence[float] | None) -> None:
        """Do nothing."""
