"""Files of a run folder other than checkpoints and metrics: environment, label statistics, plots, images, report.html.

`write_start` is called before the first step. `EvaluationPages` writes each improved evaluation immediately, and draws
it with `write_end` at intervals and at the end of the run. Both rebuild report.html (`page.py`). Failures do not stop a
run; each is reported in a warning.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.errors import DatasetError, TrainingError
from rtdetr.evaluation import EvaluationReport
from rtdetr.evaluation.plots import save_plots
from rtdetr.evaluation.worst_images import draw_comparison, worst_images
from rtdetr.files import write_text
from rtdetr.fonts import FontPath
from rtdetr.reports.curves import draw_learning_curve
from rtdetr.reports.environment import write_environment
from rtdetr.reports.page import IMAGES_FOLDER, write_page
from rtdetr.reports.previews import draw_batches, save_image
from rtdetr.reports.statistics import write_statistics

_log = logging.getLogger(__name__)
EVALUATION_FILE = "evaluation.json"
NUM_COMPARED = 8  # images drawn with their detections, and the same number of worst images
SECONDS_PER_PAGE = 300.0  # minimum interval between drawings, which take some seconds
WIDEST = 1600  # pixels


def attempt(what: str, call: Callable[[], object], *, passing: tuple[type[Exception], ...] = ()) -> None:
    """Call an optional part of a run; if it fails, log a warning with the reason. Errors in `passing` are raised."""
    try:
        call()
    except passing:
        raise
    except Exception as error:  # any error of the drawing or writing library
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _log.warning("Could not write %s: %s. Continuing without it.", what, reason)


def write_start(
    folder: Path,
    *,
    config: TrainConfig,
    device: torch.device,
    train_data: DetectionDataset,
    val_data: DetectionDataset | None,
    loader: TrainLoader,
) -> None:
    """Write environment.json, label_statistics.json and its plot, previews of the first batches, and report.html.

    Args:
        folder: folder of the run.
        config: settings of the run.
        device: device that the network runs on.
        train_data: training data.
        val_data: validation data, with the same labels.
        loader: batches of `train_data`. Drawing does not change them; call `set_epoch` before you use the loader.

    Raises:
        DatasetError: a training image cannot be read, which would end the run in its first epoch.
    """
    images_folder = folder / IMAGES_FOLDER
    datasets = {"train": train_data} if val_data is None else {"train": train_data, "val": val_data}
    size_hw, font = config.recipe.train_size_hw, config.font
    names, counts = train_data.categories.names, preview_epochs(config.recipe)
    attempt("environment.json", lambda: write_environment(folder, device=device, workers=config.workers))
    attempt("the label statistics", lambda: write_statistics(folder, datasets, size_hw=size_hw, font=font))
    if not any(images_folder.glob("batch_*.png")):  # a resumed run already has them
        attempt(
            "the batch previews",
            lambda: draw_batches(loader, images_folder, names=names, counts=counts, font=font),
            passing=(DatasetError,),  # the first epoch reads the same images
        )
    attempt("report.html", lambda: write_page(folder))


def write_end(folder: Path, *, report: EvaluationReport | None = None, font: FontPath = None) -> None:
    """Draw the plots and images of an evaluation and the learning curve, and rebuild report.html.

    Args:
        folder: folder of the run.
        report: evaluation of the best weights. None: keep the plots and images in the folder.
        font: font file for class names; see `drawing.draw`.
    """
    attempt("the learning curve", lambda: draw_learning_curve(folder))
    if report is not None:
        images_folder = folder / IMAGES_FOLDER
        attempt("the plots of the evaluation", lambda: save_plots(report, images_folder, font=font))
        attempt("the images with detections", lambda: _write_detections(report, images_folder, font))
    attempt("report.html", lambda: write_page(folder))


class EvaluationPages:
    """Keeps evaluation.json, images and page up to date with the best evaluation; images are drawn at intervals.

    As a context manager, it draws pending results when the run ends for any reason.
    """

    def __init__(self, folder: Path, *, font: FontPath = None) -> None:
        """Write to the folder of a run; `font` is a font file for class names."""
        self._folder, self._font = folder, font
        self._pending: EvaluationReport | None = None
        self._written = time.perf_counter()

    def __enter__(self) -> "EvaluationPages":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.write()

    def write_best(self, report: EvaluationReport) -> None:
        """Write the evaluation of the best weights so far, and draw it unless the last drawing was recent."""

        def save() -> None:
            text = json.dumps(report.to_json(), indent=1) + "\n"
            write_text(self._folder / EVALUATION_FILE, text, error=TrainingError)

        attempt("evaluation.json", save)
        self._pending = report
        if time.perf_counter() - self._written > SECONDS_PER_PAGE:
            self.write()

    def write(self) -> None:
        """Draw the pending evaluation."""
        write_end(self._folder, report=self._pending, font=self._font)
        self._pending = None
        self._written = time.perf_counter()


def _write_detections(report: EvaluationReport, images_folder: Path, font: FontPath) -> None:
    """Draw some images and the worst ones: annotations on the left, detections on the right."""
    dataset = report.evaluator.dataset
    for leftover in (*images_folder.glob("predictions_*.png"), *images_folder.glob("worst_*.png")):
        leftover.unlink()
    any_ids = [int(dataset.image_ids[index]) for index in spread(dataset, NUM_COMPARED)]
    worst_ids = [image_id for image_id, _ in worst_images(report, dataset, NUM_COMPARED)]
    for kind, image_ids in (("predictions", any_ids), ("worst", worst_ids)):
        for number, image_id in enumerate(image_ids, start=1):
            image = draw_comparison(report, dataset, image_id, font=font)
            image.thumbnail((WIDEST, WIDEST))
            save_image(image, images_folder / f"{kind}_{number}_image_{image_id}.png")


def preview_epochs(recipe: Recipe) -> dict[int, int]:
    """Number of batches to draw, by epoch: two of the first epoch with augmentation, one of the last epoch."""
    first, last = min(recipe.augmentation_start_epoch, recipe.epochs - 1), recipe.epochs - 1
    return {first: 2} if first == last else {first: 2, last: 1}


def spread(dataset: DetectionDataset, count: int) -> list[int]:
    """Positions of up to `count` images spread over a dataset, including one without objects if there is any."""
    objects = np.diff(dataset.annotations.starts)
    filled, empty = np.flatnonzero(objects), np.flatnonzero(objects == 0)
    chosen = empty[: 1 if len(filled) else count]
    places = np.linspace(0, len(filled) - 1, min(count - len(chosen), len(filled))).round().astype(int)
    return sorted({*filled[places].tolist(), *chosen.tolist()})
