"""Pseudo-labels: what the teacher detects in images without annotations, above a threshold per class.

The labels of a run are written to its folder, so that a resumed run has the same.
"""

import copy
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.config import DistillationConfig, TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.data.merge import merge
from rtdetr.detections import Detections, Detector
from rtdetr.errors import ConfigError, DatasetError, TrainingError
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


class PseudoLabels(NamedTuple):
    """The labels of a run, and what they depend on.

    Attributes:
        images: name, width and height of each image.
        teacher: hash of the teacher's weights.
        thresholds: lowest score of a pseudo-label by label of the teacher.
        rows: the labels.
    """

    images: list[tuple[str, int, int]]
    teacher: int
    thresholds: list[float]
    rows: list[PseudoLabel]


def label(
    unlabelled: DetectionDataset,
    teacher: Teacher | None,
    config: TrainConfig,
    *,
    make_detector: Callable[[Teacher], Detector],
    is_resumed: bool,
    dry_run: bool,
    processes: Processes,
) -> PseudoLabels | None:
    """Return the pseudo-labels of a run: those in its folder if it is resumed, else what the teacher detects.

    If the images, the teacher or the thresholds have changed since, the images are labelled again. Each process detects
    its share of the images, and every process returns all labels.

    Returns:
        None in a dry run that would have to label images.

    Raises:
        ConfigError: the resumed run has no teacher any more, and no labels that fit.
        DatasetError: an image cannot be read, and such images are not skipped.
    """
    stored = load(Path(config.output_dir)) if is_resumed and processes.is_main else None
    stored = processes.broadcast(stored)
    thresholds = [] if teacher is None else score_thresholds(teacher, config.recipe.distillation)
    if stored is not None and stored.images == _images_of(unlabelled):
        by_teacher = teacher is None or (stored.teacher, stored.thresholds) == (int(teacher.fingerprint), thresholds)
        if by_teacher:
            return stored
    if dry_run:
        return None
    if teacher is None:
        raise ConfigError(
            f"resume: the run has no {FILE} for the images in {unlabelled.annotations_file}, and no teacher to label "
            "them. Give --teacher, or continue without them: --unlabelled none"
        )
    if processes.is_main:
        again = "; the images, the teacher or the thresholds have changed" if is_resumed else ""
        _log.info("the teacher labels %s%s", counted(len(unlabelled), "image"), again)
    rows = _detect(unlabelled, teacher, make_detector(teacher), thresholds, config, processes=processes)
    return PseudoLabels(_images_of(unlabelled), int(teacher.fingerprint), thresholds, rows)


def score_thresholds(teacher: Teacher, config: DistillationConfig) -> list[float]:
    """Return the lowest score of a pseudo-label by label of the teacher."""
    count = len(teacher.categories)
    if config.pseudo_score is not None:
        return [config.pseudo_score] * count
    return list(teacher.thresholds or [DEFAULT_SCORE] * count)


def _detect(
    unlabelled: DetectionDataset,
    teacher: Teacher,
    detector: Detector,
    thresholds: Sequence[float],
    config: TrainConfig,
    *,
    processes: Processes,
) -> list[PseudoLabel]:
    """Return the detections above the thresholds, of all processes, in the order of the images."""
    found: dict[int, list[PseudoLabel]] = {}
    indices = range(processes.rank, len(unlabelled), processes.world_size)
    for start in range(0, len(indices), _BATCH):
        images = {}
        for i in indices[start : start + _BATCH]:
            try:
                images[i] = unlabelled.image(i, num_channels=detector.in_channels)
            except DatasetError as error:
                if config.bad_images == "error":
                    raise
                _log.warning("not labelled: %s", error, extra={"of_one_process": True})
        results = detector(list(images.values()), threshold=0.0, batch_size=_BATCH) if images else []
        for i, one in zip(images, results if isinstance(results, list) else [results], strict=True):
            name = str(unlabelled.annotations.file_names[i])
            found[i] = _labels_of(one, name, labels=teacher.labels, thresholds=thresholds)
    merged = {i: rows for part in processes.gather_all(found) for i, rows in part.items()}
    return [row for i in sorted(merged) for row in merged[i]]


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
    merged = merge([train, labelled])
    return merged.skipping_bad_images() if train.skips_bad_images else merged


def describe(labels: PseudoLabels | None, unlabelled: DetectionDataset) -> str:
    """Return a line for the plan."""
    images = f"{counted(len(unlabelled), 'image')} in {unlabelled.annotations_file}"
    if labels is None:
        return f"{images}, which the teacher labels before the first step"
    return (
        f"{images}, of which {len({row.image for row in labels.rows})} have {counted(len(labels.rows), 'pseudo-label')}"
    )


def save(folder: Path, labels: PseudoLabels) -> None:
    """Write the labels of a run.

    Raises:
        TrainingError: the file cannot be written.
    """
    content = {**labels._asdict(), "rows": [row._asdict() for row in labels.rows]}
    write_text(folder / FILE, json.dumps(content, indent=0) + "\n", error=TrainingError)


def load(folder: Path) -> PseudoLabels | None:
    """Return the labels in the folder of a run; None if there are none, or they cannot be read."""
    try:
        content: Any = json.loads(read_text(folder / FILE, what="pseudo-labels", error=TrainingError))
        return PseudoLabels(
            [(str(name), int(width), int(height)) for name, width, height in content["images"]],
            int(content["teacher"]),
            [float(one) for one in content["thresholds"]],
            [PseudoLabel(**{**row, "bbox": tuple(row["bbox"])}) for row in content["rows"]],
        )
    except (TrainingError, ValueError, TypeError, KeyError):
        return None


def _images_of(dataset: DetectionDataset) -> list[tuple[str, int, int]]:
    columns = dataset.annotations
    return [(name, *size) for name, size in zip(columns.file_names.tolist(), columns.sizes_wh.tolist(), strict=True)]
