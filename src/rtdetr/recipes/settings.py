"""From what a user asks for to a resolved `TrainConfig`.

Layers, each over the one before: the recipe of a name, or that of a resumed run; a configuration file; settings; single
values by their dotted name. A recipe that fits the data is only known when the data is: `fit` completes it then.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, TypedDict

from rtdetr import zoo
from rtdetr.config import ModelConfig, Recipe, SizeHW, TrainConfig
from rtdetr.errors import ConfigError, WeightsError, nearest
from rtdetr.files import with_home
from rtdetr.recipes.changes import change, parse
from rtdetr.recipes.config_file import read_config
from rtdetr.recipes.named_recipes import named_recipe, published
from rtdetr.recipes.run_data import OPENED
from rtdetr.run_files import CONFIG_FILE, LAST_FILE
from rtdetr.weights import read_checkpoint
from rtdetr.weights.assumptions import tell_assumed_sampling
from rtdetr.weights.run_record import edits, read_run_config, shown

_log = logging.getLogger(__name__)
DEFAULT_MODEL = "rtdetrv2_r18vd"
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
    batch_size: int | None  # images a step, over all processes; the learning rate does not follow
    size_hw: SizeHW | None  # height and width of the training images, multiples of 32; multi-scale follows
    lr: float | None  # learning rate; parameter groups with their own follow in proportion
    precision: str | None  # "auto", "float32", "bfloat16" or "float16"
    in_channels: int | None  # of the images: 3 RGB, 1 grey, other numbers as stored; default: the model's, 3
    images: PathLike | None  # folder of the training images, where it is not in a usual place
    val_data: PathLike | Sequence[PathLike] | None  # dataset that is evaluated; default: the validation part of `data`
    val_images: PathLike | None  # folder of its images
    bad_boxes: str | None  # "error" or "drop" for boxes without an area inside their image
    bad_images: str | None  # "error" or "skip" for images that cannot be read
    max_pixels: int | None  # most pixels of an image; default: about 179 million
    weights: PathLike | None  # zoo name (downloaded), file or "none"; classes are matched by name
    backbone_weights: PathLike | None  # "auto" (ImageNet's, downloaded), a file or "none"; not used with `weights`
    freeze: str | int | None  # "backbone", "encoder" (with the backbone), number of backbone stages, or "none"
    balance: bool | None  # draw images of rare classes more often
    device: str | None  # "auto", "cpu", "cuda" or "cuda:1"
    deterministic: bool | None  # bit-equal repetition on the same machine
    rehearsal: bool | None  # try the largest batch before the first step; on unless switched off
    channels_last: bool | None  # memory layout of images and convolutions; on unless switched off
    seed: int | None  # of initialisation, order, augmentation and denoising
    workers: int | None  # processes that load images; 0: none
    evaluate_every: int | None  # epochs between evaluations; 0: never
    best_metric: str | None  # number of an evaluation that decides which weights are best; "ap" if left out
    early_stopping: int | None  # evaluations without a better one after which the run ends
    keep_last: int | None  # checkpoints to resume from that are kept; 1 if left out
    log_every: int | None  # steps between rows of metrics.jsonl
    loggers: Sequence[str] | None  # experiment trackers to report to as well: "wandb", "mlflow"
    font: PathLike | None  # font file for class names in pictures, or "none"; installed fonts have what it lacks


_PATHS = ("output_dir", "images", "val_data", "val_images", "weights", "backbone_weights", "font")
_OF_DATA = {"data": "DATA", "images": "--images", "val_data": "--val-data", "val_images": "--val-images"}
_OF_RECIPE = {"epochs": "epochs", "batch_size": "batch_size", "lr": "lr", "precision": "precision"}
_OF_RECIPE["size_hw"] = "train_size_hw"
_MAY_BE_NONE = ("weights", "backbone_weights", "freeze", "font")  # "none" undoes what a file or a resumed run says
_IMAGES_OF = {"data": "images", "val_data": "val_images"}
_NOT_SET_BY_NAME = {"recipe", "recipe_name", "recipe_changes", "model", "network", "data_origins"}


def resolve(
    data: PathLike | Sequence[PathLike] | None,
    settings: Mapping[str, Any],
    *,
    resume: Path | None = None,
    saved: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the settings of a run. Where its `recipe_changes` are not None, `fit` has to complete the recipe.

    Args:
        data: dataset or datasets to train on; may be left out on resuming, or where the configuration file has it. It
            replaces the file's data whole: folders of images and validation data as well.
        settings: see `TrainSettings`.
        resume: checkpoint, or its folder, to go on from.
        saved: the settings that checkpoint was made with, where it says so.

    Raises:
        ConfigError: a setting that is unknown, missing or cannot be; the nearest valid name is given.
    """
    given = _checked(settings)
    config = given.pop("config", {})
    file = _file(config)
    changes = {**file.pop("changes", {}), **_pop_changes(given)}
    assignments = given.pop("set", {})
    if data is not None:
        given["data"] = _texts(data)
    _replace_data(file, {*given, *assignments})
    where = {} if resume is None else {"output_dir": str(resume if resume.is_dir() else resume.parent)}
    if saved is not None and resume is not None:
        _tell_edits(Path(where["output_dir"]) / CONFIG_FILE, saved)
    values: dict[str, Any] = {**(saved or {}), **where, **file, **given}
    values |= {name: _word(values[name]) for name in _MAY_BE_NONE if name in values}
    if "model" in given and "network" not in given:
        values["network"] = None
    network = values.get("network")
    if isinstance(network, dict):
        values["network"] = ModelConfig(**network)
    if isinstance(given.get("recipe"), Recipe):
        values["recipe_name"] = "own"
    for name in sorted(assignments, key=lambda name: name not in ("model", "weights")):  # before the network's parts
        _assign(values, changes, name, assignments[name])
    values["data_origins"] = {
        **{name: text for name, text in (saved or {}).get("data_origins", {}).items() if values.get(name) is not None},
        **_origins(config, file=file, given=given, assignments=assignments.keys()),
    }
    values |= {name: _with_home(values[name]) for name in ("data", *_PATHS) if name in values}
    from_nothing = "none" in (values.get("weights"), values.get("backbone_weights")) or resume is not None
    if _untrained(values):
        values["model"], from_nothing = values["model"].removesuffix(zoo.UNTRAINED), True
    for name in _MAY_BE_NONE:
        values[name] = None if values.get(name) == "none" else values.get(name)
    if saved is not None:
        _find_again(values, [name for name in _OF_DATA if name not in given and name not in file])
    if "data" not in values:
        raise ConfigError("no dataset given: give the folder or annotation file of the images to train on")
    _take_model(values)
    values |= _recipe(values, changes)
    if "output_dir" not in values:
        values["output_dir"] = str(_free_folder(values["model"]))
    if not (from_nothing or values["weights"] or values["backbone_weights"]):
        values["weights"] = values["recipe"].tuning_from
    return TrainConfig(**values)


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    known = sorted(TrainSettings.__annotations__)
    unknown = next((name for name in settings if name not in known), None)
    if unknown is not None:
        raise ConfigError(f"unknown setting {unknown!r}.{nearest(unknown, known)} Known: {', '.join(known)}.")
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(given.get("set", {}), Mapping):
        raise ConfigError(f"set: expected values by name, such as {{'train.epochs': 12}}, got {given['set']!r}")
    return {name: _texts(value) if name in _PATHS else value for name, value in given.items()}


