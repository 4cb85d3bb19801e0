"""The files with a run's measurements: metrics.jsonl, steps.csv, epochs.csv and the events of TensorBoard.

`MetricsWriter` keeps them and the experiment trackers that were asked for (`loggers.py`). None of them can end a run.
"""

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically
from rtdetr.reports.loggers import open_logger
from rtdetr.reports.metrics import (
    METRICS_FILE,
    EpochRecord,
    MetricsSink,
    StepRecord,
    flat,
    read_records,
    row_of,
)

_log = logging.getLogger(__name__)
STEPS_FILE, EPOCHS_FILE, BOARD_FOLDER = "steps.csv", "epochs.csv", "tensorboard"
PATIENCE = 3  # failures in a row after which a sink is left alone: some wait minutes for a server before they fail


class MetricsWriter:
    """All sinks of a run as one; on resuming, records past the checkpoint are dropped from the files first.

    A sink that fails is named in a warning, and given up after `PATIENCE` failures in a row.
    """

    def __init__(
        self,
        folder: Path,
        *,
        iteration: int,
        epoch: int,
        loggers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Start or continue the files in `folder`.

        Args:
            folder: of the run.
            iteration: steps made when the run goes on.
            epoch: epochs finished then.
            loggers: experiment trackers to report to as well; see `loggers.py`.
            config: settings of the run that the trackers are told.

        Raises:
            MissingDependencyError: the package of a logger is not installed.
            ConfigError: no logger has that name.
            TrainingError: a file cannot be written, or a tracker cannot be reached.
        """
        trackers = [open_logger(name, folder, config=config or {}) for name in loggers]
        self._sinks: list[MetricsSink] = [
            JsonlSink(folder, iteration=iteration, epoch=epoch),
            CsvSink(folder),
            TensorBoardSink(folder, iteration=iteration),
            *trackers,
        ]
        self._failures: dict[MetricsSink, int] = {}

    def step(self, record: StepRecord) -> None:
        """Log the means of the last steps."""
        self._each(lambda sink: sink.step(record))

    def epoch(self, record: EpochRecord) -> None:
        """Log a finished epoch."""
        self._each(lambda sink: sink.epoch(record))

    def close(self) -> None:
        """Flush and close everything."""
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[MetricsSink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
                self._failures[sink] = 0
            except Exception as error:  # whatever a tracker's client raises, a night's training is worth more
                failures = self._failures[sink] = self._failures.get(sink, 0) + 1
                name, given_up = type(sink).__name__.removesuffix("Sink"), failures >= PATIENCE
                _log.warning(
                    "Could not log to %s: %s: %s. Training continues%s",
                    name,
                    type(error).__name__,
                    error,
                    f" without {name}" if given_up else "",
                )
                if given_up:
                    self._sinks.remove(sink)


class JsonlSink:
    """One line of JSON per record, on the disk at once."""

    def __init__(self, folder: Path, *, iteration: int, epoch: int) -> None:
        """Keep what lies before a run's position: steps made and epochs finished."""
        self._path = folder / METRICS_FILE
        kept = [row for row in read_records(folder) if _is_before(row, iteration, epoch)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self._path, lambda path: path.write_text(text, encoding="utf-8"), error=TrainingError)

    def step(self, record: StepRecord) -> None:
        """Add a line."""
        self._append(row_of(record))

    def epoch(self, record: EpochRecord) -> None:
        """Add a line."""
        self._append(row_of(record))

    def close(self) -> None:
        """Nothing is held back."""

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class CsvSink:
    """The rows of metrics.jsonl as two tables for a spreadsheet, steps.csv and epochs.csv."""

    def __init__(self, folder: Path) -> None:
        """Write what metrics.jsonl has so far."""
        rows = read_records(folder)
        self._steps = _Table(folder / STEPS_FILE, [flat(row) for row in rows if row["kind"] == "step"])
        self._epochs = _Table(folder / EPOCHS_FILE, [flat(row) for row in rows if row["kind"] == "epoch"])

    def step(self, record: StepRecord) -> None:
        """Add a row to steps.csv."""
        self._steps.append(flat(row_of(record)))

    def epoch(self, record: EpochRecord) -> None:
        """Add a row to epochs.csv."""
        self._epochs.append(flat(row_of(record)))

    def close(self) -> None:
        """Nothing is held back."""


class _Table:
    """A CSV file that is rewritten when a row brings a column it has not had."""

    def __init__(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        self._path = path
        self._columns: list[str] = []
        self._write(rows)

    def append(self, row: Mapping[str, Any]) -> None:
        if not set(row) <= set(self._columns):
            with self._path.open(newline="", encoding="utf-8") as file:
                known = list(csv.DictReader(file))
            self._write([*known, row])
            return
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(name for row in rows for name in row))

        def write(path: Path) -> None:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns, lineterminator="\n")
                if rows:
                    writer.writeheader()
                writer.writerows(rows)

        write_atomically(self._path, write, error=TrainingError)


class TensorBoardSink:
    """Scalars under the published names, and the speed and memory of the run."""

    def __init__(self, folder: Path, *, iteration: int) -> None:
        """Go on after `iteration` steps; what the folder has of later ones is hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run needs it

        self._board = SummaryWriter(str(folder / BOARD_FOLDER), purge_step=iteration + 1)

    def step(self, record: StepRecord) -> None:
        """Add the scalars of the last steps."""
        scalars = {"Loss/total": record.loss}
        scalars |= {f"Loss/{name}": value for name, value in record.terms.items()}
        scalars |= {f"Lr/pg_{index}": rate for index, rate in enumerate(record.learning_rates)}
        scalars |= {"Run/images_per_second": record.images_per_second, "Run/data_wait": record.data_wait}
        for name in ("gradient_norm", "memory_gib", "cuda_memory_gib"):
            value = getattr(record, name)
            if value is not None:
                scalars[f"Run/{name}"] = value
        for name, value in scalars.items():
            self._board.add_scalar(name, value, record.iteration)

    def epoch(self, record: EpochRecord) -> None:
        """Add the COCO numbers of an epoch."""
        for index, value in enumerate(record.ap or ()):
            self._board.add_scalar(f"Test/coco_eval_bbox_{index}", value, record.epoch)
        self._board.flush()

    def close(self) -> None:
        """Write what is still held back."""
        self._board.close()


def _is_before(row: Mapping[str, Any], iteration: int, epoch: int) -> bool:
    return row["iteration"] <= iteration if row["kind"] == "step" else row["epoch"] <= epoch
