"""From a zoo name or a file to a model: what `rtdetr.load`, evaluation and fine-tuning start with, and saving it again.

`read_checkpoint` finds out what a file holds; `load_state` (state.py) puts it into a model.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import torch

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
from rtdetr.weights.assumptions import tell_assumed, tell_assumed_sampling, tell_few_tokens, tell_other_sampling
from rtdetr.weights.download import download
from rtdetr.weights.huggingface import read_huggingface, write_huggingface
from rtdetr.weights.huggingface_fields import CONFIG
from rtdetr.weights.huggingface_preprocessor import PREPROCESSOR
from rtdetr.weights.identify import Observation, adapt, differences, identify, is_named, observe
from rtdetr.weights.model_file import said_beside, said_model
from rtdetr.weights.names import State, from_huggingface, is_huggingface, to_version
from rtdetr.weights.official import PthContent, read_pth, write_pth
from rtdetr.weights.run_record import tell_edited_model
from rtdetr.weights.state import DENOISING, load_state, looks_like
from rtdetr.weights.trained_sampling import trained_sampling
from rtdetr.wording import counted

ModelName = str | os.PathLike[str] | ModelConfig
_FOREIGN = (".json", ".yaml", ".yml", ".txt", ".jpg", ".jpeg", ".png", ".zip")


class LoadedWeights(NamedTuple):
    """A checkpoint as read: entries under the names of `config.version`, the model, its classes where known.

    `thresholds` are scores by label above which a detection counts for `threshold="auto"`, where they were measured.
    `said` is the model that the file itself names, which another one asked for by name may differ from; None: it does
    not say. `preparation` is how its images are resized and padded, where they are not stretched, bilinear. `averaged`
    says whether the entries are a moving average; None: unknown. `assumes_sampling`: nothing says whether the model
    samples features bilinear or discrete.
    """

    state: State
    config: ModelConfig
    categories: Categories | None
    path: Path
    thresholds: tuple[float, ...] | None = None
    said: ModelConfig | None = None
    preparation: Preparation | None = None
    averaged: bool | None = None
    assumes_sampling: bool = False


@pytorch_defaults()
def read_checkpoint(
    source: str | Path, *, model: ModelName | None = None, prepares: bool = False, average: bool = True
) -> LoadedWeights:
    """Read weights and find out which model they are for.

    The model comes from the file where it says so (ours, Hugging Face's), else from a YAML file or config.json beside
    it, else from the names and shapes of its entries and the optimizer of a training checkpoint; where two zoo models
    look the same, from the file's name, else the zoo's first.

    Args:
        source: a zoo name ("rtdetrv2_r18vd", fetched into the cache; "rtdetr_r50vd:objects365" for its other file;
            "rtdetrv2_r18vd:untrained" for fresh weights, the same each time, which serve for speed alone), an address
            "https://...", or a path: .pth file, .safetensors file, or folder in Hugging Face's layout
            ("./rtdetrv2_r18vd" where a folder has the name of a model), or of a training run: best.pth in it, else
            last.pth.
        model: the network to use instead of what the file says, as its zoo name or a file (see `model_file.py`); class
            count and channels stay the file's.
        prepares: the caller follows `LoadedWeights.preparation`, too.
        average: take the moving average of a checkpoint that has both; False: the weights that were trained.

    Raises:
        WeightsError: missing, damaged, not RT-DETR's, or not this `model`'s; it has a preparation of images, and the
            caller would stretch them.
        ConfigError: no such `model`.
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
        said = said_model(name, state) if name else None
        if said is None and described is None and not missing:
            said = said_beside(path, state, observation)
        trained = trained_sampling(state, content.moments)
        if said is not None:
            config = _as_named(said.config, observation)
            tell_other_sampling(path, trained, config.decoder.sampling, said.origin)
            if described is not None:  # no entry of a checkpoint shows these
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
        named = re.search(rf"(?<![\w.]){re.escape(str(path))}(?!\w)", str(error))  # "ed" is not in "damaged"
        raise WeightsError(str(error) if named else f"{path}: {error}") from None
    categories = described.categories if described else None
    if categories is None and zoo_name is not None and config.num_classes == len(COCO80):
        categories = COCO80
    if categories is None and said is not None and said.labels_are_ids:
        categories = Categories.of_ids(config.num_classes)
    if missing:
        tell_assumed(path, missing, config, categories=categories, named=model is not None)
    if described is not None and described.training is not None:
        tell_edited_model(path, described.training)
    tell_few_tokens(path, config)
    weights = LoadedWeights(to_version(state, config.version), config, categories, path, averaged=content.averaged)
    if described is None:
        shown = said is not None or trained is not None or is_named(observation, path.name)
        return weights._replace(assumes_sampling=not (shown or missing or config.version == "v1"))
    return weights._replace(thresholds=described.thresholds, said=described.config, preparation=described.preparation)


def load_model(source: str | Path, *, model: ModelName | None = None) -> tuple[RTDETR, Categories]:
    """Read weights and build their model, in eval mode on the CPU, float32.

    Args:
        source: as for `read_checkpoint`.
        model: as for `read_checkpoint`.

    Returns:
        The model and its classes; unknown ones count as COCO's where there are 80, else they are numbered.

    Raises:
        WeightsError: as for `read_checkpoint`, and entries that do not fit.
    """
    return build_from(read_checkpoint(source, model=model))


@pytorch_defaults()
def build_from(weights: LoadedWeights) -> tuple[RTDETR, Categories]:
    """Build the model of a checkpoint that was read; returns and raises what `load_model` does."""
    if weights.assumes_sampling:
        tell_assumed_sampling(weights.path)
    built = build_model(weights.config)
    try:
        load_state(built, weights.state)
    except WeightsError as error:
        raise WeightsError(f"{weights.path}: {error}") from None
    return built.eval(), weights.categories or default_categories(weights.config.num_classes)


def default_categories(num_classes: int) -> Categories:
    """Classes of a checkpoint that names none: COCO's where there are 80, as in every published file."""
    return COCO80 if num_classes == len(COCO80) else Categories.numbered(num_classes)


def save_weights(model: RTDETR, path: str | Path, *, categories: Categories | None = None) -> Path:
    """Write a .pth file that this library and the official tools read.

    Args:
        model: the model, not fused.
        path: the file; it is replaced atomically.
        categories: its classes, where known; read back by `read_checkpoint`.

    Raises:
        WeightsError: a fused model, the wrong number of classes, or a place that cannot be written.
    """
    check_savable(model, categories)
    if Path(path).suffix.lower() == ".safetensors" or exported_format(path):
        raise WeightsError(f"{path}: save_weights writes .pth files; save_huggingface writes .safetensors ones")
    return write_pth(Path(path), _own_state(model), config=model.config, categories=categories)


def save_huggingface(model: RTDETR, folder: str | Path, *, categories: Categories | None = None) -> list[str]:
    """Write a folder that transformers' `from_pretrained` and this library read.

    Args:
        model: the model, not fused.
        folder: created where missing; files of the same names are replaced.
        categories: its classes, where known.

    Returns:
        What stock transformers cannot do with the result; empty where it computes exactly this model.

    Raises:
        WeightsError: a fused model, the wrong number of classes, or a place that cannot be written.
    """
    check_savable(model, categories)
    return write_huggingface(Path(folder), _own_state(model), config=model.config, categories=categories)


def check_savable(model: RTDETR, categories: Categories | None) -> None:
    """Refuse what must never become a file: fused models, and class names that are not the model's.

    Raises:
        WeightsError: as said.
    """
    if model.is_fused:
        raise WeightsError("a fused model is for inference only and cannot be saved; save the model it was made from")
    if categories is not None and len(categories) != model.config.num_classes:
        raise WeightsError(
            f"got {counted(len(categories), 'class name')} for a model of {counted(model.config.num_classes, 'class')}"
        )


def _unprepared(preparation: Preparation, config: ModelConfig) -> WeightsError:
    """An error about images that the caller would stretch, bilinear."""
    height, width = config.eval_size_hw or (640, 640)
    keys = "resample" if preparation.size is None else "size, pad_size"
    return WeightsError(
        f"{PREPROCESSOR}: {keys}: images of this model are {preparation}. Detecting with this folder (rtdetr predict, "
        "evaluate, benchmark) follows that; training, export and conversion know only stretched images, bilinear. To "
        'stretch them instead, which gives other detections, put "do_pad": false, "resample": 2 and '
        f'"size": {{"height": {height}, "width": {width}}} there'
    )


def _check_fits(config: ModelConfig, observation: Observation) -> None:
    """Compare what a file says about itself with what it holds, before a model of that size is built."""
    found = differences(observation.facts, config)
    if found or observation.num_classes != config.num_classes or observation.in_channels != config.in_channels:
        raise WeightsError(f"its description and its entries disagree: {(found or ['class or channel count'])[0]}")


def _as_named(config: ModelConfig, observation: Observation) -> ModelConfig:
    """The configuration that the caller named, with the file's class count and channels."""
    found = differences(observation.facts, config)
    if found:
        wrong = f"expected weights of {config.name!r}, got {'; '.join(found[:2])}."
        raise WeightsError(f"{wrong}{looks_like(config, observation)}")
    return adapt(config, observation)


def _find(source: str | Path) -> tuple[Path, str | None]:
    """Return the file of a source, downloaded if it is a zoo name, and that name."""
    name, _, tag = str(source).partition(":")
    if not isinstance(source, Path) and name in (*zoo.list_models(), *zoo.ALIASES):
        return _published(name, tag), name
    if not isinstance(source, Path) and source.startswith(("http://", "https://")):
        return download(source), None
    path = of_run(with_home(source))
    if not path.exists():
        hint = nearest(str(source), [*zoo.list_models(), *zoo.ALIASES]) if path.suffix == "" else ""
        raise WeightsError(f"no such file or model: {source}.{hint} Run 'rtdetr models' for the list of models.")
    return path, None


def of_run(path: Path) -> Path:
    """The weights in the folder of a training run, the best ones if there are any; any other path as it is."""
    return next((file for file in (path / BEST_FILE, path / LAST_FILE) if file.is_file()), path)


def _untrained(name: str, model: ModelName | None) -> LoadedWeights:
    """Fresh weights of a zoo model."""
    config = zoo.model_config(name)
    if model is not None and said_model(model, {}).config != config:
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
            f"{name!r} has no published weights; train it, or give the path of a checkpoint, or "
            f"'{name}{zoo.UNTRAINED}' for fresh weights, which serve for speed alone"
        )
    if tag and tag not in checkpoints:
        raise WeightsError(
            f"{name!r} has no weights {tag!r}.{nearest(tag, checkpoints)} Known: {', '.join(checkpoints)}."
        )
    checkpoint = checkpoints[tag or str(zoo.tag(name))]
    if checkpoint.url is None:
        raise WeightsError(f"{name!r} cannot be downloaded from here: {checkpoint.note}")
    return download(checkpoint.url, sha256=checkpoint.sha256)


def _read(path: Path, *, average: bool) -> tuple[PthContent, tuple[str, ...]]:
    """Read a file or folder of any format, under official names, and which of transformers' files it lacks."""
    if exported_format(path) and path.is_file():
        raise WeightsError(f"{path} is an exported model, expected a checkpoint: give the one that it was made from")
    if path.is_dir() or path.suffix.lower() in (".safetensors", ".bin") or path.name.lower().endswith(".index.json"):
        state, described = read_huggingface(path)
        missing = described.missing if described else (CONFIG, PREPROCESSOR)
        return PthContent(state, described, averaged=None), missing
    if path.suffix.lower() in _FOREIGN:
        raise WeightsError(f"{path} is no checkpoint: expected a .pth or .safetensors file, or the folder of a model")
    content = read_pth(path, average=average)
    if not is_huggingface(content.state):
        return content, ()
    missing = () if content.described else (CONFIG, PREPROCESSOR)
    return content._replace(state=from_huggingface(content.state)), missing


def _own_state(model: RTDETR) -> State:
    return {key: value.detach().cpu() for key, value in model.state_dict().items()}
