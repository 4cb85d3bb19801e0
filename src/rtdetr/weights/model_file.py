"""The model of a checkpoint as stated by a zoo name or another file.

Such a file is a published YAML file, one of this library, or the config.json of a training run or of transformers. If a
checkpoint does not describe its model, the files next to it are searched too.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr import zoo
from rtdetr.config import ModelConfig
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.files import with_home
from rtdetr.published import describes_network, is_published, read_published_network
from rtdetr.text_files import read_json
from rtdetr.weights.huggingface import interpret
from rtdetr.weights.huggingface_reading import describes_a_model
from rtdetr.weights.identify import Observation, differences
from rtdetr.weights.names import State
from rtdetr.yaml_files import INCLUDE, YAML_SUFFIXES, read_yaml

_log = logging.getLogger(__name__)
SUFFIXES = (*YAML_SUFFIXES, ".json")


class StatedModel(NamedTuple):
    """A model as stated outside its checkpoint.

    config: the network.
    labels_are_ids: class rows are category ids, as with `remap_mscoco_category: False`.
    origin: name or file that states it.
    """

    config: ModelConfig
    labels_are_ids: bool
    origin: str


def stated_model(model: str | os.PathLike[str] | ModelConfig, state: State) -> StatedModel:
    """Return the model that the user named.

    Args:
        model: a zoo name, a file, or the network itself.
        state: entries under official names, for what a config.json of transformers does not state.

    Raises:
        ConfigError: the model or file does not exist, or the file does not describe a model.
        WeightsError: a config.json does not fit the entries.
    """
    if isinstance(model, ModelConfig):
        return StatedModel(model, labels_are_ids=False, origin=model.name)
    if isinstance(model, str) and not model.lower().endswith(SUFFIXES):
        return StatedModel(zoo.model_config(model), labels_are_ids=False, origin=model)
    path = with_home(model)
    if not path.is_file():
        raise ConfigError(f"no such file: {path}. Give the YAML file of the model, or a name listed by 'rtdetr models'")
    found = _read(path, state)
    if found is None:
        raise ConfigError(
            f"{path} does not describe a model: expected a published YAML file with sections such as RTDETR and "
            "HybridEncoder, a file with 'model:', or the config.json of a run"
        )
    return found


def adjacent_model(path: Path, state: State, observation: Observation) -> StatedModel | None:
    """Return the model described by the files next to a checkpoint; None if none fits or they contradict each other.

    Args:
        path: the checkpoint, which does not describe its model.
        state: its entries under official names.
        observation: facts visible in the entries.
    """
    found = []
    for file in sorted(file for pattern in ("*.yml", "*.yaml", "config.json") for file in path.parent.glob(pattern)):
        try:
            stated = _read(file, state, named=False)
        except (ConfigError, WeightsError) as error:
            _log.warning("%s, next to %s, is not used: %s", file.name, path, error)
            continue
        fits = stated is not None and stated.config.version == observation.version
        if stated is not None and fits and not differences(observation.facts, stated.config):
            found.append(stated)
    if len({(_compared(stated.config), stated.labels_are_ids) for stated in found}) > 1:
        files = ", ".join(Path(stated.origin).name for stated in found)
        _log.warning("%s: the files next to it describe different models (%s), so none is used", path, files)
        return None
    if not found:
        return None
    _log.info("%s: using the model described by %s", path, found[0].origin)
    return found[0]


def described_network(description: Mapping[str, Any]) -> ModelConfig:
    """Return the network of a mapping with `base`, a zoo name, and the settings that differ from it.

    Raises:
        ConfigError: a name or value is invalid.
    """
    changes = dict(description)
    base = changes.pop("base", None)
    network = ModelConfig() if base is None else zoo.model_config(str(base))
    return network.replace(**changes)


def _read(path: Path, state: State, *, named: bool = True) -> StatedModel | None:
    """Return the model of a file, or None. Unknown model names count as none unless the user `named` the file."""
    is_json = path.suffix.lower() == ".json"
    values = read_json(path, what="description", error=WeightsError) if is_json else read_yaml(path)
    if not isinstance(values, dict):
        return None
    labels_are_ids = False
    if describes_network(values) or (INCLUDE in values and is_published(values)):
        if not (found := read_published_network(path)):
            return None
        config, labels_are_ids = found
    elif isinstance(values.get("network"), Mapping):
        config = ModelConfig(**values["network"])
    elif isinstance(values.get("model"), Mapping):
        config = described_network(values["model"])
    elif isinstance(values.get("model"), str) and (named or values["model"] in (*zoo.list_models(), *zoo.ALIASES)):
        config = zoo.model_config(values["model"])
    elif is_json and describes_a_model(values):
        described = interpret(state, None, stored=values, preprocessor={}, hint=path.parent.name)[1]
        if described is None:
            return None
        config = described.config
    else:
        return None
    return StatedModel(config, labels_are_ids, str(path))


def _compared(config: ModelConfig) -> str:
    """Return a network without settings that the checkpoint shows or that concern only training."""
    backbone = {"freeze_at": -1, "freeze_norm": False}
    decoder = {"num_denoising": 0, "label_noise_ratio": 0.0, "box_noise_scale": 0.0}
    return config.replace(
        name="", num_classes=1, in_channels=3, eval_size_hw=None, backbone=backbone, decoder=decoder
    ).model_dump_json()
