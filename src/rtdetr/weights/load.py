"""Load and save models: from a zoo name or a file to a model, for `rtdetr.load`, evaluation and fine-tuning.

`read_checkpoint` reads a file and identifies its model; `load_state` (state.py) loads the entries into a model.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from rtdetr import zoo
from rtdetr.categories import COCO80, Categories
from rtdetr.config import ModelConfig
from rtdetr.devices import pytorch_defaults
from rtdetr.errors import WeightsError, nearest
from rtdetr.exported_files import exported_format
from rtdetr.files import with_home
from rtdetr.models import RTDETR, build_model
from rtdetr.preprocessing import Preparation
from rtdetr.run_files import BEST_FILE, LAST_FILE
from rtdetr.weights.assumptions import warn_assumed, warn_assumed_sampling, warn_few_tokens, warn_other_sampling
from rtdetr.weights.download import download
from rtdetr.weights.huggingface import read_huggingface, write_huggingface
from rtdetr.weights.huggingface_fields import CONFIG
from rtdetr.weights.huggingface_preprocessor import PREPROCESSOR
from rtdetr.weights.identify import Observation, adapt, differences, identify, is_named, observe
from rtdetr.weights.model_file import adjacent_model, stated_model
from rtdetr.weights.names import State, from_huggingface, is_huggingface, to_version
from rtdetr.weights.official import PthContent, read_pth, write_pth
from rtdetr.weights.run_record import warn_edited_model
from rtdetr.weights.state import DENOISING, load_state, looks_like
from rtdetr.weights.trained_sampling import trained_sampling
from rtdetr.wording import counted
from rtdetr.yaml_files import YAML_SUFFIXES

ModelName = str | os.PathLike[str] | ModelConfig
_FOREIGN = (*YAML_SUFFIXES, ".json", ".txt", ".jpg", ".jpeg", ".png", ".zip")


class LoadedWeights(NamedTuple):
    """A checkpoint in memory: entries under the names of `config.version`, the model, and its classes if known.

    thresholds: score thresholds by label for `threshold="auto"`, if measured.
    stated: the model that the file itself describes, which can differ from one requested by name; None: none.
    preparation: how images are resized and padded, if not stretched with bilinear resampling.
    averaged: whether the entries are a moving average (EMA); None: unknown.
    assumes_sampling: nothing shows whether sampling is bilinear or discrete.
    """

    state: State
    config: ModelConfig
    categories: Categories | None
    path: Path
    thresholds: tuple[float, ...] | None = None
    stated: ModelConfig | None = None
    preparation: Preparation | None = None
    averaged: bool | None = None
    assumes_sampling: bool = False


@pytorch_defaults()
def read_checkpoint(
    source: str | Path, *, model: ModelName | None = None, prepares: bool = False, average: bool = True
) -> LoadedWeights:
    """Read weights and identify their model.

    The model comes from the file itself (our files and Hugging Face's), or else from a YAML file or config.json next to
    it, or else from the names and shapes of its entries and the optimizer of a training checkpoint. If two zoo models
    look the same, the file name decides, then the order of the zoo.

    Args:
        source: a zoo name ("rtdetrv2_r18vd", downloaded to the cache; "rtdetr_r50vd:objects365" for its other file;
            "rtdetrv2_r18vd:untrained" for random but reproducible weights, useful only to measure speed), a URL
            "https://...", or a path: a .pth file, a .safetensors file, a folder in the Hugging Face layout
            ("./rtdetrv2_r18vd" if the folder has the name of a model), or the folder of a training run (best.pth if it
            exists, or else last.pth).
        model: the network to use instead of the one that the file describes, as a zoo name or a file (see
            `model_file.py`); numbers of classes and channels come from the checkpoint.
        prepares: whether the caller supports `LoadedWeights.preparation`.
        average: use the EMA weights of a checkpoint that has both; False: the trained weights.

    Raises:
        WeightsError: the file is missing, damaged, not an RT-DETR or not of this `model`, or needs a preparation of
            images that the caller does not support.
        ConfigError: `model` does not exist.
    """
    if isinstance(source, str) and source.endswith(zoo.UNTRAINED) and not Path(source).exists():
        return _untrained(source.removesuffix(zoo.UNTRAINED), model)
    path, zoo_name = _find(source)
    try:
        content, missing = _read(path, average=average)
        state, described = content.state, content.described
        observation = observe(state)
        if described is not None and described.preparation is not None and not prepares:
            raise _unprepared(described.preparation, described.config)
        name = model or zoo_name
        stated = stated_model(name, state) if name else None
        if stated is None and described is None and not missing:
            stated = adjacent_model(path, state, observation)
        trained = trained_sampling(state, content.moments)
        if stated is not None:
            config = _as_named(stated.config, observation)
            warn_other_sampling(path, trained, config.decoder.sampling, stated.origin)
            if described is not None:  # not visible in the entries
                kept = {name: getattr(described.config, name) for name in ("pixel_mean", "pixel_std", "eval_size_hw")}
                config = config.replace(**{**kept, "eval_size_hw": kept["eval_size_hw"] or config.eval_size_hw})
        elif described is not None:
            config = described.config
            _check_fits(config, observation)
        else:
            config = identify(observation, hint=path.name, sampling=trained)
        if DENOISING not in state:
            config = config.replace(decoder={"num_denoising": 0})
    except WeightsError as error:
        named = re.search(rf"(?<![\w.]){re.escape(str(path))}(?!\w)", str(error))  # the path "ed" is not in "damaged"
        raise WeightsError(str(error) if named else f"{path}: {error}") from None
    categories = described.categories if described else None
    if categories is None and zoo_name is not None and config.num_classes == len(COCO80):
        categories = COCO80
    if categories is None and stated is not None and stated.labels_are_ids:
        categories = Categories.of_ids(config.num_classes)
    if missing:
        warn_assumed(path, missing, config, categories=categories, named=model is not None)
    if described is not None and described.training is not None:
        warn_edited_model(path, described.training)
    warn_few_tokens(path, config)
    weights = LoadedWeights(to_version(state, config.version), config, categories, path, averaged=content.averaged)
    if described is None:
        known = stated is not None or trained is not None or is_named(observation, path.name)
        return weights._replace(assumes_sampling=not (known or missing or config.version == "v1"))
    return weights._replace(thresholds=described.thresholds, stated=described.config, preparation=described.preparation)


def load_model(source: str | Path, *, model: ModelName | None = None) -> tuple[RTDETR, Categories]:
    """Read weights and build their model in eval mode, float32, on the CPU.

    Args:
        source: as for `read_checkpoint`.
        model: as for `read_checkpoint`.

    Returns:
        The model and its classes; 80 unnamed classes are assumed to be COCO's, others are numbered.

    Raises:
        WeightsError: as for `read_checkpoint`, or the entries do not fit.
    """
    return build_from(read_checkpoint(source, model=model))


@pytorch_defaults()
def build_from(weights: LoadedWeights) -> tuple[RTDETR, Categories]:
    """Build the model of a checkpoint; returns and raises the same as `load_model`."""
    if weights.assumes_sampling:
        warn_assumed_sampling(weights.path)
    with _Undrawn():
        built = build_model(weights.config)
    try:
        load_state(built, weights.state)
    except WeightsError as error:
        raise WeightsError(f"{weights.path}: {error}") from None
    return built.eval(), weights.categories or default_categories(weights.config.num_classes)


class _Undrawn(TorchFunctionMode):
    """Inside the block, new parameters stay uninitialized: drawing random values takes time, and a file follows."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "").endswith(("uniform_", "normal_")):  # of Tensor and of nn.init
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def default_categories(num_classes: int) -> Categories:
    """Return the classes of a checkpoint without class names: COCO's if there are 80, as in published files."""
    return COCO80 if num_classes == len(COCO80) else Categories.numbered(num_classes)


def save_weights(model: RTDETR, path: str | Path, *, categories: Categories | None = None) -> Path:
    """Write a .pth file that this library and the official tools can read.

    Args:
        model: the model, not fused.
        path: the file; it is replaced atomically.
        categories: its classes, if known; `read_checkpoint` reads them back.

    Raises:
        WeightsError: the model is fused, the number of classes is wrong, or the file cannot be written.
    """
    check_savable(model, categories)
    if Path(path).suffix.lower() == ".safetensors" or exported_format(path):
        raise WeightsError(f"{path}: save_weights writes .pth files. Use save_huggingface for .safetensors files")
    return write_pth(Path(path), _own_state(model), config=model.config, categories=categories)


def save_huggingface(model: RTDETR, folder: str | Path, *, categories: Categories | None = None) -> list[str]:
    """Write a folder that transformers' `from_pretrained` and this library can read.

    Args:
        model: the model, not fused.
        folder: created if missing; files of the same names are replaced.
        categories: its classes, if known.

    Returns:
        Limitations of the result in stock transformers; empty if it computes exactly this model.

    Raises:
        WeightsError: the model is fused, the number of classes is wrong, or a file cannot be written.
    """
    check_savable(model, categories)
    return write_huggingface(Path(folder), _own_state(model), config=model.config, categories=categories)


def check_savable(model: RTDETR, categories: Categories | None) -> None:
    """Check that a model can be saved.

    Raises:
        WeightsError: the model is fused, or the number of class names is wrong.
    """
    if model.is_fused:
        raise WeightsError("a fused model is for inference only and cannot be saved. Save the model before fusing it")
    if categories is not None and len(categories) != model.config.num_classes:
        raise WeightsError(
            f"got {counted(len(categories), 'class name')} for a model of {counted(model.config.num_classes, 'class')}"
        )


def _unprepared(preparation: Preparation, config: ModelConfig) -> WeightsError:
    """Return an error about a preparation of images that the caller does not support."""
    height, width = config.size_hw
    keys = "resample" if preparation.size is None else "size, pad_size"
    return WeightsError(
        f"{PREPROCESSOR}: {keys}: images of this model are {preparation}. rtdetr predict, evaluate and benchmark "
        "support that; training, export and conversion support only bilinear stretching. To stretch images "
        'instead, which gives other detections, set "do_pad": false, "resample": 2 and '
        f'"size": {{"height": {height}, "width": {width}}}'
    )


def _check_fits(config: ModelConfig, observation: Observation) -> None:
    """Compare the description in a file with its entries, before a model of that size is built."""
    found = differences(observation.facts, config)
    if found or observation.num_classes != config.num_classes or observation.in_channels != config.in_channels:
        problem = (found or ["class or channel count"])[0]
        raise WeightsError(f"the description of the model does not match its entries: {problem}")


def _as_named(config: ModelConfig, observation: Observation) -> ModelConfig:
    """Return the configuration that the caller named, with the checkpoint's numbers of classes and channels."""
    found = differences(observation.facts, config)
    if found:
        wrong = f"expected weights of {config.name!r}, got {'; '.join(found[:2])}."
        raise WeightsError(f"{wrong}{looks_like(config, observation)}")
    return adapt(config, observation)


def _find(source: str | Path) -> tuple[Path, str | None]:
    """Return the file of a source, downloaded if necessary, and its zoo name, if it is one."""
    name, _, tag = str(source).partition(":")
    if not isinstance(source, Path) and name in (*zoo.list_models(), *zoo.ALIASES):
        return _published(name, tag), name
    if not isinstance(source, Path) and source.startswith(("http://", "https://")):
        return download(source), None
    path = weights_of_run(with_home(source))
    if not path.exists():
        hint = nearest(str(source), [*zoo.list_models(), *zoo.ALIASES]) if path.suffix == "" else ""
        raise WeightsError(f"no such file or model: {source}.{hint} Run 'rtdetr models' for the list of models.")
    return path, None


def weights_of_run(path: Path) -> Path:
    """Return the weights in the folder of a training run, best.pth if it exists; other paths are returned unchanged."""
    return next((file for file in (path / BEST_FILE, path / LAST_FILE) if file.is_file()), path)


def _untrained(name: str, model: ModelName | None) -> LoadedWeights:
    """Return random weights of a zoo model."""
    config = zoo.model_config(name)
    if model is not None and stated_model(model, {}).config != config:
        raise WeightsError(f"expected weights of {model!r}, got those of {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = build_model(config).state_dict()
    return LoadedWeights(state, config, default_categories(config.num_classes), Path(name + zoo.UNTRAINED))


def _published(name: str, tag: str) -> Path:
    """Return the cached file of a zoo model."""
    checkpoints = zoo.entry(name).checkpoints
    if not checkpoints:
        raise WeightsError(
            f"{name!r} has no published weights. Train it, or give the path of a checkpoint, or "
            f"'{name}{zoo.UNTRAINED}' for random weights, which are useful only to measure speed"
        )
    if tag and tag not in checkpoints:
        raise WeightsError(
            f"{name!r} has no weights {tag!r}.{nearest(tag, checkpoints)} Known: {', '.join(checkpoints)}."
        )
    checkpoint = checkpoints[tag or str(zoo.tag(name))]
    if checkpoint.url is None:
        raise WeightsError(f"{name!r} cannot be downloaded: {checkpoint.note}")
    return download(checkpoint.url, sha256=checkpoint.sha256)


def _read(path: Path, *, average: bool) -> tuple[PthContent, tuple[str, ...]]:
    """Read a file or folder of any format under official names; return the missing transformers files too."""
    if exported_format(path) and path.is_file():
        raise WeightsError(f"{path} is an exported model, expected a checkpoint. Give the one it was exported from")
    if path.is_dir() or path.suffix.lower() in (".safetensors", ".bin") or path.name.lower().endswith(".index.json"):
        state, described = read_huggingface(path)
        missing = described.missing if described else (CONFIG, PREPROCESSOR)
        return PthContent(state, described, averaged=None), missing
    if path.suffix.lower() in _FOREIGN:
        raise WeightsError(f"{path} is not a checkpoint: expected a .pth or .safetensors file, or a model folder")
    content = read_pth(path, average=average)
    if not is_huggingface(content.state):
        return content, ()
    missing = () if content.described else (CONFIG, PREPROCESSOR)
    return content._replace(state=from_huggingface(content.state)), missing


def _own_state(model: RTDETR) -> State:
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}
