"""Files with the metrics of a run: metrics.jsonl, steps.csv, epochs.csv and TensorBoard events.

`MetricsWriter` writes them and logs to the experiment trackers (`loggers.py`). Their failures do not stop a run.
"""

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically, write_text
from rtdetr.reports.loggers import open_logger
from rtdetr.reports.metrics import METRICS_FILE, EpochRecord, MetricsSink, StepRecord, flat, read_records, row_of

_log = logging.getLogger(__name__)
STEPS_FILE, EPOCHS_FILE, BOARD_FOLDER = "steps.csv", "epochs.csv", "tensorboard"
PATIENCE = 3  # failures in a row before a sink is dropped, because some wait minutes for a server


class MetricsWriter:
    """Combines all sinks of a run. When it is resumed, records after the checkpoint are removed from the files first.

    A failing sink is reported in a warning, and dropped after `PATIENCE` failures in a row.
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
            folder: folder of the run.
            iteration: number of steps so far, at the start or when resuming.
            epoch: number of finished epochs, likewise.
            loggers: experiment trackers to log to; see `loggers.py`.
            config: settings of the run, for the trackers.

        Raises:
            MissingDependencyError: the package of a logger is not installed.
            ConfigError: a logger is unknown.
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
            except Exception as error:  # any error of a tracker's client; training must continue
                failures = self._failures[sink] = self._failures.get(sink, 0) + 1
                name, dropped = type(sink).__name__.removesuffix("Sink"), failures >= PATIENCE
                _log.warning(
                    "Could not log to %s: %s: %s. Training continues%s",
                    name,
                    type(error).__name__,
                    error,
                    f" without {name}" if dropped else "",
                )
                if dropped:
                    self._sinks.remove(sink)


class JsonlSink:
    """Writes one line of JSON per record, without buffering."""

    def __init__(self, folder: Path, *, iteration: int, epoch: int) -> None:
        """Keep the rows of the first `iteration` steps and `epoch` epochs."""
        self._path = folder / METRICS_FILE
        kept = [row for row in read_records(folder) if _is_before(row, iteration, epoch)]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_text(self._path, text, error=TrainingError)

    def step(self, record: StepRecord) -> None:
        """Append a line."""
        self._append(row_of(record))

    def epoch(self, record: EpochRecord) -> None:
        """Append a line."""
        self._append(row_of(record))

    def close(self) -> None:
        """Do nothing; there is no buffer."""

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class CsvSink:
    """Writes the rows of metrics.jsonl as two tables, steps.csv and epochs.csv."""

    def __init__(self, folder: Path) -> None:
        """Write the existing rows of metrics.jsonl."""
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
        """Do nothing; there is no buffer."""


class _Table:
    """A CSV file, rewritten when a row has a new column."""

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
    """Writes scalars with the published names, and the speed and memory use of the run."""

    def __init__(self, folder: Path, *, iteration: int) -> None:
        """Continue after `iteration` steps; events of later steps in the folder are hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

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
        """Flush and close the files."""
        self._board.close()


def _is_before(row: Mapping[str, Any], iteration: int, epoch: int) -> bool:
    return row["iteration"] <= iteration if row["kind"] == "step" else row["epoch"] <= epoch
