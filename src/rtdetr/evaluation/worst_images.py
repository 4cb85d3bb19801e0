"""Find the images with the worst detections, and draw them with the errors marked.

Detections above the best F1 threshold of their class are compared with the objects at IoU 0.5.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from rtdetr.data import DetectionDataset
from rtdetr.detections import Detections
from rtdetr.drawing import Color, draw
from rtdetr.errors import InputError
from rtdetr.evaluation.coco import counting_rows
from rtdetr.evaluation.error_kinds import DETECTION_KINDS
from rtdetr.evaluation.operating_points import is_shown
from rtdetr.files import write_atomically
from rtdetr.fonts import FontPath, shown_names

if TYPE_CHECKING:
    from rtdetr.evaluation.report import EvaluationReport

RIGHT, WRONG, MISSED, IGNORED = (40, 170, 90), (225, 60, 60), (250, 170, 30), (130, 130, 130)
_SMALLEST_SIDE = 480  # smaller images are enlarged to make room for labels
_GAP = 8
_NOTES = tuple("wrong class" if kind == "class" else kind for kind in DETECTION_KINDS)


def worst_images(report: "EvaluationReport", dataset: DetectionDataset, n: int = 12) -> list[tuple[int, float]]:
    """Return ids and badness of the images with the worst errors, worst first; images without errors are left out.

    Badness is the sum of the scores of wrong detections, plus 1 for each missed object, minus the score of a detection
    below the threshold that matches it.

    Args:
        report: report of an evaluation on `dataset`.
        dataset: the images, with classes in any order.
        n: maximum number of images.
    """
    matches = report.matches
    shown = is_shown(matches, np.asarray(report.best_f1_thresholds))
    wrong, hits = shown & (matches.found < 0), matches.found >= 0
    badness = np.zeros(len(dataset))  # bincount of an empty array returns integers
    badness += np.bincount(matches.images[wrong], matches.scores[wrong], minlength=len(dataset))
    cost = np.ones(len(matches.object_labels))
    cost[matches.found[hits]] -= matches.scores[hits]
    cost[matches.found[hits & shown]] = 0
    badness += np.bincount(matches.object_images, cost, minlength=len(dataset))
    worst = np.argsort(-badness, kind="stable")[:n]
    return [(int(dataset.image_ids[index]), float(badness[index])) for index in worst if badness[index] > 0]


def draw_comparison(
    report: "EvaluationReport", dataset: DetectionDataset, image_id: int, *, font: FontPath = None
) -> Image.Image:
    """Draw the ground truth of an image next to its detections: correct in green, wrong in red, missed in amber.

    Wrong detections are labeled with the kind of error (`error_types`). Crowd regions and detections on them are gray.
    `font` is a font file for class names, see `drawing.draw`.

    Raises:
        InputError: the image is not in the dataset, or the font cannot be read.
        DatasetError: the image is missing or damaged.
    """
    indices = np.flatnonzero(dataset.image_ids == image_id)
    if len(indices) == 0:
        raise InputError(f"expected an image id of the dataset, got {image_id}")
    index = int(indices[0])
    rows, boxes_xyxy = _above_threshold(report, index)
    image = dataset.view(index)
    scale = max(1.0, _SMALLEST_SIDE / min(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    names = shown_names(report.names, font=font)  # every box is drawn as its own class
    halves = [
        _Boxes.of_objects(report, index, names, found=set(report.matches.found[rows].tolist())),
        _Boxes.of_detections(report, rows, boxes_xyxy, names),
    ]
    halves = [boxes.draw(image, scale=scale, font=font) for boxes in halves]
    both = Image.new("RGB", (2 * image.width + _GAP, image.height), "white")
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (image.width + _GAP, 0))
    return both


def save_worst_images(
    report: "EvaluationReport", dataset: DetectionDataset, folder: Path, *, n: int = 12, font: FontPath = None
) -> list[Path]:
    """Write comparisons of the worst images, named by rank and image id; see `draw_comparison`.

    Raises:
        InputError: a file cannot be written, or the font cannot be read.
        DatasetError: an image is missing or damaged.
    """
    paths = []
    for rank, (image_id, _) in enumerate(worst_images(report, dataset, n), start=1):
        image = draw_comparison(report, dataset, image_id, font=font)
        path = folder / f"{rank:02d}_{image_id}.jpg"
        paths.append(write_atomically(path, partial(image.save, format="JPEG", quality=92), error=InputError))
    return paths


def _above_threshold(report: "EvaluationReport", index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and boxes of an image's detections above the best F1 threshold of their class."""
    matches, given = report.matches, report.evaluator.columns(slice(index, index + 1))
    rows = np.flatnonzero(matches.images == index)
    boxes_xyxy = given.boxes_xyxy[counting_rows(given.images, given.scores, given.labels)]  # in row order
    kept = matches.scores[rows] > np.asarray(report.best_f1_thresholds)[matches.labels[rows]]
    return rows[kept], boxes_xyxy[kept]


class _Boxes(NamedTuple):
    """Boxes with a text and color each, drawn by giving each box its own class."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray | None
    texts: list[str]
    colors: list[Color]

    @classmethod
    def of_objects(cls, report: "EvaluationReport", index: int, names: Sequence[str], *, found: set[int]) -> "_Boxes":
        target, first = report.evaluator.dataset.target(index), report.evaluator.dataset.annotations.starts[index]
        # from positions in the annotations to rows of objects without crowd regions
        rows = np.searchsorted(report.matches.object_rows, first + np.arange(len(target["labels"])))
        texts, colors = [], []
        for row, label, crowd in zip(rows.tolist(), target["labels"].tolist(), target["iscrowd"].tolist(), strict=True):
            note, color = (" (crowd)", IGNORED) if crowd else ("", RIGHT) if row in found else (" (missed)", MISSED)
            texts.append(names[int(label)] + note)
            colors.append(color)
        return cls(target["boxes_xyxy"], None, texts, colors)

    @classmethod
    def of_detections(
        cls, report: "EvaluationReport", rows: np.ndarray, boxes_xyxy: np.ndarray, names: Sequence[str]
    ) -> "_Boxes":
        matches = report.matches
        texts, colors = [], []
        for label, kind, hit in zip(
            matches.labels[rows].tolist(), matches.kinds[rows].tolist(), matches.found[rows] >= 0, strict=True
        ):
            note, color = ("", RIGHT if hit else IGNORED) if kind < 0 else (f" ({_NOTES[kind]})", WRONG)
            texts.append(names[int(label)] + note)
            colors.append(color)
        return cls(boxes_xyxy, matches.scores[rows], texts, colors)

    def draw(self, image: Image.Image, *, scale: float, font: FontPath) -> Image.Image:
        scores = np.ones(len(self.texts)) if self.scores is None else self.scores
        found = Detections(self.boxes_xyxy * scale, scores, np.arange(len(self.texts)), tuple(self.texts), image.size)
        return draw(image, found, show_scores=self.scores is not None, colors=self.colors, font=font)
