"""From the config.json of a Hugging Face folder to the model that transformers would build of it, or to a refusal.

config.json is what people edit, so it decides; the description in the header of our own weight files adds what
config.json cannot say (the model's name, category ids, thresholds, what was frozen). What config.json says is compared
with what the weights are: a contradiction is refused by the name of the field, and so is a value of a wrong type.
"""

import logging
from typing import Any

from rtdetr.categories import COCO80, Categories, Category
from rtdetr.config import HGNetv2Config, ModelConfig
from rtdetr.errors import ConfigError, WeightsError, nearest
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
from rtdetr.weights.identify import Observation, differences, identify, observe
from rtdetr.weights.names import State
from rtdetr.weights.official import Metadata, read_metadata

_log = logging.getLogger(__name__)
CONFIG = "config.json"
_EXAMPLE = write_config(ModelConfig(), categories=None, dtype="float32")  # every field, with transformers' default
_ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}  # transformers' own
_OWN_FIELDS: dict[str, Any] = {  # of rtdetr.hf.RTDetrV2Config, with their defaults
    "eval_idx": -1,
    "query_selection": "default",
    "backbone_freeze_at": -1,
    "transformers_compatible_loss": False,
    "network_settings": {},
}
_ABOUT: dict[str, Any] = {"num_labels": 80, "torch_dtype": "float32"}
# fields that no RT-DETR computes with: what transformers notes for itself, and what old releases wrote
_WITHOUT_EFFECT = (
    *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation", "auto_map"),
    *(
        "return_dict",
        "output_attentions",
        "output_hidden_states",
        "chunk_size_feed_forward",
        "problem_type",
        "use_cache",
    ),
    *("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs", "disable_custom_kernels"),
    *("torchscript", "use_bfloat16", "pruned_heads", "tie_encoder_decoder", "rtdetr"),
)
_NULLABLE = {
    *("architectures", "backbone_config", "dtype", "torch_dtype", "id2label", "label2id", "network_settings"),
    *(key for key, value in (FIXED | TRAINING).items() if value is None),
}
# fields of config.json and ours, which no entry of the weights shows
_ENCODER = {"encoder_attention_heads": "num_heads", "positional_encoding_temperature": "temperature"}
_DECODER = {name: name for name in ("num_queries", "num_denoising", "label_noise_ratio", "box_noise_scale", "eval_idx")}
_METHODS = {"default": "bilinear", "discrete": "discrete"}
# names in transformers' COCO repositories that differ from COCO's own
_COCO_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
_NOT_COMPARED = {"architectures", "backbone_config", "decoder_n_points", "dtype", "id2label", "label2id", "model_type"}
_FACTS = {  # what the weights show, and the fields that say it
    "decoder": "decoder_attention_heads and decoder_n_points",
    "points a level": "decoder_n_points",
    "learned queries": "num_queries",
    "class-agnostic query selection": "query_selection",
}
_LONGEST = 100  # characters of a value in a message


def describes_a_model(stored: dict[str, Any]) -> bool:
    """Whether a config.json is about a model; that of a training run has no field in common with it."""
    return not stored.keys().isdisjoint({"model_type", *_EXAMPLE, *_ABOUT, "rtdetr"})


def said_version(stored: dict[str, Any]) -> str | None:
    """Return the version that `model_type` says, "v1" or "v2"; None where it says none.

    Raises:
        WeightsError: another model's type.
    """
    known = {model_type: version for version, (model_type, _) in TYPES.items()} | {OWN_TYPE: None}
    found = stored.get("model_type", OWN_TYPE)
    if not isinstance(found, str) or found not in known:
        raise WeightsError(f"{CONFIG}: model type {_short(found)} is not RT-DETR's, expected one of {sorted(known)}")
    for version, (_, architecture) in TYPES.items():
        architectures = stored.get("architectures")
        if isinstance(architectures, list) and architecture in architectures and known[found] not in (None, version):
            raise WeightsError(f"{CONFIG}: architectures {_short(architectures)} contradict model_type {found!r}")
    return known[found]


def read_description(stored: dict[str, Any], state: State, *, described: Metadata | None, hint: str) -> Metadata:
    """Return the model of a repository: structure from its entries, all else from its config.json.

    Args:
        stored: content of config.json.
        state: the entries under official names.
        described: what the header of the weights says, where it says something.
        hint: name of the folder, as for `identify`.

    Raises:
        WeightsError: config.json has a value that RT-DETR as implemented here cannot follow, that is of a wrong type,
            or that the weights contradict.
    """
    observation = observe(state)
    if "rtdetr" in stored and "d_model" not in stored:  # what transformers cannot hold, as rtdetr.weights writes it
        return _own(stored, observation)
    if described is not None and not _fits(described.config, observation):
        raise WeightsError("its description and its entries disagree")
    fields = _checked(stored)
    _check_fixed(fields, observation)
    method = fields.get("decoder_method", "default") if observation.version == "v2" else "default"
    if method not in _METHODS:
        raise WeightsError(f"{CONFIG}: decoder_method must be 'default' or 'discrete', got {_short(method)}")
    base = described.config if described else identify(observation, hint=hint, sampling=_METHODS[method])
    try:
        config = _with_settings(base, fields, version=observation.version, sampling=_METHODS[method])
        _check_facts(config, observation)
        config = config.replace(**(fields.get("network_settings") or {}))
        _check_facts(config, observation, names="network_settings")
    except ConfigError as error:
        raise WeightsError(f"{CONFIG}: {error}") from None
    _compare(fields, config)
    categories = _categories(fields, config.num_classes, known=described.categories if described else None)
    return Metadata(config, categories, described.thresholds if described else None)


