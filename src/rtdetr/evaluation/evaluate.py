"""Run a detector over a dataset and measure its COCO average precision.

`evaluate_dataset` takes any callable from images to `Detections`. `rtdetr.evaluate` (`api.py`) creates it from a model
name or file, and opens the dataset. The result is described in `report.py`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rtdetr.data import DetectionDataset
from rtdetr.detections import Detections
from rtdetr.evaluation.coco import CocoEvaluator
from rtdetr.evaluation.report import EvaluationReport
from rtdetr.images import LoadedImage

Predict = Callable[[list[LoadedImage]], list[Detections]]

_DECODING_THREADS = 4


def evaluate_dataset(
    predict: Predict,
    dataset: DetectionDataset,
    *,
    num_channels: int = 3,
    batch_size: int = 8,
    progress: bool = True,
) -> EvaluationReport:
    """Run a detector on all images of a dataset and compare the detections with the annotations.

    Args:
        predict: takes images and returns detections of any score for each, with labels as in `dataset.categories`, such
            as a detector with `threshold=0`.
        dataset: images and ground truth, with the labels of the detector; see `DetectionDataset.with_categories`.
        num_channels: image channels: 3 gives `predict` PIL images in RGB, any other number arrays (h, w, c).
        batch_size: images per call of `predict`. The same number is decoded ahead.
        progress: show a progress bar on standard error if it is a terminal.

    Raises:
        DatasetError: an image is missing or damaged; see also `DetectionDataset.skipping_bad_images`.
    """
    started = time.perf_counter()
    evaluator = detect_dataset(predict, dataset, num_channels=num_channels, batch_size=batch_size, progress=progress)
    return EvaluationReport.of(evaluator, seconds=time.perf_counter() - started)


def detect_dataset(
    predict: Predict,
    dataset: DetectionDataset,
    *,
    indices: Sequence[int] | None = None,
    num_channels: int = 3,
    batch_size: int = 8,
    progress: bool = True,
) -> CocoEvaluator:
    """Collect the detections on some images of a dataset, for example in one of several processes.

    `CocoEvaluator.gathered` merges the evaluators of all processes, for `EvaluationReport.of`.

    Args:
        predict: as for `evaluate_dataset`.
        dataset: as for `evaluate_dataset`.
        indices: positions of the images, such as range(rank, len(dataset), world_size); None: all images.
        num_channels: as for `evaluate_dataset`.
        batch_size: as for `evaluate_dataset`.
        progress: as for `evaluate_dataset`.

    Raises:
        DatasetError: an image is missing or damaged; see also `DetectionDataset.skipping_bad_images`.
    """
    indices = range(len(dataset)) if indices is None else indices
    evaluator = CocoEvaluator(dataset)
    with _bar(shown=progress) as bar:
        task = bar.add_task("evaluating", total=len(indices))
        images = _decoded(dataset, indices, num_channels=num_channels, ahead=batch_size)
        for first in range(0, len(indices), batch_size):
            image_ids = dataset.image_ids[list(indices[first : first + batch_size])].tolist()
            found = predict([next(images) for _ in image_ids])
            for image_id, one in zip(image_ids, found, strict=True):
                evaluator.add(image_id, boxes_xyxy=one.boxes_xyxy, scores=one.scores, labels=one.labels)
            bar.advance(task, len(image_ids))
    return evaluator


def _decoded(
    dataset: DetectionDataset, indices: Sequence[int], *, num_channels: int, ahead: int
) -> Iterator[LoadedImage]:
    """Yield images in order, decoded in threads while the network runs."""
    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        pending: deque[Future[LoadedImage]] = deque()
        for index in indices:
            pending.append(pool.submit(dataset.image, index, num_channels=num_channels))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _bar(*, shown: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console.quiet = not (shown and console.is_terminal)  # rich before 14.3 prints a newline even after a disabled bar
    return Progress(*columns, *times, console=console, transient=True, disable=console.quiet)
