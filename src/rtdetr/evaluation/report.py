"""What an evaluation found: the numbers, a table of them, and the detections as a COCO results file."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtdetr.errors import InputError
from rtdetr.evaluation.coco import CocoEvaluator, CocoMetrics
from rtdetr.files import write_atomically

_ROWS = (
    ("AP", "IoU 0.50:0.95"),
    ("AP50", "IoU 0.50"),
    ("AP75", "IoU 0.75"),
    ("AP small", "area < 32 x 32"),
    ("AP medium", "area < 96 x 96"),
    ("AP large", "area above"),
    ("AR 1", "recall, 1 detection an image"),
    ("AR 10", "recall, 10 detections an image"),
    ("AR 100", "recall, 100 detections an image"),
    ("AR small", "recall, 100 detections an image"),
    ("AR medium", "recall, 100 detections an image"),
    ("AR large", "recall, 100 detections an image"),
)
_CLASSES_A_LINE = 3


@dataclass(frozen=True)
class EvaluationReport:
    """Result of `evaluate_dataset`.

    Attributes:
        metrics: the COCO numbers.
        evaluator: holds all detections.
        num_images: images evaluated.
        seconds: time for reading the images and detecting.
    """

    metrics: CocoMetrics
    evaluator: CocoEvaluator
    num_images: int
    seconds: float

    @property
    def detections(self) -> list[dict[str, Any]]:
        """All detections in COCO's results format, with the ids of the annotation file and boxes as xywh."""
        return list(self.evaluator.rows())

    def table(self) -> str:
        """The twelve numbers and the AP of each class in percent; "-" where the data has no such object."""
        lines = [
            f"{name:<10}{_percent(value):>6}   {note}"
            for (name, note), value in zip(_ROWS, self.metrics.numbers, strict=True)
        ]
        classes = self.metrics.per_class
        width = max(map(len, classes))
        cells = [f"{name:<{width}}{_percent(ap):>6}" for name, ap in classes.items()]
        height = -(-len(cells) // _CLASSES_A_LINE)
        lines += ["", "AP by class"] + ["   ".join(cells[row::height]) for row in range(height)]
        rate = self.num_images / max(self.seconds, 1e-9)
        return "\n".join([*lines, "", f"{self.num_images} images in {self.seconds:.1f} s, {rate:.1f} images/s"])

    def save_detections(self, path: str | os.PathLike[str]) -> Path:
        """Write all detections as a COCO results file, which pycocotools' `loadRes` reads.

        Raises:
            InputError: the file cannot be written; what was there before is untouched.
        """

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8") as file:
                file.write("[")
                for position, row in enumerate(self.evaluator.rows()):
                    file.write((",\n" if position else "") + json.dumps(row))
                file.write("]\n")

        return write_atomically(Path(path), write, error=InputError)


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"