def _texts(paths: PathLike | Sequence[PathLike]) -> str | tuple[str, ...]:
    if isinstance(paths, list | tuple):
        return tuple(map(str, paths)) if len(paths) != 1 else str(paths[0])
    return str(paths) if isinstance(paths, str | os.PathLike) else f"<{type(paths).__name__}>"


def _with_home(paths: Any) -> Any:
    """Paths of a run with the home folder in place of `~`; what is no path is refused later."""
    if isinstance(paths, list | tuple):
        return tuple(map(_with_home, paths))
    return os.path.expanduser(paths) if isinstance(paths, str) else paths


def _pop_changes(given: dict[str, Any]) -> dict[str, Any]:
    """Take out of the settings what changes single values of the recipe."""
    changes = {name: given.pop(setting) for setting, name in _OF_RECIPE.items() if setting in given}
    if isinstance(given.get("recipe"), Mapping):
        changes |= given.pop("recipe")
    return changes


def _tell_edits(file: Path, saved: Mapping[str, Any]) -> None:
    """Say where a run's config.json differs from its checkpoint, by which the run goes on: somebody may have edited it.

    The two also differ where a run was resumed with other settings and ended before its first checkpoint.
    """
    try:
        written = read_run_config(file)
    except WeightsError as error:
        _log.warning("%s. The run goes on by its checkpoint", error)
        return
    for name, value, stored in edits(written, saved):
        if name != "output_dir" and not name.startswith("data_origins"):
            hint = "" if name == "network" else f". To change it: --set {name}={json.dumps(value)}"
            _log.warning(
                "%s has %s %s, the checkpoint has %s, and the run goes on with that%s",
                *(file, name, shown(value), shown(stored), hint),
            )


