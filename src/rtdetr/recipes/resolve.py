"""Resolve the final settings of a run from all sources and the dataset. Start reading at `resolve`.

    settings.py    settings of `rtdetr.train`, and values by dotted name
    written.py     merges all sources: resumed run, configuration file, settings, values by dotted name
    run_data.py    opens the datasets
    named_recipes.py, changes.py    the recipe for the dataset

The settings do not change afterwards.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.categories import COCO80
from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.data.sampling import epoch_factors, epoch_length
from rtdetr.devices import choose_device
from rtdetr.errors import ConfigError, one_of, require_extra
from rtdetr.evaluation import CocoMetrics
from rtdetr.fonts import given_face
from rtdetr.images import allow_pixels
from rtdetr.recipes.changes import change
from rtdetr.recipes.named_recipes import (
    AUTO,
    DEIM,
    FINETUNE,
    PUBLISHED,
    SCRATCH,
    finetune,
    named_recipe,
    scratch,
    shorten_warmups,
)
from rtdetr.recipes.run_data import UNLABELLED, GivenData, open_run_data
from rtdetr.recipes.written import Written, read_written
from rtdetr.strict import naming

METRICS = [name for name in CocoMetrics._fields if name != "per_class"]


class DataSummary(NamedTuple):
    """Properties of the training data that a recipe may depend on.

    Attributes:
        num_images: number of images per epoch: all training images, more with balancing or unlabelled images.
        class_names: class names by label.
    """

    num_images: int
    class_names: Sequence[str]

    @classmethod
    def of(cls, datasets: Mapping[str, DetectionDataset], *, balance: bool) -> "DataSummary":
        """Summarize the training data of a run."""
        train, unlabelled = datasets["train"], len(datasets.get(UNLABELLED, ()))
        factors = epoch_factors(train.annotations, balance=balance, num_unlabelled=unlabelled)
        return cls(epoch_length(factors, num_images=len(train)), train.categories.names)


class RunSettings(NamedTuple):
    """Final settings of a run, and its datasets: "train" and, if the run evaluates, "val"."""

    config: TrainConfig
    datasets: dict[str, DetectionDataset]


def resolve(
    data: Any, settings: Mapping[str, Any], *, resume: Path | None = None, saved: Mapping[str, Any] | None = None
) -> RunSettings:
    """Return the final settings of a run and its datasets.

    Args:
        data: one or more training datasets, as paths or Python objects. Optional if you resume, or if the configuration
            file has them. It replaces all data settings of the file, including image folders and validation data.
        settings: see `TrainSettings`.
        resume: checkpoint to resume, or its folder.
        saved: settings stored in the checkpoint, if any.

    Raises:
        ConfigError: a setting is unknown, missing or invalid. The message suggests the nearest valid name.
        DatasetError: a dataset is missing, malformed, or has images that are too large.
    """
    written = read_written(data, settings, resume=resume, saved=saved)
    draft = configure(written)  # finds mistakes before the data is read
    check(draft)
    if draft.unlabelled is not None and draft.teacher is None and resume is None:  # a resumed run has its labels
        raise ConfigError(
            "unlabelled images (--unlabelled) need a teacher that labels them: give a trained detector with --teacher"
        )
    datasets = open_run_data(draft, GivenData.among(data, settings.get("val_data")))
    return RunSettings(configure(written, DataSummary.of(datasets, balance=draft.balance)), datasets)


def configure(written: Written, data: DataSummary | None = None) -> TrainConfig:
    """Return the settings of a run, with its recipe.

    Without a named recipe, it is `finetune` with weights and `scratch` without. For the classes of COCO, and for
    variants that were published as tuned from another model, it is the published recipe. benchmarks/learning.py
    compares them.

    Args:
        written: the merged settings.
        data: the training data. None: not read yet; a recipe that depends on it is then not adapted to it.

    Raises:
        ConfigError: a value is invalid.
    """
    values, recipe, name = written.values, written.recipe, written.recipe_name
    if recipe == AUTO:
        is_coco = data is not None and list(data.class_names) == COCO80.names
        own = named_recipe(PUBLISHED, values["model"], values["network"])
        if values["weights"]:
            recipe = name = PUBLISHED if is_coco else FINETUNE
        else:
            tunes = written.may_tune and own.tuning_from is not None and not values["backbone_weights"]
            recipe = name = PUBLISHED if is_coco or tunes else SCRATCH
    asked = recipe
    if isinstance(recipe, str):
        recipe = named_recipe(recipe, values["model"], values["network"])
    with naming(written.spelled):
        changed = change(recipe, written.changes)
        weights = values["weights"]
        if written.may_tune and not (weights or values["backbone_weights"]):
            weights = changed.tuning_from
        random_backbone = weights is None and values["backbone_weights"] is None
        if data is not None and asked == DEIM:
            changed = change(shorten_warmups(changed, num_images=data.num_images), written.changes)
        if data is not None and asked == SCRATCH:
            # a given rate is meant for AdamW, unless the optimizer is given too
            has_optimizer = bool({"optimizer", "lr", "backbone_lr", "groups"} & written.changes.keys())
            fitted = scratch(
                changed.replace(batch_size=recipe.batch_size),
                num_images=data.num_images,
                batch_size=changed.batch_size if "batch_size" in written.changes else None,
                optimizer=changed.optimizer if has_optimizer else None,
                random_backbone=random_backbone,
            )
            changed = change(fitted, written.changes)
        if data is not None and asked == FINETUNE:
            changes = dict(written.changes)
            fitted = finetune(
                recipe,
                num_images=data.num_images,
                batch_size=changed.batch_size if changes.pop("batch_size", None) is not None else None,
                epochs=changed.epochs if changes.pop("epochs", None) is not None else None,
                random_backbone=random_backbone,
            )
            changed = change(fitted, changes)
        return TrainConfig(**{**values, "weights": weights, "recipe": changed, "recipe_name": name})


def check(config: TrainConfig) -> None:
    """Check settings that do not need the data, and apply the image size limit.

    Raises:
        ConfigError, InputError, MissingDependencyError: a metric, tracker, device or font is unknown or not available.
    """
    one_of("best_metric", config.best_metric, METRICS)
    for name in config.loggers:
        with require_extra():
            importlib.import_module(name)
    if config.font is not None:
        given_face(config.font)
    if config.max_pixels is not None:
        allow_pixels(config.max_pixels)
    choose_device(config.device)