def read_categories(stored: dict[str, Any], num_classes: int) -> Categories | None:
    """Classes of a repository, None where it only numbers them; those of COCO come with COCO's ids.

    Names that are not those of the labels 0, 1, ... belong to other labels than the network's, and are left out with a
    warning.

    Raises:
        WeightsError: it names more or fewer classes than the weights have.
    """
    labels = stored.get("id2label")
    if not isinstance(labels, dict):
        return None
    if len(labels) != num_classes:
        raise WeightsError(f"{CONFIG}: id2label names {len(labels)} classes, the weights have {num_classes}")
    found = (labels.get(str(label)) for label in range(num_classes))
    names = [name for name in found if isinstance(name, str) and name]
    if len(set(names)) < num_classes:
        _log.warning(
            "id2label has no name of its own for each of the labels 0..%d, so the classes are numbered", num_classes - 1
        )
        return None
    if all(name == f"LABEL_{label}" for label, name in enumerate(names)):
        return None
    if [_COCO_NAMES.get(name, name) for name in names] == COCO80.names:
        return COCO80
    return Categories(Category(label, name) for label, name in enumerate(names))


def _own(stored: dict[str, Any], observation: Observation) -> Metadata:
    """The model of a folder that `rtdetr.weights` wrote of what transformers cannot hold."""
    _tell_unknown(stored, known=("model_type", "rtdetr"))
    try:
        own = read_metadata(stored["rtdetr"])
    except WeightsError as error:
        raise WeightsError(f"{CONFIG}: rtdetr: {error}") from None
    for name in ("num_classes", "in_channels"):
        if getattr(own.config, name) != getattr(observation, name):
            raise _contradiction(f"rtdetr.model.{name}", getattr(own.config, name), getattr(observation, name))
    if found := differences(observation.facts, own.config):
        raise WeightsError(f"{CONFIG}: rtdetr.model does not describe these weights, which have {found[0]}")
    return own


def _fits(config: ModelConfig, observation: Observation) -> bool:
    counts = (config.num_classes, config.in_channels) == (observation.num_classes, observation.in_channels)
    return counts and not differences(observation.facts, config)


def _checked(stored: dict[str, Any]) -> dict[str, Any]:
    """The fields, each of its type and under its own name.

    Raises:
        WeightsError: a value of a wrong type, or a field that contradicts its other name.
    """
    examples = _EXAMPLE | _OWN_FIELDS | _ABOUT
    _tell_unknown(stored, known=(*examples, *_ALIASES, *_WITHOUT_EFFECT))
    fields = dict(stored)
    for alias, name in _ALIASES.items():
        if alias in fields and fields.setdefault(name, fields[alias]) != fields[alias]:
            raise WeightsError(
                f"{CONFIG}: {alias} {_short(fields[alias])} and {name} {_short(fields[name])} are two names of one "
                "setting; leave one of them out"
            )
    for key, example in examples.items():
        if key in fields and not _is_like(key, fields[key], example):
            raise WeightsError(
                f"{CONFIG}: {key} {_short(fields[key])} is of a wrong type, expected {_kind(key, example)}"
            )
    return fields


def _is_like(key: str, value: Any, example: Any) -> bool:
    """Whether a value has the type of another one of its field."""
    if value is None:
        return key in _NULLABLE
    if key == "decoder_n_points" and isinstance(value, list):  # of ours alone: a number for each level
        example = [0]
    if example is None:  # numbers that are usually left to transformers
        example = [0] if isinstance(value, list) else 0.0
    if isinstance(example, list) and isinstance(value, list):
        return all(_is_like("", one, example[0]) for one in value)
    if isinstance(example, float) and not isinstance(value, bool):
        return isinstance(value, int | float) and -1e300 < value < 1e300
    return type(value) is type(example)


def _kind(key: str, example: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}
    word = f"a list of such as {example[0]!r}" if isinstance(example, list) else words.get(type(example), "a number")
    return f"{word} or null" if key in _NULLABLE else word


def _tell_unknown(stored: dict[str, Any], *, known: tuple[str, ...]) -> None:
    """Say which fields have no effect, here as in transformers: one of them may be a slip of the pen."""
    for key in sorted(stored.keys() - set(known)):
        _log.warning("%s: %r is no field of an RT-DETR and has no effect.%s", CONFIG, key, nearest(key, known))


