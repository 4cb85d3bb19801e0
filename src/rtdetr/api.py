"""The top-level functions `evaluate` and `train`; the command line calls them too."""

import os
from typing import TYPE_CHECKING, Any, Unpack

from rtdetr.categories import Categories
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.detections import Detections, Detector
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError
from rtdetr.evaluation import EvaluationReport, evaluate_dataset
from rtdetr.files import with_home
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR
from rtdetr.runtimes import load
from rtdetr.runtimes.options import whole_number
from rtdetr.runtimes.torch_detector import TorchDetector

if TYPE_CHECKING:  # evaluation does not load what only training needs
    from rtdetr.data.pipelines import Pipeline
    from rtdetr.recipes import TrainSettings
    from rtdetr.training import TrainResult


def evaluate(
    model: str | os.PathLike[str] | RTDETR | Detector,
    data: str | os.PathLike[str] | DetectionDataset,
    *,
    split: str = "val",
    images: str | os.PathLike[str] | None = None,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "auto",
    size_hw: tuple[int, int] | None = None,
) -> EvaluationReport:
    """Measure a detector's COCO average precision on a dataset.

    Args:
        model: anything that `rtdetr.load` accepts, a loaded detector, or a network. A network has no class names; its
            classes are assumed to be the dataset's, in the same order.
        data: folder or file of a dataset (see `open_dataset`), or an open one.
        split: split of a dataset folder.
        images: folder of the images, if it is not in one of the usual places.
        batch_size: images per forward pass.
        device: as for `rtdetr.load`.
        precision: as for `rtdetr.load`.
        size_hw: input height and width, multiples of 32; None: the model's own.

    Classes of the model and the dataset are matched by name; the report uses the dataset's ids.

    Raises:
        DatasetError: the dataset is missing or broken, or its classes differ from the model's.
        ConfigError: unknown `split`, or `device` or `precision` given for a loaded detector.
        InputError, WeightsError: the model cannot be loaded or run with these arguments.
    """
    batch_size = whole_number(batch_size, "batch_size", error=ConfigError)
    dataset = data if isinstance(data, DetectionDataset) else open_dataset(data, split=split, images=images)
    if isinstance(model, RTDETR):
        unnamed = Categories.numbered(model.config.num_classes)
        detector: Detector = TorchDetector(model, unnamed, device=device, precision=precision)
    elif isinstance(model, str | os.PathLike):
        detector = load(model, device=device, precision=precision)
    elif not callable(model) or not hasattr(model, "categories"):
        raise ConfigError(f"expected the name or file of a model, a detector or a network, got {type(model).__name__}")
    elif (device, precision) == ("auto", "auto"):
        detector = model
    else:
        raise ConfigError("device and precision of a loaded detector cannot be changed. Pass them to rtdetr.load")
    dataset = dataset.with_categories(detector.categories)
    dataset.check_pixels()

    def predict(images: list[LoadedImage]) -> list[Detections]:
        found = detector(images, threshold=0.0, size_hw=size_hw, batch_size=batch_size)
        return found if isinstance(found, list) else [found]

    channels = getattr(detector, "in_channels", 3)  # RGB for a custom detector without this attribute
    in_streams = getattr(detector, "images_in_streams", 1)
    per_call = batch_size if in_streams == 1 else max(batch_size, 2 * in_streams)  # enough for all streams
    return evaluate_dataset(predict, dataset, num_channels=channels, batch_size=per_call)


@pytorch_defaults()
def train(
    data: Any = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    transforms: "Pipeline | None" = None,
    **settings: Unpack["TrainSettings"],
) -> "TrainResult":
    """Train a detector on a dataset and evaluate it after each epoch.

    Settings that you leave out come from the recipe; on resuming, from the run. Ctrl-C and SIGTERM end the run after
    the current step; it can be resumed.

    Args:
        data: dataset folder or annotation file, or several, which are merged. Or a `DetectionDataset`, or a
            Hugging Face `datasets.Dataset` or `DatasetDict`; pass these again on resuming. See `open_dataset`.
        resume: output folder of a run to resume, or its last.pth. `data` and the settings of the run need not be
            repeated; those that you pass override them.
            "auto": resume the run in output_dir if there is one, else start it; useful on preemptible machines.
        dry_run: check settings, write config.json and plan.txt to the output folder, and stop before the first step.
        transforms: augmentation to use instead of the recipe's: a torchvision v2 pipeline, an albumentations Compose or
            a function (see `rtdetr.data.TrainLoader`); pass it again on resuming.
        settings: model, output_dir, weights, epochs, batch_size, device and more, see `TrainSettings`.

    Raises:
        ConfigError, DatasetError, WeightsError: settings, data or weights are invalid; nothing was trained.
        TrainingError: the loss is not finite, or a file cannot be written; the last good checkpoint is kept.
    """
    from rtdetr.recipes import resolve
    from rtdetr.training import read, run
    from rtdetr.training.checkpoint import newest_undamaged

    if resume == "auto":
        folder = settings.get("output_dir")
        if folder is None:
            raise ConfigError("resume='auto' needs the output folder of the run. Give output_dir (--output)")
        resume = newest_undamaged(with_home(folder))
    start = None if resume is None else with_home(resume)
    content = None if start is None else read(start)
    saved = None if content is None else content.get("rtdetr", {}).get("training")
    config, datasets = resolve(data, settings, resume=start, saved=saved)

    def make_detector(model: RTDETR, categories: Categories, device: str) -> TorchDetector:
        return TorchDetector(model, categories, device=device, precision=config.recipe.precision)

    return run(config, datasets, make_detector=make_detector, resume=content, dry_run=dry_run, transforms=transforms)
