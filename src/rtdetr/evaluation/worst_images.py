"""Which images a detector does worst on, and one of them drawn with its errors marked.

Boxes are those above each class's best F1 threshold, compared with the objects at IoU 0.5.
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
from rtdetr.evaluation.coco import counted
from rtdetr.evaluation.error_kinds import DETECTION_KINDS
from rtdetr.evaluation.operating_points import is_shown
from rtdetr.files import write_atomically
from rtdetr.fonts import FontPath, shown_names

if TYPE_CHECKING:
    from rtdetr.evaluation.report import EvaluationReport

RIGHT, WRONG, MISSED, IGNORED = (40, 170, 90), (225, 60, 60), (250, 170, 30), (130, 130, 130)
_SMALLEST_SIDE = 480  # images are enlarged to it so that labels have room
_GAP = 8
_NOTES = tuple("wrong class" if kind == "class" else kind for kind in DETECTION_KINDS)


def worst_images(report: "EvaluationReport", dataset: DetectionDataset, n: int = 12) -> list[tuple[int, float]]:
    """Image ids and badness of the worst images, the worst first; images without errors are left out.

    Badness is the sum of the scores of wrong detections, plus 1 for each missed object, less the score of the
    detection below the threshold that lies on it, if there is one.

    Args:
        report: of an evaluation of `dataset`.
        dataset: the images, with any order of the classes.
        n: at most so many.
    """
    matches = report.matches
    shown = is_shown(matches, np.asarray(report.best_f1_thresholds))
    wrong, hits = shown & (matches.found < 0), matches.found >= 0
    badness = np.zeros(len(dataset))  # bincount of nothing gives integers
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
    """The ground truth of one image beside what was detected: right in green, wrong in red, missed in amber.

    Wrong detections carry the kind of their error (`error_types`). Crowd regions and detections on them are gray.
    `font` is a file for class names, see `drawing.draw`.

    Raises:
        InputError: no such image in the dataset, or the font cannot be read.
        DatasetError: the image is missing or broken.
    """
    indices = np.flatnonzero(dataset.image_ids == image_id)
    if len(indices) == 0:
        raise InputError(f"expected an image id of the dataset, got {image_id}")
    index = int(indices[0])
    rows, boxes_xyxy = _above_threshold(report, index)
    image = dataset.view(index)
    scale = max(1.0, _SMALLEST_SIDE / min(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    names = shown_names(report.names, font=font)  # `draw` gets a class for each box, and knows no numbers
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
    """Write a comparison of each of the worst images, named by rank and image id; see `draw_comparison`.

    Raises:
        InputError: a file cannot be written, or the font cannot be read.
        DatasetError: an image is missing or broken.
    """
    paths = []
    for rank, (image_id, _) in enumerate(worst_images(report, dataset, n), start=1):
        image = draw_comparison(report, dataset, image_id, font=font)
        path = folder / f"{rank:02d}_{image_id}.jpg"
        paths.append(write_atomically(path, partial(image.save, format="JPEG", quality=92), error=InputError))
    return paths


def _above_threshold(report: "EvaluationReport", index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of an image's detections above their class's best F1 threshold, and their boxes, which the matches lack."""
    matches, given = report.matches, report.evaluator.columns(slice(index, index + 1))
    rows = np.flatnonzero(matches.images == index)
    boxes_xyxy = given.boxes_xyxy[counted(given.images, given.scores, given.labels)]  # in the order of the rows
    kept = matches.scores[rows] > np.asarray(report.best_f1_thresholds)[matches.labels[rows]]
    return rows[kept], boxes_xyxy[kept]


class _Boxes(NamedTuple):
    """Boxes with a text and color each, which are drawn by giving every box a class of its own."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray | None
    texts: list[str]
    colors: list[Color]

    @classmethod
    def of_objects(cls, report: "EvaluationReport", index: int, names: Sequence[str], *, found: set[int]) -> "_Boxes":
        target, first = report.evaluator.dataset.target(index), report.evaluator.dataset.annotations.starts[index]
        # a position in the annotations as a row among the objects, which leave crowds out
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
