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
from rtdetr.config import Recipe, TrainConfig, naming
from rtdetr.data import DetectionDataset
from rtdetr.data.sampling import epoch_length, repeat_factors
from rtdetr.devices import choose_device
from rtdetr.errors import one_of, require_extra
from rtdetr.evaluation import CocoMetrics
from rtdetr.fonts import given_face
from rtdetr.images import allow_pixels
from rtdetr.recipes.changes import change
from rtdetr.recipes.named_recipes import AUTO, FINETUNE, PUBLISHED, finetune, named_recipe, published
from rtdetr.recipes.run_data import GivenData, open_run_data
from rtdetr.recipes.written import Written, read_written

METRICS = [name for name in CocoMetrics._fields if name != "per_class"]
DEPENDENT = (AUTO, FINETUNE)  # recipes that depend on the data


class DataSummary(NamedTuple):
    """Properties of the training data that a recipe may depend on.

    Attributes:
        num_images: number of images per epoch: all training images, more with balancing.
        class_names: class names by label.
    """

    num_images: int
    class_names: Sequence[str]

    @classmethod
    def of(cls, data: DetectionDataset, *, balance: bool) -> "DataSummary":
        """Summarize the training data."""
        factors = repeat_factors(data.annotations) if balance else None
        return cls(epoch_length(factors, num_images=len(data)), data.categories.names)


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
    draft = configure(written)  # without the data, to find mistakes before reading it
    check(draft)
    datasets = open_run_data(draft, GivenData.among(data, settings.get("val_data")))
    summary = DataSummary.of(datasets["train"], balance=draft.balance)
    return RunSettings(for_data(draft, written, summary), datasets)


def configure(written: Written) -> TrainConfig:
    """Return the settings of a run. A recipe that depends on the data is the published one until `for_data` is called.

    Raises:
        ConfigError: a value is invalid.
    """
    values = written.values
    model, network = values["model"], values["network"]
    if isinstance(written.recipe, Recipe):
        recipe = written.recipe
    elif written.recipe in DEPENDENT:
        recipe = published(model, network)
    else:
        recipe = named_recipe(written.recipe, model, network)
    with naming(written.spelled):
        recipe = change(recipe, written.changes)
        weights = values["weights"]
        if written.may_tune and not (weights or values["backbone_weights"]):
            weights = recipe.tuning_from
        return TrainConfig(**{**values, "weights": weights, "recipe": recipe, "recipe_name": written.recipe_name})


def for_data(draft: TrainConfig, written: Written, data: DataSummary) -> TrainConfig:
    """Return the settings with the recipe for the data, if the recipe depends on it.

    With weights and no named recipe, the recipe is `finetune`, unless the classes are those of COCO: then training
    continues on the same classes with the published recipe.

    Raises:
        ConfigError: a change of the recipe is invalid.
    """
    if written.recipe not in DEPENDENT:
        return draft
    if written.recipe == AUTO and list(data.class_names) == COCO80.names:
        return draft.replace(recipe_name=PUBLISHED)
    changes = dict(written.changes)
    recipe = finetune(
        published(draft.model, draft.network),
        num_images=data.num_images,
        batch_size=draft.recipe.batch_size if changes.pop("batch_size", None) is not None else None,
        epochs=draft.recipe.epochs if changes.pop("epochs", None) is not None else None,
        from_scratch=draft.weights is None and draft.backbone_weights is None,
    )
    return draft.replace(recipe=change(recipe, changes), recipe_name=FINETUNE)


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
