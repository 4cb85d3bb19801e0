"""Read the config.json of a Hugging Face folder: return the model that transformers would build, or reject the file.

config.json takes precedence, because users edit it; the description in the header of our own weight files adds what
config.json cannot store (model name, category ids, thresholds, frozen layers). config.json is compared with the
weights; contradictions and values of the wrong type are rejected with the name of the field.

A folder of type "rtdetr" has our description in config.json, under "rtdetr", instead of the fields that stock
transformers reads. Such fields can be added to it; they are followed or rejected in the same way.
"""

import logging
from typing import Any

from rtdetr.config import HGNetv2Config, ModelConfig, PResNetConfig
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.weights.huggingface_classes import check_names, read_categories, warn_label2id
from rtdetr.weights.huggingface_config import (
    BACKBONE_REPEATS,
    FIXED,
    OWN_TYPE,
    TRAINING,
    TYPES,
    V2_FIELDS,
    write_backbone,
    write_config,
)
from rtdetr.weights.huggingface_fields import ABOUT, CONFIG, EXAMPLE, OWN_FIELDS, checked, contradiction, short
from rtdetr.weights.identify import Observation, contradicted_fields, differences, identify, observe
from rtdetr.weights.names import State
from rtdetr.weights.official import Metadata, merged_metadata, read_metadata

_log = logging.getLogger(__name__)
_DESCRIPTION = "rtdetr"  # key of our description in the config.json of our own model type
_SAMPLING = {"default": "bilinear", "discrete": "discrete"}
# fields of config.json and our settings, not visible in the weights
_SETTINGS = {
    "encoder_attention_heads": "encoder.num_heads",
    "positional_encoding_temperature": "encoder.temperature",
    "freeze_backbone_batch_norms": "backbone.freeze_norm",
    "backbone_freeze_at": "backbone.freeze_at",
    "decoder_attention_heads": "decoder.num_heads",
    "decoder_n_points": "decoder.num_points",
    "query_selection": "decoder.query_selection",
    **{
        name: f"decoder.{name}"
        for name in ("num_queries", "num_denoising", "label_noise_ratio", "box_noise_scale", "eval_idx")
    },
}
_SHOWN = {  # if omitted, the weights show them, at least in part
    *("decoder_attention_heads", "decoder_n_points", "freeze_backbone_batch_norms", "backbone_freeze_at"),
}
_ARCHITECTURES = {
    name for _, detector in TYPES.values() for name in (detector, detector.replace("ForObjectDetection", "Model"))
}
_NOT_COMPARED = {"architectures", "backbone_config", "decoder_n_points", "dtype", "id2label", "label2id", "model_type"}
_FACTS = {  # facts visible in the weights, and the fields that state them
    "decoder": "decoder_attention_heads and decoder_n_points",
    "points per level": "decoder_n_points",
    "learned queries": "num_queries",
    "class-agnostic query selection": "query_selection",
}


def describes_a_model(stored: dict[str, Any]) -> bool:
    """Whether a config.json describes a model; that of a training run has none of these fields."""
    return not stored.keys().isdisjoint({"model_type", *EXAMPLE, *ABOUT, _DESCRIPTION})


def stated_version(stored: dict[str, Any]) -> str | None:
    """Return the version stated by `model_type`, "v1" or "v2"; None if there is none.

    Raises:
        WeightsError: the type is not an RT-DETR type, or contradicts other fields.
    """
    known = {model_type: version for version, (model_type, _) in TYPES.items()} | {OWN_TYPE: None}
    found = stored.get("model_type", OWN_TYPE)
    if not isinstance(found, str) or found not in known:
        raise WeightsError(f"{CONFIG}: model_type {short(found)} is not RT-DETR's, expected one of {sorted(known)}")
    for version, (_, architecture) in TYPES.items():
        architectures = stored.get("architectures")
        if isinstance(architectures, list) and architecture in architectures and known[found] not in (None, version):
            raise WeightsError(f"{CONFIG}: architectures {short(architectures)} contradict model_type {found!r}")
    if found != OWN_TYPE and _DESCRIPTION in stored:
        raise WeightsError(
            f"{CONFIG}: model_type {found!r} contradicts 'rtdetr', the description of a model that transformers does "
            f"not support. Set it to {OWN_TYPE!r}"
        )
    return known[found]


