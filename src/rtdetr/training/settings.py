"""From what a user asks for to a resolved `TrainConfig`: the published recipe, or the resumed run's, with changes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from rtdetr import zoo
from rtdetr.config import Recipe, SizeHW, TrainConfig
from rtdetr.errors import ConfigError, nearest
from rtdetr.training.recipe import adapt, override
from rtdetr.training.setup import LAST_FILE
from rtdetr.weights import read_checkpoint

DEFAULT_MODEL = "rtdetrv2_r18vd"
PathLike = str | os.PathLike[str]


class TrainSettings(TypedDict, total=False):
    """What `rtdetr.train` can be asked for, all of it optional. None is the same as left out."""

    model: str | None  # name in the zoo; default: the one of `weights`, else rtdetrv2_r18vd
    output_dir: PathLike | None  # folder for checkpoints and metrics; default: runs/MODEL, then runs/MODEL-2, ...
    epochs: int | None  # length of the run; augmentation ends as long before its end as in the recipe
    batch_size: int | None  # images a step; the learning rate does not follow
    size_hw: SizeHW | None  # height and width of the training images, multiples of 32; multi-scale follows
    lr: float | None  # learning rate; parameter groups with their own follow in proportion
    precision: str | None  # "auto", "float32", "bfloat16" or "float16"
    recipe: Recipe | Mapping[str, Any] | None  # another recipe, or single settings: {"loss.bbox_weight": 4}
    images: PathLike | None  # folder of the training images, where it is not in a usual place
    val_data: PathLike | None  # dataset that is evaluated; default: the validation part of the folder `data`
    val_images: PathLike | None  # folder of its images
    bad_boxes: str | None  # "error" or "drop" for boxes without an area inside their image
    weights: PathLike | None  # zoo name (downloaded) or file to start from; classes are matched by name
    backbone_weights: PathLike | None  # "auto" (ImageNet's, downloaded) or a file; not used with `weights`
    device: str | None  # "auto", "cpu", "cuda" or "cuda:1"
    channels_last: bool | None  # memory layout of images and convolutions; on unless switched off
    seed: int | None  # of initialisation, order, augmentation and denoising
    workers: int | None  # processes that load images; 0: none
    evaluate_every: int | None  # epochs between evaluations; 0: never
    log_every: int | None  # steps between rows of metrics.jsonl


_PATHS = ("output_dir", "images", "val_data", "val_images", "weights", "backbone_weights")
_OF_RECIPE = ("epochs", "batch_size", "size_hw", "lr", "precision")


def resolve(
    data: PathLike | None,
    settings: Mapping[str, Any],
    *,
    resume: Path | None = None,
    saved: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the settings of a run.

    Args:
        data: dataset to train on; may be left out on resuming.
        settings: see `TrainSettings`.
        resume: checkpoint, or its folder, to go on from.
        saved: the settings that checkpoint was made with, where it says so.

    Raises:
        ConfigError: a setting that is unknown, missing or cannot be; the nearest valid name is given.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    unknown = next((name for name in given if name not in TrainSettings.__annotations__), None)
    if unknown is not None:
        known = sorted(TrainSettings.__annotations__)
        raise ConfigError(f"unknown setting {unknown!r}.{nearest(unknown, known)} Known: {', '.join(known)}.")
    values: dict[str, Any] = {name: str(value) if name in _PATHS else value for name, value in given.items()}
    if data is not None:
        values["data"] = str(data)
    if resume is not None:
        values.setdefault("output_dir", str(resume if resume.is_dir() else resume.parent))
    values = {**(saved or {}), **values}
    if "data" not in values:
        raise ConfigError("no dataset given: give the folder or annotation file of the images to train on")
    if "model" not in values:
        values["model"] = _model_of(values["weights"]) if "weights" in values else DEFAULT_MODEL
    changes = {name: values.pop(name) for name in _OF_RECIPE if name in values}
    values["recipe"] = _recipe(given.get("recipe"), saved, values["model"], changes)
    if "output_dir" not in values:
        values["output_dir"] = str(_free_folder(values["model"]))
    return TrainConfig(**values)


def _recipe(wish: Recipe | Mapping[str, Any] | None, saved: Any, model: str, changes: dict[str, Any]) -> Recipe:
    if isinstance(wish, Recipe):
        return adapt(wish, **changes)
    base = Recipe(**saved["recipe"]) if saved else zoo.recipe(model)
    return override(adapt(base, **changes), wish or {})


def _model_of(weights: str) -> str:
    """The zoo name of the network that weights are for."""
    name = weights.partition(":")[0]
    if name in (*zoo.list_models(), *zoo.ALIASES):
        return name
    found = read_checkpoint(weights).config.name
    if found not in zoo.list_models():
        raise ConfigError(f"{weights} does not say which model of the zoo it is for; give its name as model")
    return found


def _free_folder(model: str) -> Path:
    """The first of runs/MODEL, runs/MODEL-2, ... that holds no run yet."""
    folder, number = Path("runs") / model, 1
    while (folder / LAST_FILE).exists():
        number += 1
        folder = Path("runs") / f"{model}-{number}"
    return folder
