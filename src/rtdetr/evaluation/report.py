"""Result of an evaluation: the numbers, a table of them, and the detections as a COCO results file.

The twelve COCO numbers come from `coco.py`, the others from `precision.py`, `operating_points.py` and `error_types.py`,
based on `matching.py`. `plots.py` and `worst_images.py` visualize them.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.errors import InputError
from rtdetr.evaluation.coco import CocoEvaluator, CocoMetrics
from rtdetr.evaluation.error_kinds import KINDS
from rtdetr.evaluation.error_types import ErrorTypes, error_types
from rtdetr.evaluation.matching import Matches, match
from rtdetr.evaluation.operating_points import (
    ClassResult,
    Curves,
    best_thresholds,
    class_results,
    confusion_matrix,
    is_shown,
    score_curves,
)
from rtdetr.evaluation.precision import Interval, PrecisionTable
from rtdetr.files import write_atomically
from rtdetr.wording import counted, padded, width_of

_ROWS = (
    ("AP", "IoU 0.50:0.95"),
    ("AP50", "IoU 0.50"),
    ("AP75", "IoU 0.75"),
    ("AP small", "area < 32 x 32"),
    ("AP medium", "area < 96 x 96"),
    ("AP large", "area above"),
    ("AR 1", "recall, 1 detection per image"),
    ("AR 10", "recall, 10 detections per image"),
    ("AR 100", "recall, 100 detections per image"),
    ("AR small", "recall, 100 detections per image"),
    ("AR medium", "recall, 100 detections per image"),
    ("AR large", "recall, 100 detections per image"),
)
_CLASS_COLUMNS = ("objects", "AP", "AP50", "P", "R", "F1", "threshold", "TP", "FP")


@dataclass(frozen=True)
class EvaluationReport:
    """Result of `evaluate_dataset`. Further results are computed from the detections on first access.

    Attributes:
        metrics: the COCO numbers.
        evaluator: all detections.
        num_images: number of images.
        seconds: time for reading and detection; 0: unknown.
    """

    metrics: CocoMetrics
    evaluator: CocoEvaluator
    num_images: int
    seconds: float

    @classmethod
    def of(cls, evaluator: CocoEvaluator, *, seconds: float = 0.0) -> "EvaluationReport":
        """Evaluate the detections of an evaluator, for example one merged from several processes."""
        return cls(evaluator.summarize(), evaluator, num_images=len(evaluator.dataset), seconds=seconds)

    @property
    def names(self) -> list[str]:
        """Class names by label."""
        return self.evaluator.dataset.categories.names

    @cached_property
    def matches(self) -> Matches:
        """Matches between detections and objects."""
        return match(self.evaluator)

    @cached_property
    def precision(self) -> PrecisionTable:
        """Precision over recall for each class and IoU threshold."""
        return PrecisionTable(self.matches)

    @cached_property
    def best_f1_thresholds(self) -> list[float]:
        """Score threshold with the best F1 at IoU 0.5, by label; 0.5 for a class without true positives."""
        return best_thresholds(self.matches).tolist()

    @cached_property
    def curves(self) -> Curves:
        """Precision, recall and F1 per class over the score threshold, at IoU 0.5."""
        return score_curves(self.matches)

    @cached_property
    def classes(self) -> list[ClassResult]:
        """AP, precision, recall, F1 and counts of each class, by label."""
        thresholds = np.asarray(self.best_f1_thresholds)
        average = self.precision.average()
        return class_results(self.matches, thresholds, names=self.names, average_precision=average)

    @cached_property
    def confusion(self) -> np.ndarray:
        """Confusion matrix, int64 (classes + 1, classes + 1): rows true, columns predicted, background last."""
        return confusion_matrix(self.matches, np.asarray(self.best_f1_thresholds))

    @cached_property
    def errors(self) -> ErrorTypes:
        """Number of errors by kind, and the AP50 that each kind costs."""
        return error_types(self.matches)

    @cached_property
    def false_positives_per_empty_image(self) -> float | None:
        """Detections above the best F1 thresholds per image without objects; None if there are no such images."""
        is_empty = np.diff(self.evaluator.dataset.annotations.starts) == 0
        shown = is_shown(self.matches, np.asarray(self.best_f1_thresholds))
        return float(is_empty[self.matches.images[shown]].sum() / is_empty.sum()) if is_empty.any() else None

    def intervals(self, *, num_resamples: int = 200, seed: int = 0) -> dict[str, Interval]:
        """95% confidence intervals of AP ("ap") and AP50 ("ap50"), by bootstrap; see `PrecisionTable.bootstrap`."""
        return self.precision.bootstrap(num_resamples=num_resamples, seed=seed)

    @property
    def detections(self) -> list[dict[str, Any]]:
        """All detections in COCO results format, with the ids of the annotation file and boxes as xywh."""
        return list(self.evaluator.rows())

    def table(self, *, intervals: Mapping[str, Interval] | None = None) -> str:
        """Format all numbers as text, with AP and other fractions in percent; "-" if the data has no such objects.

        Args:
            intervals: result of `intervals()`, shown next to AP and AP50.
        """
        notes = [note for _, note in _ROWS]
        for row, name in enumerate(("ap", "ap50")):
            if intervals and name in intervals:
                low, high = intervals[name]
                notes[row] += f"; 95 % confidence {percent(low)} to {percent(high)}"
        values = zip(_ROWS, self.metrics.numbers, notes, strict=True)
        lines = [f"{name:<10}{percent(value):>6}   {note}" for (name, _), value, note in values]
        lines += ["", *self._class_lines(), "", *self._error_lines()]
        speed = f" in {self.seconds:.1f} s, {self.num_images / self.seconds:.1f} images/s" if self.seconds else ""
        return "\n".join([*lines, "", f"{counted(self.num_images, 'image')}{speed}"])

    def _class_lines(self) -> list[str]:
        width = max(map(width_of, ("class", *self.names)))
        lines = [padded("class", width) + "".join(f"{name:>{_width(name)}}" for name in _CLASS_COLUMNS)]
        for row in self.classes:
            numbers = (row.ap, row.ap50, row.precision, row.recall, row.f1)
            cells = [str(row.objects), *map(percent, numbers), "-" if row.threshold is None else f"{row.threshold:.3f}"]
            cells += [str(row.true_positives), str(row.false_positives)]
            aligned = zip(cells, _CLASS_COLUMNS, strict=True)
            lines.append(padded(row.name, width) + "".join(f"{cell:>{_width(name)}}" for cell, name in aligned))
        return [*lines, "P, R and F1 are at IoU 0.50 and the score threshold with the best F1 of each class"]

    def _error_lines(self) -> list[str]:
        errors = self.errors
        lines = [f"{'errors':<14}{'count':>8}{'cost in AP50':>15}"]
        for kind in KINDS:
            cost = errors.ap50_cost[kind]
            lines.append(f"{kind:<14}{errors.counts[kind]:>8}{'-' if cost is None else f'{100 * cost:.1f}':>15}")
        empty = self.false_positives_per_empty_image
        return lines if empty is None else [*lines, "", f"{empty:.3f} false positives per image without objects"]

    def to_json(self, *, intervals: Mapping[str, Interval] | None = None) -> dict[str, Any]:
        """Return all numbers as plain values for JSON; confusion matrix rows are true, columns predicted classes.

        Args:
            intervals: result of `intervals()`.
        """
        numbers = {name: value for name, value in self.metrics._asdict().items() if name != "per_class"}
        return {
            "metrics": {name: None if value < 0 else value for name, value in numbers.items()},
            "confidence_95": {name: list(interval) for name, interval in (intervals or {}).items()},
            "classes": [
                {"category_id": number, **row._asdict()}
                for number, row in zip(self.evaluator.dataset.categories.ids, self.classes, strict=True)
            ],
            "confusion": {"names": [*self.names, "background"], "counts": self.confusion.tolist()},
            "errors": {
                kind: {"count": self.errors.counts[kind], "ap50_cost": self.errors.ap50_cost[kind]} for kind in KINDS
            },
            "false_positives_per_empty_image": self.false_positives_per_empty_image,
            "num_images": self.num_images,
            "seconds": self.seconds,
        }

    def save_detections(self, path: str | os.PathLike[str]) -> Path:
        """Write all detections as a COCO results file, readable by `loadRes` of pycocotools.

        Raises:
            InputError: the file cannot be written; an existing file is unchanged.
        """

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                file.write("[")
                for position, row in enumerate(self.evaluator.rows()):
                    file.write((",\n" if position else "") + json.dumps(row))
                file.write("]\n")

        return write_atomically(Path(path), write, error=InputError)


def percent(value: float | None) -> str:
    """Format a fraction in percent; "-" for None and for COCO's -1."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def _width(column: str) -> int:
    return max(len(column) + 2, 8)