def read_description(stored: dict[str, Any], state: State, *, described: Metadata | None, hint: str) -> Metadata:
    """Return the model of a repository: structure from its entries, the rest from its config.json.

    Args:
        stored: content of config.json.
        state: the entries under official names.
        described: description in the header of the weights, if any.
        hint: name of the folder, as for `identify`.

    Raises:
        WeightsError: a value in config.json is not supported, has the wrong type, or contradicts the weights.
    """
    observation = observe(state)
    if stated_version(stored) not in (None, observation.version):
        raise contradiction("model_type", stored["model_type"], TYPES[observation.version][0])
    own = _own_description(stored, observation, described)
    if own is None and described is not None and not _fits(described.config, observation):
        raise WeightsError("the description of the model does not match its entries")
    stated = own or described
    fields = checked(stored, known=(_DESCRIPTION,))
    _check_fixed(fields, observation, own.config if own else None)
    sampling = _sampling(fields, observation, own.config if own else None)
    base = stated.config if stated else identify(observation, hint=hint, sampling=sampling)
    if own is None:
        base = base.replace(
            version=observation.version, pixel_mean=None, pixel_std=None, decoder={"activation": "relu"}
        )
        fields = {**{name: (EXAMPLE | OWN_FIELDS)[name] for name in _SETTINGS.keys() - _SHOWN}, **fields}
    config = _with_settings(base.replace(decoder={"sampling": sampling}), fields)
    _check_facts(config, observation)
    config = _with_network_settings(config, fields, observation)
    _compare(fields, config)
    if fields.get("architectures") and _ARCHITECTURES.isdisjoint(fields["architectures"]):
        _log.warning("%s: architectures %s have no effect: none is an RT-DETR", CONFIG, short(fields["architectures"]))
    known = stated.categories if stated else None
    categories = read_categories(fields.get("id2label"), config.num_classes, known=known)
    warn_label2id(fields.get("label2id"), fields.get("id2label"))
    return Metadata(config, categories, stated.thresholds if stated else None)


def _own_description(stored: dict[str, Any], observation: Observation, described: Metadata | None) -> Metadata | None:
    """Return our description of a model of our own type; None if its config.json has transformers' fields.

    What config.json omits is taken from the description in the header of the weights.
    """
    if _DESCRIPTION not in stored:
        if stored.get("model_type") != OWN_TYPE or "d_model" in stored:
            return None
        if described is None:
            raise WeightsError(
                f"{CONFIG}: model_type {OWN_TYPE!r} needs 'rtdetr', the description of the model, which is missing "
                "here and in the weights. Restore the original config.json"
            )
        return described
    try:
        own = read_metadata(merged_metadata(stored[_DESCRIPTION], described))
        if own.categories is not None:
            usual = described.categories.names if described and described.categories else ()
            check_names(own.categories.names, where="rtdetr.categories", usual=usual)
    except WeightsError as error:
        text = str(error)
        raise (error if text.startswith(CONFIG) else WeightsError(f"{CONFIG}: {_DESCRIPTION}: {text}")) from None
    for name in ("num_classes", "in_channels"):
        if getattr(own.config, name) != getattr(observation, name):
            raise contradiction(f"rtdetr.model.{name}", getattr(own.config, name), getattr(observation, name))
    if found := differences(observation.facts, own.config):
        named = ", ".join(contradicted_fields(observation.facts, own.config))
        raise WeightsError(
            f"{CONFIG}: rtdetr.model does not describe these weights, which have {found[0]}. See {named}"
        )
    return own


def _fits(config: ModelConfig, observation: Observation) -> bool:
    counts = (config.num_classes, config.in_channels) == (observation.num_classes, observation.in_channels)
    return counts and not differences(observation.facts, config)


