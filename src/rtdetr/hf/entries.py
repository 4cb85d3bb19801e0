"""Entry names of a model: those of transformers in files, the published ones with a prefix in memory."""

from collections.abc import Mapping
from typing import Any

from rtdetr.hf.configuration import RTDetrV2Config, own_backbone
from rtdetr.weights.names import State, from_huggingface, is_huggingface, to_huggingface, to_version, version_of

NETWORK = "model.network."  # prefix of all entries of a detection model; a base model omits "model."
_BACKBONE = "backbone.model."  # external backbones have the same names in memory and in files


def ensure_memory_names(entries: Mapping[str, Any], config: Any) -> Mapping[str, Any]:
    """Return entries under their names in memory."""
    return (
        entries if not entries or any("network." in key for key in entries) else to_memory_names(dict(entries), config)
    )


def to_memory_names(state: State, config: Any) -> State:
    """Translate entries of a file, or of a part of it, to the names of a detection model in memory."""
    if any(key.startswith("encoder_input_proj.") for key in state):  # a transformers base model
        state = {f"model.{key}": value for key, value in state.items()}
    if not is_huggingface(state):
        state = to_version(state, "v2") if version_of(state) else state
        return {NETWORK + key: value for key, value in state.items()}
    elsewhere = f"model.{_BACKBONE}" if own_backbone(config) is None else None
    backbone = {key: state[key] for key in state if elsewhere and key.startswith(elsewhere)}
    network = from_huggingface({key: value for key, value in state.items() if key not in backbone})
    network |= {key.removeprefix("model."): value for key, value in backbone.items()}
    return {NETWORK + key: value for key, value in network.items()}


def to_file_names(network: State, config: RTDetrV2Config) -> State:
    """Translate the entries of the network to transformers names; the inverse of `to_memory_names`."""
    elsewhere = own_backbone(config) is None
    backbone = {key: network[key] for key in network if elsewhere and key.startswith(_BACKBONE)}
    entries = to_huggingface({key: value for key, value in network.items() if key not in backbone})
    frozen = config.freeze_backbone_batch_norms  # frozen norms of transformers do not count batches
    kept = {key: backbone[key] for key in backbone if not (frozen and key.endswith("num_batches_tracked"))}
    return entries | {f"model.{key}": value for key, value in kept.items()}
