"""From everything that was written, and what the dataset says, to the final settings of a run. Start at `resolve`.

    settings.py    what a user may write, and single values by dotted name
    written.py     all that was written, merged: a resumed run, a file, the settings, single values
    run_data.py    the datasets, opened
    named_recipes.py, changes.py    the recipe, for these data

Nothing changes the settings afterwards.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.config import Recipe, TrainConfig
from rtdetr.data import DetectionDataset
from rtdetr.devices import choose_device
from rtdetr.errors import naming_the_missing_extra, one_of
from rtdetr.evaluation import CocoMetrics
from rtdetr.fonts import given_face
from rtdetr.images import allow_pixels
from rtdetr.recipes.changes import change
from rtdetr.recipes.named_recipes import AUTO, FINETUNE, DataSummary, meant, named_recipe, published, tailored
from rtdetr.recipes.run_data import GivenData, open_run_data
from rtdetr.recipes.written import Written, read_written

METRICS = [name for name in CocoMetrics._fields if name != "per_class"]


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
    return RunSettings(configure(written, summary), datasets)


def configure(written: Written, data: DataSummary | None = None) -> TrainConfig:
    """Return the settings of a run. Without `data`, a recipe that depends on it is the published one for now.

    Raises:
        ConfigError: a value that cannot be.
    """
    values, name, changes = written.values, written.recipe_name, written.changes
    depends_on_data = written.recipe in (AUTO, FINETUNE)
    if isinstance(written.recipe, Recipe):
        recipe = written.recipe
    elif depends_on_data:
        recipe = published(values["model"], values["network"])
    else:
        recipe = named_recipe(written.recipe, values["model"], values["network"])
    changed = change(recipe, changes)
    has_weights = values["weights"] or values["backbone_weights"]
    weights = changed.tuning_from if written.may_tune and not has_weights else values["weights"]
    if data is not None and depends_on_data:
        name = meant(name, data)
        from_scratch = weights is None and values["backbone_weights"] is None
        changed = tailored(recipe, changes, data, from_scratch=from_scratch) if name == FINETUNE else changed
    return TrainConfig(**{**values, "weights": weights, "recipe": changed, "recipe_name": name})


def check(config: TrainConfig) -> None:
    """Refuse what can be seen to be wrong before the data is read, and allow images of the size that is asked for.

    Raises:
        ConfigError, InputError, MissingDependencyError: a metric, tracker, device or font that is not to be had.
    """
    one_of("best_metric", config.best_metric, METRICS)
    for name in config.loggers:
        with naming_the_missing_extra():
            importlib.import_module(name)
    if config.font is not None:
        given_face(config.font)
    if config.max_pixels is not None:
        allow_pixels(config.max_pixels)
    choose_device(config.device)