def _check_fixed(fields: dict[str, Any], observation: Observation) -> None:
    """Refuse what transformers can vary and this library cannot."""
    v1 = observation.version == "v1"
    for key, value in FIXED.items():
        found = fields.get(key, value)
        if key == "learn_initial_query":
            value = observation.facts["learned queries"] is not None
            found = fields.get(key, value)
        if v1 and key in V2_FIELDS:
            continue
        if found != value:
            raise WeightsError(f"{CONFIG}: {key} {_short(found)} is not supported, expected {value!r}")
    ignored = [key for key in V2_FIELDS if v1 and fields.get(key, _EXAMPLE[key]) != _EXAMPLE[key]]
    for key in ignored:
        _log.warning("%s: %s %s has no effect in RT-DETR v1", CONFIG, key, _short(fields[key]))


def _with_settings(base: ModelConfig, fields: dict[str, Any], *, version: str, sampling: str) -> ModelConfig:
    """A model with the settings that no entry shows; those that config.json lacks have transformers' defaults."""
    values = _EXAMPLE | _OWN_FIELDS | fields
    points = fields.get("decoder_n_points", base.decoder.num_points)
    levels = len(base.decoder.num_points)
    decoder = {ours: values[theirs] for theirs, ours in _DECODER.items()} | {
        "num_heads": fields.get("decoder_attention_heads", base.decoder.num_heads),
        "num_points": tuple(points) if isinstance(points, list | tuple) else (points,) * levels,
        "sampling": sampling,
        "query_selection": values["query_selection"],
        "activation": "relu",
    }
    backbone = {
        "freeze_norm": fields.get("freeze_backbone_batch_norms", base.backbone.freeze_norm),
        "freeze_at": fields.get("backbone_freeze_at", base.backbone.freeze_at),
    }
    encoder = {ours: values[theirs] for theirs, ours in _ENCODER.items()}
    width, expansion = base.encoder.width, fields.get("hidden_expansion", base.encoder.expansion)
    if int(width * expansion) == int(width * base.encoder.expansion):
        encoder["expansion"] = expansion
    parts = {"backbone": backbone, "encoder": encoder, "decoder": decoder}
    return base.replace(version=version, pixel_mean=None, pixel_std=None, **parts)


def _check_facts(config: ModelConfig, observation: Observation, *, names: str | None = None) -> None:
    """Refuse settings that the weights contradict; `names`: of the fields that say them, None: those of the fact."""
    for fact in differences(observation.facts, config):
        said = names or next((fields for start, fields in _FACTS.items() if fact.startswith(f"{start} ")), "a field")
        raise WeightsError(f"{CONFIG}: {said} contradict the weights, which have {fact}")


def _compare(fields: dict[str, Any], config: ModelConfig) -> None:
    """Refuse what the weights contradict.

    Raises:
        WeightsError: as said; the message names the field, its value, and what the weights have.
    """
    actual = write_config(config, categories=None, dtype="float32")
    for key in sorted(actual.keys() & fields.keys() - FIXED.keys() - TRAINING.keys() - _NOT_COMPARED):
        if fields[key] != actual[key]:
            raise _contradiction(key, fields[key], actual[key])
    if fields.get("num_labels", config.num_classes) != config.num_classes:
        raise _contradiction("num_labels", fields["num_labels"], config.num_classes)
    backbone = write_backbone(config.backbone, config.in_channels)
    unused = BACKBONE_REPEATS if isinstance(config.backbone, HGNetv2Config) else set()
    for key, value in (fields.get("backbone_config") or {}).items():
        if key in backbone and key not in unused and value not in (None, backbone[key]):
            raise _contradiction(f"backbone_config.{key}", value, backbone[key])


def _categories(fields: dict[str, Any], num_classes: int, *, known: Categories | None) -> Categories | None:
    """The classes that config.json names, with the ids that our description has for their labels."""
    labels = fields.get("id2label")
    if labels is None:
        return known
    wrong = next((name for name in labels.values() if not isinstance(name, str) or not name), None)
    if wrong is not None:
        raise WeightsError(f"{CONFIG}: id2label has the name {_short(wrong)}, expected texts that are not empty")
    names = [labels.get(str(label)) for label in range(num_classes)]
    label2id = fields.get("label2id") or {}
    if len(set(names)) == len(labels) and any(
        str(label2id.get(name, label)) != label for label, name in labels.items()
    ):
        _log.warning("%s: label2id numbers the classes otherwise than id2label, which decides", CONFIG)
    if len(labels) == num_classes and names == (known or Categories.numbered(num_classes)).names:
        return known
    found = read_categories(fields, num_classes)
    return Categories(map(Category, known.ids, found.names)) if known and found else found


def _contradiction(key: str, value: Any, actual: Any) -> WeightsError:
    return WeightsError(
        f"{CONFIG}: {key} {_short(value)} contradicts the weights, which have {_short(actual)}. Put that there, or use "
        "the weights that belong to this file"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
