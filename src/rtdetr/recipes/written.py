"""Merge the settings of a run from all sources: a resumed run, a configuration file, arguments, values by name.

Each source is a layer that overrides those before it (`read_written`). Settings that depend on the data are resolved in
`resolve.py`.
"""

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr import zoo
from rtdetr.config import ModelConfig, Recipe
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.files import with_home
from rtdetr.published.data import DATA_KEYS
from rtdetr.recipes.config_file import NOT_SETTINGS, read_config
from rtdetr.recipes.named_recipes import AUTO, PUBLISHED
from rtdetr.recipes.run_data import OPENED, OPTIONS
from rtdetr.recipes.settings import MAY_BE_NONE, PATHS, Layer, PathLike, assigned, check_names, given
from rtdetr.run_files import CONFIG_FILE, LAST_FILE
from rtdetr.strict import naming
from rtdetr.weights import read_checkpoint
from rtdetr.weights.assumptions import warn_assumed_sampling
from rtdetr.weights.run_record import edits, read_run_config, shown

_log = logging.getLogger(__name__)
DEFAULT_MODEL = "rtdetrv2_r18vd"
STORED_PATHS = {**OPTIONS, "teacher": "--teacher", "unlabelled": "--unlabelled"}
_IMAGES_OF = {"data": "images", "val_data": "val_images"}


class Written(NamedTuple):
    """Merged settings of a run.

    Attributes:
        values: fields of `TrainConfig`, without those below.
        recipe: a recipe, or the name of one.
        recipe_name: name of the recipe.
        changes: values of the recipe that override it, by dotted name.
        may_tune: whether the recipe's own starting weights (`tuning_from`) are loaded if no weights are given.
        spelled: for settings by full name: what a user wrote, such as "lr (--lr)" for "train.lr".
    """

    values: dict[str, Any]
    recipe: Recipe | str
    recipe_name: str
    changes: dict[str, Any]
    may_tune: bool
    spelled: Mapping[str, str]


def read_written(
    data: Any, settings: Mapping[str, Any], *, resume: Path | None = None, saved: Mapping[str, Any] | None = None
) -> Written:
    """Merge all sources of a run's settings. Arguments and errors are those of `resolve`."""
    check_names(settings)
    file = _file(settings.get("config"))
    above = (given(data, settings), assigned(settings.get("set") or {}))
    named_above = {name for layer in above for name in layer.values}
    resumed = _resumed(resume, saved)
    layers = (resumed, _without_replaced_data(file, named_above), *above)
    values = _normalized(_merged(layers))
    is_untrained = _is_untrained(values)
    if is_untrained:
        values["model"] = values["model"].removesuffix(zoo.UNTRAINED)
    if {"weights", "backbone_weights"} <= named_above and "none" not in (values["weights"], values["backbone_weights"]):
        _log.warning(
            "backbone_weights (--backbone-weights) are not used: the weights %s contain a backbone", values["weights"]
        )
    may_tune = resume is None and not is_untrained and "none" not in (values["weights"], values["backbone_weights"])
    values |= {name: None for name in MAY_BE_NONE if values[name] == "none"}
    if saved is not None:
        _check_paths_exist(values, STORED_PATHS.keys() - named_above - file.values.keys())
    if "data" not in values:
        raise ConfigError("no dataset given: pass the folder or annotation file of the training data")
    if saved is not None:
        _check_same_model(values.get("model"), saved, resume)
    spelled = {name: text for layer in layers for name, text in layer.spelled.items()}
    spelled.pop("model", None)  # "model.NAME" is a setting of the network
    with naming(spelled):
        values |= _model(values, {name: value for layer in layers for name, value in layer.network.items()})
    recipe = values.pop("recipe", None)
    recipe_name = values.pop("recipe_name", PUBLISHED)
    if isinstance(recipe, Mapping):  # of a resumed run
        recipe = Recipe(**recipe)
    if not isinstance(recipe, Recipe):
        recipe = recipe_name = str(recipe or AUTO)
    changes = {name: value for layer in layers for name, value in layer.recipe.items()}
    if resume is not None and saved is None:
        changes.setdefault("optimizer", "adamw")  # a checkpoint of the published code, whose moments are AdamW's
    values.setdefault("output_dir", _free_folder(values["model"]))
    return Written(values, recipe, recipe_name, changes, may_tune, spelled)


