"""What a user can ask of a training run: the settings of `rtdetr.train`, and single values by their dotted name."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from rtdetr.config import ModelConfig, Recipe, SizeHW, TrainConfig
from rtdetr.errors import ConfigError, nearest
from rtdetr.recipes.changes import parse
from rtdetr.recipes.run_data import OPENED, OPTIONS, is_path

PathLike = str | os.PathLike[str]


class TrainSettings(TypedDict, total=False):
    """What `rtdetr.train` can be asked for, all of it optional. None is the same as left out."""

    config: PathLike | Mapping[str, Any] | None  # file with settings (see config_file.py), or what was read from one
    model: str | None  # name in the zoo, or NAME:untrained; default: the one of `weights`, else rtdetrv2_r18vd
    network: ModelConfig | None  # a model that is not in the zoo
    output_dir: PathLike | None  # folder for checkpoints and metrics; default: runs/MODEL, then runs/MODEL-2, ...
    recipe: str | Recipe | Mapping[str, Any] | None  # "published", "finetune", "deim"; one's own; or single values
    set: Mapping[str, Any] | None  # single values by dotted name: {"train.loss.bbox_weight": 4, "keep_last": 3}
    epochs: int | None  # length of the run; augmentation ends as long before its end as in the recipe
    batch_size: int | None  # images per step, over all processes; the learning rate does not follow
    size_hw: SizeHW | None  # height and width of the training images, multiples of 32; multi-scale follows
    lr: float | None  # learning rate; parameter groups with their own follow in proportion
    precision: str | None  # "auto", "float32", "bfloat16" or "float16"
    in_channels: int | None  # of the images: 3 RGB, 1 gray, other numbers as stored; default: the model's, 3
    images: PathLike | None  # folder of the training images, where it is not in a usual place
    val_data: PathLike | Sequence[PathLike] | None  # dataset that is evaluated; default: the validation part of `data`
    val_images: PathLike | None  # folder of its images
    bad_boxes: str | None  # "error" or "drop" for boxes without an area inside their image
    bad_images: str | None  # "error" or "skip" for images that cannot be read
    max_pixels: int | None  # largest image in pixels; default: about 179 million
    weights: PathLike | None  # zoo name (downloaded), file or "none"; classes are matched by name
    backbone_weights: PathLike | None  # "auto" (ImageNet's, downloaded), a file or "none"; not used with `weights`
    freeze: str | int | None  # "backbone", "encoder" (with the backbone), number of backbone stages, or "none"
    balance: bool | None  # draw images of rare classes more often
    device: str | None  # "auto", "cpu", "cuda" or "cuda:1"
    deterministic: bool | None  # bit-equal repetition on the same machine
    rehearsal: bool | None  # try the largest batch before the first step; on unless switched off
    channels_last: bool | None  # memory layout of images and convolutions; on unless switched off
    seed: int | None  # of initialization, order, augmentation and denoising
    workers: int | None  # processes that load images; 0: none
    evaluate_every: int | None  # epochs between evaluations; 0: never
    best_metric: str | None  # number of an evaluation that decides which weights are best; "ap" if left out
    early_stopping: int | None  # evaluations without a better one after which the run ends
    keep_last: int | None  # checkpoints to resume from that are kept; 1 if left out
    log_every: int | None  # steps between rows of metrics.jsonl
    loggers: Sequence[str] | None  # experiment trackers to report to as well: "wandb", "mlflow"
    font: PathLike | None  # font file for class names in images, or "none"; installed fonts have what it lacks


class Layer(NamedTuple):
    """What one source says about a run: a resumed run, a configuration file, the settings, or assignments by name.

    Attributes:
        values: fields of `TrainConfig`. "recipe" may be a name, and "none" stands for what is switched off.
        recipe: single values of the recipe, by dotted name.
        network: single values of the network, by dotted name.
        origins: where each setting of the data stands.
    """

    values: dict[str, Any]
    recipe: dict[str, Any]
    network: dict[str, Any]
    origins: dict[str, str]


MAY_BE_NONE = ("weights", "backbone_weights", "freeze", "font")  # "none" undoes what a file or a resumed run says
PATHS = ("output_dir", *OPTIONS, "weights", "backbone_weights", "font")
_OF_RECIPE = {name: name for name in ("epochs", "batch_size", "lr", "precision")} | {"size_hw": "train_size_hw"}
_RUN_NAMES = TrainConfig.model_fields.keys() - {"recipe", "recipe_name", "model", "network", "data_origins"}
_DERIVED = {
    "num_classes": "the number of classes is that of the dataset",
    "eval_size_hw": "the network's size is that of the training images (--size, Python: size_hw)",
}


def check_names(settings: Mapping[str, Any]) -> None:
    """Refuse settings that do not exist.

    Raises:
        ConfigError: one does not; the nearest name is given.
    """
    known = sorted(TrainSettings.__annotations__)
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    if not isinstance(settings.get("set") or {}, Mapping):
        raise ConfigError(f"set: expected values by name, such as {{'train.epochs': 12}}, got {settings['set']!r}")


def given(data: Any, settings: Mapping[str, Any]) -> Layer:
    """Return what the arguments of `rtdetr.train` say, without the file and the assignments among them."""
    values = {"data": data, **settings}
    values = {name: value for name, value in values.items() if value is not None and name not in ("config", "set")}
    recipe = {name: values.pop(setting) for setting, name in _OF_RECIPE.items() if setting in values}
    if isinstance(values.get("recipe"), Mapping):
        recipe |= values.pop("recipe")
    if isinstance(values.get("recipe"), Recipe):
        values["recipe_name"] = "own"
    origins = {name: option for name, option in OPTIONS.items() if name in values}
    return Layer({name: _text(name, value) for name, value in values.items()}, recipe, {}, origins)


def assigned(assignments: Mapping[str, Any]) -> Layer:
    """Return what single values by dotted name say: train.NAME of the recipe, model.NAME of the network, or NAME.

    Raises:
        ConfigError: no such setting, or one that follows from others.
    """
    layer = Layer({}, {}, {}, {name: f"--set {name}" for name in OPTIONS if name in assignments})
    for name, value in assignments.items():
        section, _, rest = name.partition(".")
        value = parse(name, value) if isinstance(value, str) else value
        if section == "train" and rest:
            layer.recipe[rest] = value
        elif section == "model" and rest:
            if rest in _DERIVED:
                raise ConfigError(f"{name} cannot be set: {_DERIVED[rest]}; leave it out")
            layer.network[rest] = value
        elif name in _RUN_NAMES or name in ("recipe", "model"):
            layer.values[name] = value
        else:
            raise _unknown(name)
    return layer


def _unknown(name: str) -> ConfigError:
    """An error about a dotted name that no setting has."""
    guess = nearest(name.rpartition(".")[2], [*_RUN_NAMES, *Recipe.model_fields, "recipe", "model"])
    for field in Recipe.model_fields:
        guess = guess.replace(f"'{field}'", f"'train.{field}'")
    hint = "A setting of the recipe is called train.NAME, one of the network model.NAME, one of the run NAME."
    return ConfigError(f"unknown setting {name!r}.{guess} {hint}")


def _text(name: str, value: Any) -> Any:
    """Paths as texts; of something else, which is refused later, its type. Other settings are as they are."""
    if name not in PATHS:
        return value
    if name in ("data", "val_data") and not is_path(value):
        return OPENED
    if isinstance(value, list | tuple):
        return tuple(map(str, value)) if len(value) != 1 else str(value[0])
    return str(value) if isinstance(value, str | os.PathLike) else f"<{type(value).__name__}>"
