"""Pseudo-labels: what the teacher detects in images without annotations, above a threshold per class.

The labels of a run are written to its folder, so that a resumed run has the same.
"""

import copy
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr.config import DistillationConfig, TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.data.merge import merge
from rtdetr.detections import Detections, Detector
from rtdetr.errors import TrainingError
from rtdetr.files import write_text
from rtdetr.text_files import read_text
from rtdetr.training.distributed import Processes
from rtdetr.training.teacher import Teacher
from rtdetr.wording import counted

_log = logging.getLogger(__name__)
FILE = "pseudo_labels.json"
DEFAULT_SCORE = 0.4  # threshold of a teacher whose best thresholds were not measured
_BATCH = 8


class PseudoLabel(NamedTuple):
    """A detection that counts as an object: `bbox` is left, top, width and height in pixels."""

    image: str
    label: int
    bbox: tuple[float, float, float, float]
    score: float


def label(
    unlabelled: DetectionDataset,
    teacher: Teacher,
    config: TrainConfig,
    detector: Detector,
    *,
    is_resumed: bool,
    processes: Processes,
) -> list[PseudoLabel]:
    """Return the pseudo-labels of a run: those in its folder if it is resumed, else what the teacher detects.

    Each process detects its share of the images, and every process returns all labels.
    """
    stored = None
    if is_resumed and processes.is_main:
        stored = load(Path(config.output_dir), unlabelled)
    if (rows := processes.broadcast(stored)) is not None:
        return rows
    if processes.is_main:
        _log.info("the teacher labels %s", counted(len(unlabelled), "image"))
    thresholds = score_thresholds(teacher, config.recipe.distillation)
    found: dict[int, list[PseudoLabel]] = {}
    indices = range(processes.rank, len(unlabelled), processes.world_size)
    for start in range(0, len(indices), _BATCH):
        some = indices[start : start + _BATCH]
        images = [unlabelled.image(i, num_channels=detector.in_channels) for i in some]
        results = detector(images, threshold=0.0, batch_size=_BATCH)
        for i, one in zip(some, results if isinstance(results, list) else [results], strict=True):
            name = str(unlabelled.annotations.file_names[i])
            found[i] = _labels_of(one, name, labels=teacher.labels, thresholds=thresholds)
    merged = {i: some_rows for part in processes.gather_all(found) for i, some_rows in part.items()}
    return [row for i in sorted(merged) for row in merged[i]]


def score_thresholds(teacher: Teacher, config: DistillationConfig) -> Sequence[float]:
    """Return the lowest score of a pseudo-label by label of the teacher."""
    count = len(teacher.categories)
    if config.pseudo_score is not None:
        return [config.pseudo_score] * count
    return teacher.thresholds or [DEFAULT_SCORE] * count


def _labels_of(
    found: Detections, image: str, *, labels: dict[int, int], thresholds: Sequence[float]
) -> list[PseudoLabel]:
    rows = []
    for box, score, label in zip(found.clipped().boxes_xyxy, found.scores, found.labels, strict=True):
        left, top, right, bottom = (round(float(value), 2) for value in box)
        if int(label) in labels and score >= thresholds[int(label)] and right > left and bottom > top:
            size = (round(right - left, 2), round(bottom - top, 2))
            rows.append(PseudoLabel(image, labels[int(label)], (left, top, *size), round(float(score), 4)))
    return rows


def with_pseudo_labels(
    train: DetectionDataset, unlabelled: DetectionDataset, rows: Sequence[PseudoLabel]
) -> DetectionDataset:
    """Return the training data followed by the unlabelled images with their pseudo-labels."""
    columns = unlabelled.annotations
    index_of = {name: i for i, name in enumerate(columns.file_names.tolist())}
    ordered = sorted(rows, key=lambda row: index_of[row.image])  # stable
    boxes_xywh = np.array([row.bbox for row in ordered], dtype=np.float64).reshape(-1, 4)
    counts = np.bincount([index_of[row.image] for row in ordered], minlength=len(index_of))
    labelled = copy.copy(unlabelled)
    labelled.annotations = columns._replace(
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=boxes_xywh,
        labels=np.array([row.label for row in ordered], dtype=np.int64),
        areas=boxes_xywh[:, 2] * boxes_xywh[:, 3],
        iscrowd=np.zeros(len(ordered), bool),
    )
    return merge([train, labelled])


def describe(rows: Sequence[PseudoLabel], unlabelled: DetectionDataset) -> str:
    """Return a line for the plan."""
    images = len({row.image for row in rows})
    return (
        f"{counted(len(unlabelled), 'image')} in {unlabelled.annotations_file}, of which {images} have "
        f"{counted(len(rows), 'pseudo-label')}"
    )


def save(folder: Path, rows: Sequence[PseudoLabel]) -> None:
    """Write the labels of a run.

    Raises:
        TrainingError: the file cannot be written.
    """
    content = [row._asdict() for row in rows]
    write_text(folder / FILE, json.dumps(content, indent=0) + "\n", error=TrainingError)


def load(folder: Path, unlabelled: DetectionDataset) -> list[PseudoLabel] | None:
    """Return the labels of a run; None if they were not written, or are of other images or classes."""
    try:
        content = json.loads(read_text(folder / FILE, what="pseudo-labels", error=TrainingError))
        rows = [PseudoLabel(**{**row, "bbox": tuple(row["bbox"])}) for row in content]
        known = set(unlabelled.annotations.file_names.tolist())
        fits = all(
            row.image in known and 0 <= row.label < len(unlabelled.categories) and len(row.bbox) == 4 for row in rows
        )
    except (TrainingError, ValueError, TypeError, KeyError):
        return None
    return rows if fits else None
