"""Settings of a training run: the arguments of `rtdetr.train`, and values by dotted name."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from rtdetr.config import ModelConfig, Recipe, SizeHW, TrainConfig
from rtdetr.errors import ConfigError, nearest
from rtdetr.recipes.changes import parse
from rtdetr.recipes.run_data import OPENED, OPTIONS, is_path

PathLike = str | os.PathLike[str]


class TrainSettings(TypedDict, total=False):
    """Settings of `rtdetr.train`. All are optional, and None means not given."""

    config: PathLike | Mapping[str, Any] | None  # configuration file (see config_file.py), or its content
    model: str | None  # zoo name, or NAME:untrained; default: that of `weights`, else rtdetrv2_r18vd
    network: ModelConfig | None  # network of a model that is not in the zoo
    output_dir: PathLike | None  # folder for the results; default: runs/MODEL, then runs/MODEL-2, ...
    recipe: str | Recipe | Mapping[str, Any] | None  # "published", "finetune", "scratch" or "deim"; a recipe; or values
    set: Mapping[str, Any] | None  # values by dotted name: {"train.loss.bbox_weight": 4, "keep_last": 3}
    epochs: int | None  # number of epochs; the final epochs without augmentation stay as many
    batch_size: int | None  # images per step, over all processes; changes the learning rate only in `finetune`
    size_hw: SizeHW | None  # height and width of the training images, multiples of 32; scales multi-scale
    lr: float | None  # base learning rate; scales the rates of the parameter groups
    precision: str | None  # "auto", "float32", "bfloat16" or "float16"
    in_channels: int | None  # image channels: 3 is RGB, 1 gray, others as stored; default: those of the model
    images: PathLike | None  # folder of the training images; default: where the dataset usually has them
    val_data: PathLike | Sequence[PathLike] | None  # validation dataset; default: the val split of `data`
    val_images: PathLike | None  # folder of the validation images
    unlabelled: PathLike | None  # folder of images without annotations, which the teacher labels, or "none"
    bad_boxes: str | None  # boxes without area inside their image: "error" or "drop"
    bad_images: str | None  # unreadable images: "error" or "skip"
    max_pixels: int | None  # image size limit in pixels; default: about 179 million
    weights: PathLike | None  # starting weights: zoo name, file or "none"; classes are matched by name
    teacher: PathLike | None  # trained detector that guides the training: zoo name, file or "none"
    backbone_weights: PathLike | None  # "auto" (ImageNet), file or "none"; not used with `weights`
    freeze: str | int | None  # "backbone", "encoder" (includes backbone), number of stages, or "none"
    balance: bool | None  # sample images of rare classes more often
    device: str | None  # "auto", "cpu", "cuda" or "cuda:1"
    deterministic: bool | None  # bit-identical repetition on the same machine
    rehearsal: bool | None  # try the largest batch before the first step; default: True
    channels_last: bool | None  # channels-last memory format; default: True
    seed: int | None  # random seed
    workers: int | None  # processes that load images; 0: load in the main process
    evaluate_every: int | None  # epochs between evaluations; 0: never
    best_metric: str | None  # metric that selects the best weights; default: "ap"
    early_stopping: int | None  # stop after this many evaluations without improvement
    keep_last: int | None  # number of resumable checkpoints to keep; default: 1
    log_every: int | None  # steps between rows of metrics.jsonl
    loggers: Sequence[str] | None  # experiment trackers: "wandb", "mlflow"
    font: PathLike | None  # font file for class names, or "none"; missing letters come from installed fonts


class Layer(NamedTuple):
    """Settings from one source: a resumed run, a configuration file, the arguments, or assignments by name.

    Attributes:
        values: fields of `TrainConfig`. "recipe" may be a name, and "none" disables a setting.
        recipe: values of the recipe, by dotted name.
        network: values of the network, by dotted name.
        origins: source of each data setting.
        spelled: for settings by full name, such as "train.lr": what a user wrote, such as "lr (--lr)".
    """

    values: dict[str, Any]
    recipe: dict[str, Any]
    network: dict[str, Any]
    origins: dict[str, str]
    spelled: Mapping[str, str] = {}


MAY_BE_NONE = (
    "weights",
    "backbone_weights",
    "teacher",
    "unlabelled",
    "freeze",
    "font",
)  # "none" overrides a file or a resumed run
PATHS = ("output_dir", *OPTIONS, "weights", "backbone_weights", "teacher", "unlabelled", "font")
_OF_RECIPE = {name: name for name in ("epochs", "batch_size", "lr", "precision")} | {"size_hw": "train_size_hw"}
_SET_ONLY = {"network", "in_channels", "balance", "rehearsal", "channels_last", "best_metric", "early_stopping"}
_SET_ONLY |= {"keep_last", "log_every", "config", "set"}  # settings that have no command-line option of their own
FLAGS = {name: f"--{name.replace('_', '-')}" for name in TrainSettings.__annotations__ if name not in _SET_ONLY}
FLAGS |= {"data": "DATA", "loggers": "--logger", "output_dir": "--output", "size_hw": "--size"}
"""Settings and their command-line options."""
_RUN_NAMES = TrainConfig.model_fields.keys() - {"recipe", "recipe_name", "model", "network", "data_origins"}
_DERIVED = {
    "num_classes": "the dataset determines the number of classes",
    "eval_size_hw": "it is the size of the training images (--size, Python: size_hw)",
}


def check_names(settings: Mapping[str, Any]) -> None:
    """Refuse unknown settings.

    Raises:
        ConfigError: a setting is unknown. The message suggests the nearest name.
    """
    known = sorted(TrainSettings.__annotations__)
    for name in settings:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    if not isinstance(settings.get("set") or {}, Mapping):
        raise ConfigError(f"set: expected a mapping such as {{'train.epochs': 12}}, got {settings['set']!r}")


def given(data: Any, settings: Mapping[str, Any]) -> Layer:
    """Return the arguments of `rtdetr.train` as a layer, without `config` and `set`."""
    values = {"data": data, **settings}
    values = {name: value for name, value in values.items() if value is not None and name not in ("config", "set")}
    recipe = {name: values.pop(setting) for setting, name in _OF_RECIPE.items() if setting in values}
    if isinstance(values.get("recipe"), Mapping):
        recipe |= values.pop("recipe")
    if isinstance(values.get("recipe"), Recipe):
        values["recipe_name"] = "own"
    origins = {name: option for name, option in OPTIONS.items() if name in values}
    full_names = {name: f"train.{_OF_RECIPE[name]}" if name in _OF_RECIPE else name for name in ("data", *settings)}
    spelled = {full: f"{name} ({FLAGS[name]})" if name in FLAGS else name for name, full in full_names.items()}
    return Layer({name: _text(name, value) for name, value in values.items()}, recipe, {}, origins, spelled)


def assigned(assignments: Mapping[str, Any]) -> Layer:
    """Return values by dotted name as a layer: train.NAME of the recipe, model.NAME of the network, or NAME of the run.

    Raises:
        ConfigError: a setting is unknown, or is derived from others.
    """
    spelled = {name: f"--set {name}" for name in assignments}
    layer = Layer({}, {}, {}, {name: text for name, text in spelled.items() if name in OPTIONS}, spelled)
    for name, value in assignments.items():
        section, _, rest = name.partition(".")
        value = parse(spelled[name], value) if isinstance(value, str) else value
        if section == "train" and rest:
            layer.recipe[rest] = value
        elif section == "model" and rest:
            if rest in _DERIVED:
                raise ConfigError(f"--set {name}: {name} cannot be set: {_DERIVED[rest]}. Remove it")
            layer.network[rest] = value
        elif name in _RUN_NAMES or name in ("recipe", "model"):
            layer.values[name] = value
        else:
            raise _unknown(name)
    return layer


def _unknown(name: str) -> ConfigError:
    """Error for an unknown dotted name."""
    guess = nearest(name.rpartition(".")[2], [*_RUN_NAMES, *Recipe.model_fields, "recipe", "model"])
    for field in Recipe.model_fields:
        guess = guess.replace(f"'{field}'", f"'train.{field}'")
    hint = "Use train.NAME for the recipe, model.NAME for the network, and NAME for the run."
    return ConfigError(f"--set: unknown setting {name!r}.{guess} {hint}")


def _text(name: str, value: Any) -> Any:
    """Paths as strings, and the type name of anything else, which is refused later. Other settings are unchanged."""
    if name not in PATHS:
        return value
    if name in ("data", "val_data") and not is_path(value):
        return OPENED
    if isinstance(value, list | tuple):
        return tuple(map(str, value)) if len(value) != 1 else str(value[0])
    return str(value) if isinstance(value, str | os.PathLike) else f"<{type(value).__name__}>"
