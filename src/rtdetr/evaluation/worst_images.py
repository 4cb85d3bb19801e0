"""Which images a detector does worst on, and a picture of one with its errors marked.

Boxes are those above each class's best F1 threshold, compared with the objects at IoU 0.5.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from rtdetr.data import DetectionDataset
from rtdetr.detections import Detections
from rtdetr.drawing import Color, draw
from rtdetr.errors import InputError
from rtdetr.evaluation.error_types import DETECTION_KINDS
from rtdetr.evaluation.operating_points import is_shown
from rtdetr.files import write_atomically

if TYPE_CHECKING:
    from rtdetr.evaluation.report import EvaluationReport

RIGHT, WRONG, MISSED, IGNORED = (40, 170, 90), (225, 60, 60), (250, 170, 30), (130, 130, 130)
_SMALLEST_SIDE = 480  # pictures are enlarged to it so that labels have room
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


def draw_comparison(report: "EvaluationReport", dataset: DetectionDataset, image_id: int) -> Image.Image:
    """The ground truth of one image beside what was detected: right in green, wrong in red, missed in amber.

    Wrong detections carry the kind of their error (`error_types`). Crowd regions and detections on them are grey.

    Raises:
        InputError: no such image in the dataset.
        DatasetError: the image is missing or broken.
    """
    indices = np.flatnonzero(dataset.image_ids == image_id)
    if len(indices) == 0:
        raise InputError(f"expected an image id of the dataset, got {image_id}")
    index = int(indices[0])
    matches = report.matches
    rows = np.flatnonzero(matches.images == index)
    rows = rows[matches.scores[rows] > np.asarray(report.best_f1_thresholds)[matches.labels[rows]]]
    picture = dataset.view(index)
    scale = max(1.0, _SMALLEST_SIDE / min(picture.size))
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    halves = [
        _draw_objects(report, index, picture, scale=scale, found=set(matches.found[rows].tolist())),
        _draw_detections(report, rows, picture, scale=scale),
    ]
    both = Image.new("RGB", (2 * picture.width + _GAP, picture.height), "white")
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (picture.width + _GAP, 0))
    return both


def save_worst_images(
    report: "EvaluationReport", dataset: DetectionDataset, folder: Path, *, n: int = 12
) -> list[Path]:
    """Write a comparison of each of the worst images, named by rank and image id.

    Raises:
        InputError: a file cannot be written.
        DatasetError: an image is missing or broken.
    """
    paths = []
    for rank, (image_id, _) in enumerate(worst_images(report, dataset, n), start=1):
        picture = draw_comparison(report, dataset, image_id)
        path = folder / f"{rank:02d}_{image_id}.jpg"
        paths.append(write_atomically(path, partial(picture.save, format="JPEG", quality=92), error=InputError))
    return paths


def _draw_objects(
    report: "EvaluationReport", index: int, picture: Image.Image, *, scale: float, found: set[int]
) -> Image.Image:
    target, first = report.evaluator.dataset.target(index), report.evaluator.dataset.annotations.starts[index]
    # a position in the annotations as a row among the objects, which leave crowds out
    rows = np.searchsorted(report.matches.object_rows, first + np.arange(len(target["labels"])))
    texts, colors = [], []
    for row, label, crowd in zip(rows.tolist(), target["labels"].tolist(), target["iscrowd"].tolist(), strict=True):
        note, color = (" (crowd)", IGNORED) if crowd else ("", RIGHT) if row in found else (" (missed)", MISSED)
        texts.append(report.names[label] + note)
        colors.append(color)
    return _draw(picture, target["boxes_xyxy"] * scale, np.ones(len(texts)), texts, colors, show_scores=False)


def _draw_detections(
    report: "EvaluationReport", rows: np.ndarray, picture: Image.Image, *, scale: float
) -> Image.Image:
    matches = report.matches
    texts, colors = [], []
    for label, kind, hit in zip(
        matches.labels[rows].tolist(), report.errors.kinds[rows].tolist(), matches.found[rows] >= 0, strict=True
    ):
        note, color = ("", RIGHT if hit else IGNORED) if kind < 0 else (f" ({_NOTES[kind]})", WRONG)
        texts.append(report.names[label] + note)
        colors.append(color)
    low, size = np.split(matches.boxes_xywh[rows], 2, axis=1)
    boxes = np.concatenate([low, low + size], axis=1) * scale
    return _draw(picture, boxes, matches.scores[rows], texts, colors, show_scores=True)


def _draw(
    picture: Image.Image,
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    texts: list[str],
    colors: list[Color],
    *,
    show_scores: bool,
) -> Image.Image:
    """Draw boxes with a text and colour each, by giving every box a class of its own."""
    found = Detections(boxes_xyxy, scores, np.arange(len(texts)), tuple(texts), picture.size)
    return draw(picture, found, show_scores=show_scores, colors=colors)
