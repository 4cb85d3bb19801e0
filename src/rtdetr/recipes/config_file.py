"""Configuration files: `-c FILE` gives the same settings as the command line, in one YAML or JSON file.

    data: datasets/traffic
    model: rtdetrv2_r18vd      # a name, or a mapping: {base: rtdetrv2_r18vd, decoder: {num_queries: 500}}
    weights: rtdetrv2_r18vd
    recipe: finetune           # published, finetune or deim
    train:                     # single values of the recipe (`rtdetr.config.Recipe`)
      epochs: 40
      loss: {bbox_weight: 4}
    early_stopping: 10         # and any other field of `rtdetr.config.TrainConfig`

A run's own config.json is such a file. The files of the published implementation are recognized and translated
(`rtdetr.published`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtdetr.config import ModelConfig, Recipe, TrainConfig
from rtdetr.errors import ConfigError, nearest
from rtdetr.published import is_published, read_published
from rtdetr.weights.model_file import described_network
from rtdetr.yaml_files import read_yaml

NOT_SETTINGS = ("data_origins", "recipe_changes")  # what a run's config.json says besides, the latter in older ones
_PATHS = ("data", "val_data")


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings of a file, under the names of `TrainSettings`.

    Besides those it may have "data", "recipe_name", and "changes", single values of the recipe by name. Paths in it
    start from where the command runs, not from the file.

    Raises:
        ConfigError: the file is missing or broken, or has a key or value that cannot be; names the file.
    """
    values = read_yaml(path)
    if not values:
        raise ConfigError(f"{path}: expected 'key: value' lines, got none. Examples are in recipes/")
    if is_published(values):
        found = read_published(path)
        if found.resume:
            raise ConfigError(f"{path}: resume: expected the checkpoint on the command line: --resume {found.resume}")
        return found.settings
    known = [*TrainConfig.model_fields, "train"]
    for key in values:
        if key not in (*known, *NOT_SETTINGS):
            belongs = " It belongs under 'train:'." if key in Recipe.model_fields else nearest(key, known)
            raise ConfigError(f"{path}: unknown setting {key!r}.{belongs} Known: {', '.join(sorted(known))}.")
    settings = {key: value for key, value in values.items() if value is not None and key not in NOT_SETTINGS}
    try:
        _read_model(settings)
        _read_recipe(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    for key in _PATHS:
        if isinstance(settings.get(key), list):
            settings[key] = tuple(map(str, settings[key]))
    return settings


def _read_model(settings: dict[str, Any]) -> None:
    """Turn the model, a name or a description, into `model` and `network`."""
    model = settings.get("model")
    if isinstance(settings.get("network"), dict):
        settings["network"] = ModelConfig(**settings["network"])
    if isinstance(model, Mapping):
        settings["network"] = described_network(model)
        settings["model"] = settings["network"].name
    elif model is not None and not isinstance(model, str):
        raise ConfigError(f"model: expected a name or 'key: value' lines, got {model!r}")


def _read_recipe(settings: dict[str, Any]) -> None:
    recipe = settings.get("recipe")
    if isinstance(recipe, Mapping):
        settings["recipe"] = Recipe(**recipe)
    else:
        settings.pop("recipe_name", None)  # the name says it already
        if recipe is not None and not isinstance(recipe, str):
            raise ConfigError(f"recipe: expected a name or 'key: value' lines, got {recipe!r}")
    changes = settings.pop("train", {})
    if not isinstance(changes, Mapping):
        raise ConfigError(f"train: expected 'key: value' lines, got {changes!r}")
    if changes:
        settings["changes"] = dict(changes)
