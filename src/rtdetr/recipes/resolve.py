"""From everything that was written, and what the dataset says, to the final settings of a run. Start at `resolve`.

    settings.py    what a user may write, and single values by dotted name
    written.py     all that was written, merged: a resumed run, a file, the settings, single values
    run_data.py    the datasets, opened
    named_recipes.py, changes.py    the recipe, for these data

Nothing changes the settings afterwards.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.categories import COCO80
from rtdetr.config import Recipe, TrainConfig
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


DEPENDENT = (AUTO, FINETUNE)  # recipes that are made for the data


class DataSummary(NamedTuple):
    """What a recipe that is made for the data goes by.

    Attributes:
        num_images: that an epoch shows: the length of the training data, more if it is balanced.
        class_names: its classes, by label.
    """

    num_images: int
    class_names: Sequence[str]

    @classmethod
    def of(cls, data: DetectionDataset, *, balance: bool) -> "DataSummary":
        """Count what an epoch of the training data shows."""
        factors = repeat_factors(data.annotations) if balance else None
        return cls(epoch_length(factors, num_images=len(data)), data.categories.names)


class RunSettings(NamedTuple):
    """What a run is made of: its final settings, and its opened datasets "train" and, where it is evaluated, "val"."""

    config: TrainConfig
    datasets: dict[str, DetectionDataset]


def resolve(
    data: Any, settings: Mapping[str, Any], *, resume: Path | None = None, saved: Mapping[str, Any] | None = None
) -> RunSettings:
    """Return the final settings of a run and its datasets.

    Args:
        data: dataset or datasets to train on, as paths or Python objects; may be left out on resuming, or where the
            configuration file has it. It replaces the file's data whole: folders of images and validation data as well.
        settings: see `TrainSettings`.
        resume: checkpoint, or its folder, to go on from.
        saved: the settings that checkpoint was made with, where it says so.

    Raises:
        ConfigError: a setting that is unknown, missing or cannot be; the nearest valid name is given.
        DatasetError: a dataset is missing, broken, or has images that are too large.
    """
    written = read_written(data, settings, resume=resume, saved=saved)
    draft = configure(written)  # without the data, so that mistakes are found before it is read
    check(draft)
    datasets = open_run_data(draft, GivenData.among(data, settings.get("val_data")))
    summary = DataSummary.of(datasets["train"], balance=draft.balance)
    return RunSettings(for_data(draft, written, summary), datasets)


def configure(written: Written) -> TrainConfig:
    """Return the settings of a run; a recipe that depends on the data (`for_data`) is the published one for now.

    Raises:
        ConfigError: a value that cannot be.
    """
    values = written.values
    model, network = values["model"], values["network"]
    if isinstance(written.recipe, Recipe):
        recipe = written.recipe
    elif written.recipe in DEPENDENT:
        recipe = published(model, network)
    else:
        recipe = named_recipe(written.recipe, model, network)
    recipe = change(recipe, written.changes)
    weights = values["weights"]
    if written.may_tune and not (weights or values["backbone_weights"]):
        weights = recipe.tuning_from
    return TrainConfig(**{**values, "weights": weights, "recipe": recipe, "recipe_name": written.recipe_name})


def for_data(draft: TrainConfig, written: Written, data: DataSummary) -> TrainConfig:
    """Return the settings with the recipe that fits the data, where it depends on that.

    Where weights are given and no recipe is named, it is `finetune`, unless the classes are those of COCO: then the run
    goes on with what the weights were made for, by the published recipe.

    Raises:
        ConfigError: a change of the recipe that cannot be.
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
    """Refuse what can be seen to be wrong before the data is read, and allow images of the size that is asked for.

    Raises:
        ConfigError, InputError, MissingDependencyError: a metric, tracker, device or font that is not to be had.
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
