"""The functions of the library that bring its rooms together; the command line calls the same ones."""

import os
from typing import Any, Unpack

from rtdetr.categories import Categories
from rtdetr.data import DetectionDataset, open_dataset
from rtdetr.data.pipelines import Pipeline
from rtdetr.detections import Detections, Detector
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import ConfigError
from rtdetr.evaluation import EvaluationReport, evaluate_dataset
from rtdetr.files import with_home
from rtdetr.images import LoadedImage
from rtdetr.models import RTDETR
from rtdetr.recipes import TrainSettings, resolve
from rtdetr.runtimes import load
from rtdetr.runtimes.arguments import whole_number
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.training import TrainResult, read, run
from rtdetr.training.checkpoint import newest_whole


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
        model: what `rtdetr.load` takes, a loaded detector, or a network. A network has no class names; its classes are
            taken for those of the dataset, in order.
        data: folder or file of a dataset (see `open_dataset`), or an open one.
        split: part of a dataset folder.
        images: folder of the images, when it is not in one of the usual places.
        batch_size: images that go through the network together.
        device: as for `rtdetr.load`.
        precision: as for `rtdetr.load`.
        size_hw: height and width for the network, multiples of 32; None: the model's own.

    The model's classes are matched with the dataset's by name; the report has the ids of the dataset.

    Raises:
        DatasetError: the dataset is missing or broken, or has other classes than the model.
        ConfigError: unknown `split`, or device or precision given for a detector that is loaded already.
        InputError, WeightsError: the model cannot be loaded or run as asked.
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
        raise ConfigError("device and precision belong to loading; this detector is loaded already. Leave them out")
    dataset = dataset.with_categories(detector.categories)
    dataset.check_pixels()

    def predict(pictures: list[LoadedImage]) -> list[Detections]:
        found = detector(pictures, threshold=0.0, size_hw=size_hw, batch_size=batch_size)
        return found if isinstance(found, list) else [found]

    channels = getattr(detector, "in_channels", 3)  # of a detector of the user's own that does not say: RGB
    return evaluate_dataset(predict, dataset, num_channels=channels, batch_size=batch_size)


@pytorch_defaults()
def train(
    data: Any = None,
    *,
    resume: str | os.PathLike[str] | None = None,
    dry_run: bool = False,
    transforms: Pipeline | None = None,
    **settings: Unpack[TrainSettings],
) -> TrainResult:
    """Train a detector on a dataset, and measure it after each epoch.

    What is left out is as in the model's published recipe; on resuming, as it was. Ctrl-C and SIGTERM end the run after
    the step under way, ready to be resumed.

    Args:
        data: folder or annotation file of the images to train on; several are joined. Or a `DetectionDataset`, or a
            `datasets.Dataset` or `DatasetDict` of Hugging Face, to be given again on resuming. See `open_dataset`.
        resume: output folder of a run, or last.pth in it, to go on with exactly where it stopped; then `data` and the
            settings of the run need not be repeated, and those given replace its own.
            "auto": go on with the run in output_dir if there is one, else begin it, as on machines that may go away.
        dry_run: check everything, write config.json and plan.txt to the output folder, and stop before the first step.
        transforms: augmentation in place of the recipe's: a torchvision v2 pipeline, an albumentations Compose or a
            function (see `rtdetr.data.TrainLoader`); to be given again on resuming.
        settings: model, output_dir, weights, epochs, batch_size, device and more: see `TrainSettings`.

    Raises:
        ConfigError, DatasetError, WeightsError: what was asked for cannot be done; nothing was trained.
        TrainingError: the loss became not finite, or a file cannot be written; the last good checkpoint is kept.
    """
    if resume == "auto":
        folder = settings.get("output_dir")
        if folder is None:
            raise ConfigError("resume 'auto' needs to know the run: give its output_dir (--output)")
        resume = newest_whole(with_home(folder))
    start = None if resume is None else with_home(resume)
    content = None if start is None else read(start)
    saved = None if content is None else content.get("rtdetr", {}).get("training")
    config, datasets = resolve(data, settings, resume=start, saved=saved)

    def make_detector(model: RTDETR, categories: Categories, device: str) -> TorchDetector:
        return TorchDetector(model, categories, device=device, precision=config.recipe.precision)

    return run(config, datasets, make_detector=make_detector, resume=content, dry_run=dry_run, transforms=transforms)