def _check_same_model(model: Any, saved: Mapping[str, Any], resume: Path | None) -> None:
    """Refuse another model for a resumed run."""
    former = saved.get("model")
    name = zoo.ALIASES.get(model, model) if isinstance(model, str) else model
    if isinstance(former, str) and name not in (former, former + zoo.UNTRAINED):
        run = resume if resume is None or resume.is_dir() else resume.parent
        raise ConfigError(
            f"the model cannot change on resuming: {run} is a run of {former!r}, got model {model!r} (--model). Omit "
            f"it to resume, or start a new run from the run's weights: --weights {run}/best.pth --model {model} "
            "--output OTHER, without --resume"
        )


def _resumed(resume: Path | None, saved: Mapping[str, Any] | None) -> Layer:
    """Settings stored in the checkpoint to resume."""
    saved = saved or {}
    values = {name: value for name, value in saved.items() if name not in NOT_SETTINGS}
    if resume is not None:
        folder = resume if resume.is_dir() else resume.parent
        values["output_dir"] = str(folder)
        if saved:
            _warn_of_edits(folder / CONFIG_FILE, saved)
    return Layer(values, {}, {}, dict(saved.get("data_origins", {})))


def _warn_of_edits(file: Path, saved: Mapping[str, Any]) -> None:
    """Warn about settings in a run's config.json that differ from its checkpoint, which takes precedence.

    The file may have been edited, or the run was resumed with other settings and stopped before its next checkpoint.
    """
    try:
        written = read_run_config(file)
    except WeightsError as error:
        _log.warning("%s. Resuming with the settings in the checkpoint", error)
        return
    for name, value, stored in edits(written, saved):
        if name != "output_dir" and not name.startswith("data_origins"):
            hint = "" if name == "network" else f". To change it: --set {name}={json.dumps(value)}"
            _log.warning(
                "%s has %s %s, but the checkpoint has %s, which is used%s",
                *(file, name, shown(value), shown(stored), hint),
            )


def _file(config: PathLike | Mapping[str, Any] | None) -> Layer:
    """Settings from a file. A run's config.json is read without its output folder, to start a new run."""
    if config is None:
        return Layer({}, {}, {}, {})
    if isinstance(config, Mapping):  # content of a published file
        values, source = dict(config), str(config.get("recipe_name", "the file"))
    else:
        path, source = with_home(config), str(config)
        values = read_config(path)
        if "output_dir" in values and path.resolve().parent == Path(values["output_dir"]).resolve():
            del values["output_dir"]
    changes = values.pop("changes", {})
    is_published = Path(source).name == values.get("recipe_name")
    origins = {name: f"{source}: {DATA_KEYS[name]}" if is_published else source for name in OPTIONS if name in values}
    spelled = {name: f"{source}: {name}" for name in (*values, *(f"train.{change}" for change in changes))}
    return Layer(values, changes, {}, origins, spelled)


def _without_replaced_data(file: Layer, above: Collection[str]) -> Layer:
    """Drop the data settings of a file that are overridden: all of them if the training data is."""
    replaced = {images for data, images in _IMAGES_OF.items() if data in above and data in file.values}
    if "data" in above and "data" in file.values:
        replaced = set(OPTIONS)
    kept = {name: value for name, value in file.values.items() if name not in replaced}
    return file._replace(values=kept, origins={name: text for name, text in file.origins.items() if name in kept})


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge the layers in order; a layer that names a model discards the network of those before."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if "model" in layer.values:
            values["network"] = None
        values |= layer.values
        origins |= layer.origins
    return {**values, "data_origins": {name: text for name, text in origins.items() if values.get(name) is not None}}


def _normalized(values: Mapping[str, Any]) -> dict[str, Any]:
    """Normalize values: expand `~`, lowercase "none", and turn a network into a `ModelConfig`."""
    changed = {name: _with_home(values[name]) for name in PATHS if name in values}
    for name in MAY_BE_NONE:
        value = changed.get(name, values.get(name))
        changed[name] = value.lower() if isinstance(value, str) and value.lower() == "none" else value
    if isinstance(values.get("network"), Mapping):
        changed["network"] = ModelConfig(**values["network"])
    return {**values, **changed}


