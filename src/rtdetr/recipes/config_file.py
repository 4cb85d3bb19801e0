"""Configuration files: `-c FILE` reads the settings of the command line from a YAML or JSON file.

    data: datasets/traffic
    model: rtdetrv2_r18vd      # a name or a mapping: {base: rtdetrv2_r18vd, decoder: {num_queries: 500}}
    weights: rtdetrv2_r18vd
    recipe: finetune           # published, finetune, scratch or deim
    train:                     # values of the recipe (`rtdetr.config.Recipe`)
      epochs: 40
      loss: {bbox_weight: 4}
    early_stopping: 10         # or any other field of `rtdetr.config.TrainConfig`

The config.json of a run is such a file. YAML files of the published implementation are recognized and translated
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

NOT_SETTINGS = ("data_origins", "recipe_changes")  # other keys of a run's config.json; recipe_changes is in older files
_PATHS = ("data", "val_data")


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings in a file, with the names of `TrainSettings`.

    The result may also have "data", "recipe_name" and "changes" (values of the recipe by name). Paths are relative to
    the current folder, not to the file.

    Raises:
        ConfigError: the file is missing or malformed, or has an unknown key or an invalid value. The message names it.
    """
    values = read_yaml(path)
    if not values:
        raise ConfigError(f"{path}: expected 'key: value' lines, but the file is empty. Examples are in recipes/")
    if is_published(values):
        found = read_published(path)
        if found.resume:
            raise ConfigError(
                f"{path}: resume cannot be set in a file: use --resume {found.resume} on the command line"
            )
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
    """Replace the model, a name or a mapping, by `model` and `network`."""
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
        settings.pop("recipe_name", None)  # `recipe` is the name
        if recipe is not None and not isinstance(recipe, str):
            raise ConfigError(f"recipe: expected a name or 'key: value' lines, got {recipe!r}")
    changes = settings.pop("train", {})
    if not isinstance(changes, Mapping):
        raise ConfigError(f"train: expected 'key: value' lines, got {changes!r}")
    if changes:
        settings["changes"] = dict(changes)
