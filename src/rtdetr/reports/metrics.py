"""What a run measures: the records of its steps and epochs, and what takes them (`MetricsSink`).

`sinks.py` has the files that every run gets, `loggers.py` the experiment trackers that one may ask for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rtdetr.evaluation import CocoMetrics

METRICS_FILE = "metrics.jsonl"
AP_NAMES = CocoMetrics._fields[:12]


class StepRecord(NamedTuple):
    """What was measured over the last few steps.

    Attributes:
        iteration: steps made so far, this one included.
        epoch: the epoch under way, counted from 1.
        loss: mean of the total loss.
        terms: mean of each weighted term.
        learning_rates: of the last step, one per parameter group.
        gradient_norm: mean of the global norm before clipping; None where a float16 step was skipped.
        images_per_second: including the wait for data.
        data_wait: share of the time spent waiting for the loader, in [0, 1].
        memory_gib: resident memory of the training process, GiB; None where the system does not tell.
        cuda_memory_gib: most GPU memory that tensors took up so far, GiB; None on other devices.
    """

    iteration: int
    epoch: int
    loss: float
    terms: dict[str, float]
    learning_rates: list[float]
    gradient_norm: float | None
    images_per_second: float
    data_wait: float
    memory_gib: float | None = None
    cuda_memory_gib: float | None = None


class EpochRecord(NamedTuple):
    """One finished epoch, counted from 1.

    Attributes:
        epoch: its number.
        iteration: steps made so far over the whole run.
        loss: mean of the total loss; None if every step was skipped.
        terms: mean of each weighted term.
        ap: the twelve COCO numbers of the averaged weights; None where they were not evaluated.
        seconds: time spent training.
    """

    epoch: int
    iteration: int
    loss: float | None
    terms: dict[str, float]
    ap: list[float] | None
    seconds: float


@dataclass
class Sums:
    """Totals over some steps, plain values as a checkpoint holds them.

    Attributes:
        terms: each weighted loss term.
        gradient_norm: global norms before clipping.
        waited: seconds that the loader was waited for.
        seconds: of the steps, that wait included.
        images: of all processes.
        steps: how many; skipped ones are not counted.
    """

    terms: dict[str, float] = field(default_factory=dict)
    gradient_norm: float = 0.0
    waited: float = 0.0
    seconds: float = 0.0
    images: int = 0
    steps: int = 0

    def add(
        self, terms: Mapping[str, float], *, gradient_norm: float, num_images: int, waited: float, seconds: float
    ) -> None:
        """Count a step."""
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        self.gradient_norm += gradient_norm
        self.images += num_images
        self.waited += waited
        self.seconds += seconds
        self.steps += 1

    def mean_terms(self) -> dict[str, float]:
        """The mean of each term; none where no step was counted."""
        return {name: value / self.steps for name, value in self.terms.items()}


@runtime_checkable
class MetricsSink(Protocol):
    """Takes the records of a run, in order. It may fail: the run goes on without it."""

    def step(self, record: StepRecord) -> None:
        """Take the means of the last steps."""
        ...

    def epoch(self, record: EpochRecord) -> None:
        """Take a finished epoch."""
        ...

    def close(self) -> None:
        """The run is over, or interrupted."""
        ...


def row_of(record: StepRecord | EpochRecord) -> dict[str, Any]:
    """The record as metrics.jsonl has it."""
    kind = "step" if isinstance(record, StepRecord) else "epoch"
    return {"kind": kind, **record._asdict()}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl as a row of a table: learning rates lr_0, lr_1, ..., the COCO numbers, the terms last."""
    nested = ("kind", "terms", "learning_rates", "ap")
    cells = {name: value for name, value in row.items() if name not in nested}
    if row["kind"] == "step":
        cells |= {f"lr_{index}": rate for index, rate in enumerate(row["learning_rates"])}
    else:
        # -1 stands for a number that the data cannot give
        values = [None if value < 0 else value for value in row["ap"] or ()]
        cells |= dict.fromkeys(AP_NAMES) | dict(zip(AP_NAMES, values, strict=False))
    return cells | row["terms"]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, none without such a file; a line that a kill cut off is left out."""
    path = folder / METRICS_FILE
    rows = []
    # a crash may leave zero bytes, which are no reason to lose the other lines; some editors add a byte-order mark
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