def _with_home(paths: Any) -> Any:
    """Expand `~` in paths; anything that is not a path is refused later."""
    if isinstance(paths, list | tuple):
        return tuple(map(_with_home, paths))
    return os.path.expanduser(paths) if isinstance(paths, str) else paths


def _is_untrained(values: Mapping[str, Any]) -> bool:
    """Whether the model name has the suffix `zoo.UNTRAINED`, for random initial weights.

    Raises:
        ConfigError: starting weights are also given.
    """
    model = values.get("model")
    if not isinstance(model, str) or not model.endswith(zoo.UNTRAINED):
        return False
    for name in ("weights", "backbone_weights"):
        if values[name] not in (None, "none"):
            raise ConfigError(
                f"model {model!r} means random weights, but {name} is {values[name]!r}: remove {name}, or use model "
                f"{model.removesuffix(zoo.UNTRAINED)!r}"
            )
    return True


def _check_paths_exist(values: Mapping[str, Any], names: Collection[str]) -> None:
    """Check that data paths stored in a resumed run exist, unless they are given again."""
    for name in [name for name in STORED_PATHS if name in names]:
        paths = values.get(name) or ()
        for path in (paths,) if isinstance(paths, str) else paths:
            if path == OPENED:
                raise ConfigError(f"resume: the run's {name} was a Python object: pass it again ({name}=...)")
            is_model = name == "teacher" and path.partition(":")[0] in (*zoo.list_models(), *zoo.ALIASES)
            if not Path(path).is_absolute() and not Path(path).exists() and not is_model:
                raise ConfigError(
                    f"resume: the run's {name} is {path!r}, which does not exist in {Path.cwd()}. Resume in the folder "
                    f"where the run was started, or give the new path with {STORED_PATHS[name]}"
                )


def _model(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The model (by default that of the weights), and its network if it differs from the zoo's."""
    model, network = values.get("model"), values.get("network")
    if isinstance(model, str) and Path(model).suffix.lower() in (".pth", ".safetensors"):
        raise ConfigError(
            f"model (--model): expected the name of a model, got the weight file {model!r}. To start from it: "
            f"--weights {model}"
        )
    if model is None:
        model, found = _model_of_weights(values["weights"])
        network = network or found
    for name, value in changes.items():
        first, *inner = name.split(".")
        for part in reversed(inner):
            value = {part: value}
        network = (network or zoo.model_config(model)).replace(**{first: value})
    return {"model": model, "network": network}


def _model_of_weights(weights: str | None) -> tuple[str, ModelConfig | None]:
    """Zoo name of the model of weights, and their network if the file describes another one than the zoo."""
    if weights is None:
        return DEFAULT_MODEL, None
    name = weights.partition(":")[0]
    if name in (*zoo.list_models(), *zoo.ALIASES):
        return name, None
    loaded = read_checkpoint(weights)
    found = loaded.config
    if loaded.assumes_sampling:
        warn_assumed_sampling(loaded.path)
    if found.name not in zoo.list_models():
        raise ConfigError(f"{weights} does not store which model it is for: give the name with --model (Python: model)")
    usual = zoo.model_config(found.name)
    decoder = {"num_denoising": found.decoder.num_denoising or usual.decoder.num_denoising}  # 0: inference only
    trained = {name: getattr(usual.backbone, name) for name in ("freeze_at", "freeze_norm")}
    found = found.replace(num_classes=usual.num_classes, eval_size_hw=usual.eval_size_hw, backbone=trained)
    found = found.replace(decoder=decoder)
    return found.name, found if found.in_channels == usual.in_channels and found != usual else None


def _free_folder(model: str) -> str:
    """The first of runs/MODEL, runs/MODEL-2, ... without a run."""
    folder, number = Path("runs") / model, 1
    while (folder / LAST_FILE).exists():
        number += 1
        folder = Path("runs") / f"{model}-{number}"
    return str(folder)