def _find_again(values: Mapping[str, Any], names: Sequence[str]) -> None:
    """See that the data of a resumed run, which is not given again, can be found from here."""
    for name in names:
        paths = values.get(name) or ()
        for path in (paths,) if isinstance(paths, str) else paths:
            if path == OPENED:
                raise ConfigError(f"resume: the run's {name} was an object in Python; give it again ({name}=...)")
            if not Path(path).is_absolute() and not Path(path).exists():
                raise ConfigError(
                    f"resume: the run's {name} is {path!r}, which is not in {Path.cwd()}. Start it from the folder "
                    f"where it was begun, or say where that is now: {_OF_DATA[name]}"
                )


def _file(config: PathLike | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file; a run's config.json is without its folder, so that it starts another run."""
    if isinstance(config, Mapping):
        return dict(config)
    path = with_home(config)
    settings = read_config(path)
    if "output_dir" in settings and path.resolve().parent == Path(settings["output_dir"]).resolve():
        del settings["output_dir"]
    return settings


def _replace_data(file: dict[str, Any], given: Set[str]) -> None:
    """Leave out what a file says of data that is given otherwise: its images, and for the training data all of it."""
    if "data" in given and "data" in file:
        for name in _OF_DATA:
            file.pop(name, None)
    for data, images in _IMAGES_OF.items():
        if data in given and data in file:
            file.pop(images, None)


def _origins(
    config: PathLike | Mapping[str, Any], *, file: Mapping[str, Any], given: Mapping[str, Any], assignments: Set[str]
) -> dict[str, str]:
    """Where each setting of the data comes from."""
    source = file.get("recipe_name", "the file") if isinstance(config, Mapping) else str(config)
    origins = {name: source for name in _OF_DATA if file.get(name) is not None}
    origins |= {name: option for name, option in _OF_DATA.items() if name in given}
    return origins | {name: f"--set {name}" for name in _OF_DATA if name in assignments}


def _assign(values: dict[str, Any], changes: dict[str, Any], name: str, value: Any) -> None:
    """Set one value by its dotted name: train.NAME of the recipe, model.NAME of the network, NAME of the run."""
    section, _, rest = name.partition(".")
    value = parse(name, value) if isinstance(value, str) else value
    run_names = TrainConfig.model_fields.keys() - _NOT_SET_BY_NAME
    if section == "train" and rest:
        changes[rest] = value
    elif name == "recipe":
        values["recipe"] = value
    elif name == "model":
        values["model"], values["network"] = value, None
    elif section == "model" and rest:
        _refuse_derived(name)
        _take_model(values)
        network = values.get("network") or zoo.model_config(values["model"])
        for part in reversed(rest.split(".")[1:]):
            value = {part: value}
        values["network"] = network.replace(**{rest.split(".")[0]: value})
    elif name in run_names:
        values[name] = _word(value) if name in _MAY_BE_NONE else value
    else:
        guess = nearest(name.rpartition(".")[2], [*run_names, *Recipe.model_fields, "recipe", "model"])
        for field in Recipe.model_fields:
            guess = guess.replace(f"'{field}'", f"'train.{field}'")
        hint = "A setting of the recipe is called train.NAME, one of the network model.NAME, one of the run NAME."
        raise ConfigError(f"unknown setting {name!r}.{guess} {hint}")


def _word(value: Any) -> Any:
    """The word "none" in small letters; another value as it is."""
    return "none" if isinstance(value, str) and value.lower() == "none" else value


def _refuse_derived(name: str) -> None:
    """Refuse settings of the network that follow from others."""
    derived = {
        "model.num_classes": "the number of classes is that of the dataset",
        "model.eval_size_hw": "the network's size is that of the training images (--size, Python: size_hw)",
    }
    if name in derived:
        raise ConfigError(f"{name} cannot be set: {derived[name]}; leave it out")


def _untrained(values: Mapping[str, Any]) -> bool:
    """Whether the model is asked for with fresh weights, by `zoo.UNTRAINED` behind its name.

    Raises:
        ConfigError: there are weights to start from as well.
    """
    model = values.get("model")
    if not isinstance(model, str) or not model.endswith(zoo.UNTRAINED):
        return False
    for name in ("weights", "backbone_weights"):
        if values.get(name) not in (None, "none"):
            raise ConfigError(
                f"model {model!r} asks for fresh weights, {name} for those of {values[name]!r}: leave out {name}, or "
                f"write {model.removesuffix(zoo.UNTRAINED)!r}"
            )
    return True


def _recipe(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The recipe, what it is called and what is to be changed once the data is known."""
    model, network = values["model"], values.get("network")
    wish = values.get("recipe")
    if isinstance(wish, Mapping):  # a resumed run's
        wish = Recipe(**wish)
    if isinstance(wish, Recipe):
        return {"recipe": change(wish, changes), "recipe_name": values.get("recipe_name", "published")}
    name = str(wish or ("auto" if values["weights"] else "published"))
    if name in ("auto", "finetune"):
        return {"recipe": change(published(model, network), changes), "recipe_name": name, "recipe_changes": changes}
    return {"recipe": change(named_recipe(name, model, network), changes), "recipe_name": name, "recipe_changes": None}


def _take_model(values: dict[str, Any]) -> None:
    """Where no model is given, take that of the weights, with the settings that their file says; else the usual one."""
    if values.get("model") is not None:
        return
    weights = values.get("weights")
    if weights in (None, "none"):
        values["model"] = DEFAULT_MODEL
        return
    values["model"] = weights.partition(":")[0]
    if values["model"] in (*zoo.list_models(), *zoo.ALIASES):
        return
    loaded = read_checkpoint(weights)
    found = loaded.config
    if loaded.assumes_sampling:
        tell_assumed_sampling(loaded.path)
    if found.name not in zoo.list_models():
        raise ConfigError(f"{weights} does not say which model of the zoo it is for; give its name as model")
    values["model"] = found.name
    usual = zoo.model_config(found.name)
    decoder = {"num_denoising": found.decoder.num_denoising or usual.decoder.num_denoising}  # 0: for inference alone
    trained = {name: getattr(usual.backbone, name) for name in ("freeze_at", "freeze_norm")}
    found = found.replace(num_classes=usual.num_classes, eval_size_hw=usual.eval_size_hw, backbone=trained)
    found = found.replace(decoder=decoder)
    if found.in_channels == usual.in_channels and found != usual and values.get("network") is None:
        values["network"] = found


def _free_folder(model: str) -> Path:
    """The first of runs/MODEL, runs/MODEL-2, ... that holds no run yet."""
    folder, number = Path("runs") / model, 1
    while (folder / LAST_FILE).exists():
        number += 1
        folder = Path("runs") / f"{model}-{number}"
    return folder
