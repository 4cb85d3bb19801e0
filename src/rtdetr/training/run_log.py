"""The one place a run reports to: it sums what the steps measure and hands the means to the files and the display."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from torch import Tensor

from rtdetr.data import TrainLoader
from rtdetr.structures import Target
from rtdetr.training.checkpoint import Progress
from rtdetr.training.display import RunDisplay
from rtdetr.training.metrics import EpochRecord, MetricsWriter, StepRecord, draw_learning_curve

SECONDS_A_CURVE = 30.0  # drawing it takes a third of a second


class RunLog:
    """Reports steps and epochs to metrics.jsonl, TensorBoard, the learning curve and the display."""

    def __init__(self, folder: Path, progress: Progress, *, num_epochs: int, every: int) -> None:
        """Continue the files in `folder` at `progress`, which the loop moves on; a row is the mean of `every` steps."""
        self._folder = folder
        self._progress = progress
        self._num_epochs = num_epochs
        self._every = every
        self._writer = MetricsWriter(folder, iteration=progress.iteration, epoch=progress.epoch)
        self._display = RunDisplay(num_epochs=num_epochs)
        self._recent, self._epoch, self._process = _Sums(), _Sums(), _Sums()
        self._begin = self._waited = 0.0
        self._drawn = time.perf_counter()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._display.stop_bar()
        self._writer.close()
        if error is None:
            draw_learning_curve(self._folder)

    def say(self, text: str) -> None:
        """Show a line to the person watching."""
        self._display.say(text)

    def batches(self, loader: TrainLoader) -> Iterator[tuple[Tensor, list[Target]]]:
        """Pass the batches of an epoch on, measuring how long each one is waited for and worked on."""
        progress = self._progress
        self._display.start_bar(progress.epoch + 1, done=progress.batch, total=progress.batches_per_epoch)
        self._epoch, self._recent = _Sums(), _Sums()
        iterator = iter(loader)
        while True:
            self._begin = time.perf_counter()
            batch = next(iterator, None)
            self._waited = time.perf_counter() - self._begin
            if batch is None:
                break
            yield batch
        self._display.stop_bar()

    def step(
        self, terms: Mapping[str, float], *, gradient_norm: float, learning_rates: list[float], num_images: int
    ) -> None:
        """Count the step on the latest batch, which `progress` has counted already.

        Args:
            terms: weighted loss terms.
            gradient_norm: global norm before clipping.
            learning_rates: rate of each group.
            num_images: images in the batch.
        """
        seconds = time.perf_counter() - self._begin
        for sums in (self._recent, self._epoch, self._process):
            sums.add(terms, gradient_norm=gradient_norm, num_images=num_images, waited=self._waited, seconds=seconds)
        self._display.advance()
        batch, length = self._progress.batch, self._progress.batches_per_epoch
        if batch % self._every == 0 or batch == length:
            self._report(learning_rates)

    def end_epoch(self, ap: Sequence[float] | None) -> None:
        """Report the epoch under way as finished, with the twelve COCO numbers where it was evaluated.

        Of an epoch that was interrupted, loss and time are those since the run was resumed.
        """
        progress = self._progress
        terms = self._epoch.mean_terms()
        record = EpochRecord(
            epoch=progress.epoch + 1,
            iteration=progress.iteration,
            loss=sum(terms.values()) if terms else None,
            terms=terms,
            ap=None if ap is None else list(ap),
            seconds=self._epoch.seconds,
        )
        self._writer.epoch(record)
        if time.perf_counter() - self._drawn > SECONDS_A_CURVE:
            draw_learning_curve(self._folder)
            self._drawn = time.perf_counter()
        best = None
        if progress.best_ap is not None and progress.best_epoch is not None:
            best = progress.best_ap, progress.best_epoch + 1
        self._display.end_epoch(record, best=best)

    def _report(self, learning_rates: list[float]) -> None:
        recent, progress = self._recent, self._progress
        terms = recent.mean_terms()
        record = StepRecord(
            iteration=progress.iteration,
            epoch=progress.epoch + 1,
            loss=sum(terms.values()),
            terms=terms,
            learning_rates=learning_rates,
            gradient_norm=recent.gradient_norm / recent.steps if math.isfinite(recent.gradient_norm) else None,
            images_per_second=recent.images / recent.seconds,
            data_wait=recent.waited / recent.seconds,
        )
        self._writer.step(record)
        steps_left = (self._num_epochs - progress.epoch) * progress.batches_per_epoch - progress.batch
        seconds_left = steps_left * self._process.seconds / self._process.steps
        self._display.step(record, batch=progress.batch, seconds_left=seconds_left)
        self._recent = _Sums()


class _Sums:
    """Totals over some steps."""

    def __init__(self) -> None:
        self.terms: dict[str, float] = {}
        self.gradient_norm = self.waited = self.seconds = 0.0
        self.images = self.steps = 0

    def add(
        self, terms: Mapping[str, float], *, gradient_norm: float, num_images: int, waited: float, seconds: float
    ) -> None:
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        self.gradient_norm += gradient_norm
        self.images += num_images
        self.waited += waited
        self.seconds += seconds
        self.steps += 1

    def mean_terms(self) -> dict[str, float]:
        return {name: value / self.steps for name, value in self.terms.items()}