def _check_fixed(fields: dict[str, Any], observation: Observation, own: ModelConfig | None) -> None:
    """Reject settings that are fixed in this library, or set elsewhere in a folder of its own type."""
    v1 = observation.version == "v1"
    expected = FIXED | {"learn_initial_query": observation.facts["learned queries"] is not None}
    elsewhere = {}
    if own is not None:
        expected |= {"decoder_activation_function": own.decoder.activation}
        elsewhere = {
            "decoder_activation_function": "decoder.activation",
            "learn_initial_query": "decoder.learned_queries",
        }
    for key, value in expected.items():
        if fields.get(key, value) != value and not (v1 and key in V2_FIELDS):
            hint = f". Set rtdetr.model.{elsewhere[key]} instead" if key in elsewhere else ""
            raise WeightsError(f"{CONFIG}: {key} {short(fields[key])} is not supported, expected {value!r}{hint}")
    for key in V2_FIELDS if v1 else ():
        if fields.get(key, EXAMPLE[key]) != EXAMPLE[key]:
            _log.warning("%s: %s %s has no effect in RT-DETR v1", CONFIG, key, short(fields[key]))


def _sampling(fields: dict[str, Any], observation: Observation, own: ModelConfig | None) -> str:
    """Return the sampling method for `decoder_method`."""
    if "decoder_method" not in fields and own is not None:
        return own.decoder.sampling
    method = fields.get("decoder_method", "default") if observation.version == "v2" else "default"
    if method not in _SAMPLING:
        raise WeightsError(f"{CONFIG}: decoder_method must be 'default' or 'discrete', got {short(method)}")
    return _SAMPLING[method]


def _with_settings(config: ModelConfig, fields: dict[str, Any]) -> ModelConfig:
    """Return a model with the settings that are not visible in the weights."""
    for theirs, setting in _SETTINGS.items():
        if theirs not in fields:
            continue
        value = fields[theirs]
        if theirs == "decoder_n_points":
            value = tuple(value) if isinstance(value, list) else (value,) * len(config.decoder.num_points)
        section, _, ours = setting.partition(".")
        config = _replaced(config, theirs, fields[theirs], {section: {ours: value}})
    width, expansion = config.encoder.width, fields.get("hidden_expansion", config.encoder.expansion)
    if int(width * expansion) == int(width * config.encoder.expansion):
        config = _replaced(config, "hidden_expansion", expansion, {"encoder": {"expansion": expansion}})
    return config


def _with_network_settings(config: ModelConfig, fields: dict[str, Any], observation: Observation) -> ModelConfig:
    """Return a model with the changes that rtdetr.hf writes if there is no field for them."""
    changes = fields.get("network_settings") or {}
    config = _replaced(config, "network_settings", changes, changes)
    try:
        config.check_types(changes)
    except ConfigError as error:
        raise WeightsError(f"{CONFIG}: network_settings: {error}") from None
    _check_facts(config, observation, names="network_settings")
    return config


def _replaced(config: ModelConfig, field: str, value: Any, changes: dict[str, Any]) -> ModelConfig:
    """Return a model with some changes; errors name the field of config.json."""
    try:
        return config.replace(**changes)
    except ConfigError as error:
        raise WeightsError(f"{CONFIG}: {field} {short(value)} is invalid: {error}") from None


def _check_facts(config: ModelConfig, observation: Observation, *, names: str | None = None) -> None:
    """Reject settings that contradict the weights; `names`: fields to name in the error, None: those of the fact."""
    for fact in differences(observation.facts, config):
        stated = names or next((fields for start, fields in _FACTS.items() if fact.startswith(f"{start} ")), "a field")
        raise WeightsError(f"{CONFIG}: {stated} contradict the weights, which have {fact}")


def _compare(fields: dict[str, Any], config: ModelConfig) -> None:
    """Reject fields that contradict the weights.

    Raises:
        WeightsError: a field contradicts the weights; the message names the field and both values.
    """
    if not isinstance(config.backbone, PResNetConfig | HGNetv2Config):
        return  # not supported by transformers: the folder contains our description
    actual = write_config(config, categories=None, dtype="float32")
    for key in sorted(actual.keys() & fields.keys() - FIXED.keys() - TRAINING.keys() - _NOT_COMPARED):
        if fields[key] != actual[key]:
            raise contradiction(key, fields[key], actual[key])
    if fields.get("num_labels", config.num_classes) != config.num_classes:
        raise contradiction("num_labels", fields["num_labels"], config.num_classes)
    backbone = write_backbone(config.backbone, config.in_channels)
    unused = BACKBONE_REPEATS if isinstance(config.backbone, HGNetv2Config) else set()
    for key, value in (fields.get("backbone_config") or {}).items():
        if key in backbone and key not in unused and value not in (None, backbone[key]):
            raise contradiction(f"backbone_config.{key}", value, backbone[key])
