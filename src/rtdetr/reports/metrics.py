"""Metrics of a run: records of steps and epochs, and the protocol of their consumers (`MetricsSink`).

`sinks.py` writes the files of every run, `loggers.py` logs to experiment trackers.
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
    """Measurements over the last few steps.

    Attributes:
        iteration: number of steps so far, including this one.
        epoch: current epoch, counted from 1.
        loss: mean of the total loss.
        terms: mean of each weighted term.
        learning_rates: learning rates of the last step, one per parameter group.
        gradient_norm: mean of the global norm before clipping; None if a float16 step was skipped.
        images_per_second: throughput, including the wait for data.
        data_wait: fraction of the time spent waiting for the loader, in [0, 1].
        memory_gib: resident memory of the training process, GiB; None if unknown.
        cuda_memory_gib: peak GPU memory of tensors so far, GiB; None on other devices.
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
    """Measurements of a finished epoch.

    Attributes:
        epoch: the epoch, counted from 1.
        iteration: number of steps so far in the whole run.
        loss: mean of the total loss; None if every step was skipped.
        terms: mean of each weighted term.
        ap: the twelve COCO numbers of the EMA weights; None if they were not evaluated.
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
    """Sums over some steps, as plain values for checkpoints.

    Attributes:
        terms: sum of each weighted loss term.
        gradient_norm: sum of the global norms before clipping.
        waited: seconds spent waiting for the loader.
        seconds: duration of the steps in seconds, including that wait.
        images: number of images, over all processes.
        steps: number of steps, without skipped ones.
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
        """Add a step."""
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value
        self.gradient_norm += gradient_norm
        self.images += num_images
        self.waited += waited
        self.seconds += seconds
        self.steps += 1

    def mean_terms(self) -> dict[str, float]:
        """Return the mean of each term; empty without steps."""
        return {name: value / self.steps for name, value in self.terms.items()}


@runtime_checkable
class MetricsSink(Protocol):
    """Consumes the records of a run, in order. If it fails, the run continues without it."""

    def step(self, record: StepRecord) -> None:
        """Record the means of the last steps."""
        ...

    def epoch(self, record: EpochRecord) -> None:
        """Record a finished epoch."""
        ...

    def close(self) -> None:
        """Close at the end of the run, or when it is interrupted."""
        ...


def row_of(record: StepRecord | EpochRecord) -> dict[str, Any]:
    """Return the record as a row of metrics.jsonl."""
    kind = "step" if isinstance(record, StepRecord) else "epoch"
    return {"kind": kind, **record._asdict()}


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """Flatten a row of metrics.jsonl: learning rates lr_0, lr_1, ..., or COCO numbers, and then the loss terms."""
    nested = ("kind", "terms", "learning_rates", "ap")
    cells = {name: value for name, value in row.items() if name not in nested}
    if row["kind"] == "step":
        cells |= {f"lr_{index}": rate for index, rate in enumerate(row["learning_rates"])}
    else:
        # -1: cannot be measured on this data
        values = [None if value < 0 else value for value in row["ap"] or ()]
        cells |= dict.fromkeys(AP_NAMES) | dict(zip(AP_NAMES, values, strict=False))
    return cells | row["terms"]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl; empty without the file. Incomplete lines are skipped."""
    path = folder / METRICS_FILE
    rows = []
    # a crash may leave zero bytes, and some editors add a byte order mark; the other lines are still read
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.exists() else ""
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
