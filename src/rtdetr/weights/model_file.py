"""Which model a checkpoint is of, said by something else than the checkpoint: a zoo name, or a file.

A file is a published YAML file, one of this library's own, the config.json of a training run, or that of transformers.
Files beside a checkpoint that does not say itself are looked at as well.
"""

import json
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
from rtdetr.text_files import read_text
from rtdetr.weights.huggingface import interpret
from rtdetr.weights.huggingface_reading import describes_a_model
from rtdetr.weights.identify import Observation, differences
from rtdetr.weights.names import State
from rtdetr.yaml_files import INCLUDE, read_yaml

_log = logging.getLogger(__name__)
SUFFIXES = (".yml", ".yaml", ".json")


class SaidModel(NamedTuple):
    """A model as something else than its checkpoint describes it.

    config: the network.
    labels_are_ids: rows of the class heads are category ids, as `remap_mscoco_category: False` means.
    origin: name or file that says so.
    """

    config: ModelConfig
    labels_are_ids: bool
    origin: str


def said_model(model: str | os.PathLike[str] | ModelConfig, state: State) -> SaidModel:
    """Return the model that a user names.

    Args:
        model: a zoo name, a file, or the network itself.
        state: entries under official names, for what a config.json of transformers leaves to them.

    Raises:
        ConfigError: no such model or file, or a file that does not describe a model.
        WeightsError: a config.json that does not fit the entries.
    """
    if isinstance(model, ModelConfig):
        return SaidModel(model, labels_are_ids=False, origin=model.name)
    if isinstance(model, str) and not model.lower().endswith(SUFFIXES):
        return SaidModel(zoo.model_config(model), labels_are_ids=False, origin=model)
    path = with_home(model)
    if not path.is_file():
        raise ConfigError(f"no such file: {path}. Give the YAML file of the model, or a name of 'rtdetr models'")
    found = _read(path, state)
    if found is None:
        raise ConfigError(
            f"{path} does not describe a model: expected a published YAML file with sections such as RTDETR and "
            "HybridEncoder, a file with 'model:', or the config.json of a run"
        )
    return found


def said_beside(path: Path, state: State, observation: Observation) -> SaidModel | None:
    """Return the model that files beside a checkpoint describe; None where none fits it or they contradict each other.

    Args:
        path: the checkpoint, which does not say itself.
        state: its entries under official names.
        observation: what the entries show.
    """
    found = []
    for file in sorted(file for pattern in ("*.yml", "*.yaml", "config.json") for file in path.parent.glob(pattern)):
        try:
            said = _read(file, state, named=False)
        except (ConfigError, WeightsError) as error:
            _log.warning("%s lies beside %s and is not used: %s", file.name, path, error)
            continue
        fits = said is not None and said.config.version == observation.version
        if said is not None and fits and not differences(observation.facts, said.config):
            found.append(said)
    if len({(_compared(said.config), said.labels_are_ids) for said in found}) > 1:
        files = ", ".join(Path(said.origin).name for said in found)
        _log.warning("%s: the files beside it describe different models (%s), so none is used", path, files)
        return None
    if not found:
        return None
    _log.info("%s: its model is the one that %s describes", path, found[0].origin)
    return found[0]


def described_network(description: Mapping[str, Any]) -> ModelConfig:
    """Return the network of a mapping {base: a zoo name, and what is different}.

    Raises:
        ConfigError: a name or value that cannot be.
    """
    changes = dict(description)
    base = changes.pop("base", None)
    network = ModelConfig() if base is None else zoo.model_config(str(base))
    return network.replace(**changes)


def _read(path: Path, state: State, *, named: bool = True) -> SaidModel | None:
    """The model of a file; None where it describes none, and, unless a user `named` the file, none of the zoo."""
    values = _json(path) if path.suffix.lower() == ".json" else read_yaml(path)
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
    elif path.suffix.lower() == ".json" and describes_a_model(values):
        described = interpret(state, None, stored=values, preprocessor={}, hint=path.parent.name)[1]
        if described is None:
            return None
        config = described.config
    else:
        return None
    return SaidModel(config, labels_are_ids, str(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(read_text(path, what="description", error=WeightsError))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} holds damaged JSON: {error}") from None
    return values if isinstance(values, dict) else {}


def _compared(config: ModelConfig) -> str:
    """A network without what the checkpoint itself shows, and without what concerns its training."""
    backbone = {"freeze_at": -1, "freeze_norm": False}
    decoder = {"num_denoising": 0, "label_noise_ratio": 0.0, "box_noise_scale": 0.0}
    return config.replace(
        name="", num_classes=1, in_channels=3, eval_size_hw=None, backbone=backbone, decoder=decoder
    ).model_dump_json()
