"""The fields of config.json: their names, types and valid values.

`huggingface_reading` interprets the values.
"""

import difflib
import logging
from collections.abc import Collection
from typing import Any

from rtdetr.config import HGNetv2Config, ModelConfig, PResNetConfig
from rtdetr.errors import ConfigError, WeightsError, nearest
from rtdetr.weights.huggingface_config import FIXED, TRAINING, TYPES, closest_backbone, write_backbone, write_config

_log = logging.getLogger(__name__)
CONFIG = "config.json"
EXAMPLE = write_config(ModelConfig(), categories=None, dtype="float32")  # all fields with transformers' defaults
_ALIASES = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}  # transformers' aliases
OWN_FIELDS: dict[str, Any] = {  # fields of rtdetr.hf.RTDetrV2Config, with their defaults
    "eval_idx": -1,
    "query_selection": "default",
    "backbone_freeze_at": -1,
    "transformers_compatible_loss": False,
    "network_settings": {},
}
ABOUT: dict[str, Any] = {"num_labels": 80, "torch_dtype": "float32"}
# fields without effect on an RT-DETR: bookkeeping by transformers, and fields written by old releases
_WITHOUT_EFFECT = (
    *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation", "auto_map"),
    *("return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward", "problem_type"),
    *("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs", "disable_custom_kernels"),
    *("torchscript", "use_bfloat16", "pruned_heads", "tie_encoder_decoder", "use_cache"),
)
_NULLABLE = {
    *("architectures", "backbone_config", "dtype", "torch_dtype", "id2label", "label2id", "network_settings"),
    *("out_features", "out_indices"),
    *(key for key, value in (FIXED | TRAINING).items() if value is None),
}
_BACKBONES = {"rt_detr_resnet": PResNetConfig(), "hgnet_v2": HGNetv2Config()}
_LAYER_TYPES = ("basic", "bottleneck")
_LONGEST = 100  # characters of a value in messages


def checked(stored: dict[str, Any], *, known: Collection[str] = ()) -> dict[str, Any]:
    """Check the types of all fields and return them under their main names.

    Args:
        stored: content of the file.
        known: further keys, which cause no warning.

    Raises:
        WeightsError: a value has the wrong type, or a field contradicts its alias.
    """
    examples = EXAMPLE | OWN_FIELDS | ABOUT
    _warn_unknown(stored, known=(*examples, *_ALIASES, *_WITHOUT_EFFECT, *known))
    fields = dict(stored)
    for alias, name in _ALIASES.items():
        if alias in fields and fields.setdefault(name, fields[alias]) != fields[alias]:
            raise WeightsError(
                f"{CONFIG}: {alias} {short(fields[alias])} and {name} {short(fields[name])} are two names of one "
                "setting; remove one of them"
            )
    for key, example in examples.items():
        if key in fields and not _is_like(key, fields[key], example):
            raise wrong_type(key, fields[key], _kind(key, example))
    return fields


def check_backbone(stored: dict[str, Any]) -> None:
    """Reject a config.json with a backbone that this library does not support.

    Raises:
        WeightsError: the backbone is not supported, or one of its fields has the wrong type.
    """
    backbone = stored.get("backbone_config")
    if not isinstance(backbone, dict):
        return
    example, closest = _BACKBONES.get(str(backbone.get("model_type"))), None
    if example is not None:
        _check_backbone_fields(backbone, write_backbone(example))
        try:
            closest = closest_backbone(backbone)
        except ConfigError as error:
            raise WeightsError(f"{CONFIG}: backbone_config: {error}") from None
        if closest and not closest[1]:
            return
    name = backbone.get("backbone") or backbone.get("model_type")
    opens = "load it with RTDetrV2ForObjectDetection.from_pretrained of rtdetr.hf, and call to_detector() to detect"
    if stored.get("model_type") == TYPES["v1"][0]:
        opens = "expected ResNet-vd or HGNetV2"
    shown = ["model_type", *(key for key in ("embedding_size", "hidden_sizes", "layer_type") if example)]
    shown += closest[1] if closest else []
    odd = ", ".join(f"{key} {short(backbone[key]) if key in backbone else 'left out'}" for key in dict.fromkeys(shown))
    raise WeightsError(
        f"{CONFIG}: backbone_config: a backbone {short(name)} of this shape ({odd}) is supported only "
        f"by transformers or timm; {opens}"
    )


def contradiction(key: str, value: Any, actual: Any) -> WeightsError:
    """Return an error about a field that contradicts the weights."""
    return WeightsError(
        f"{CONFIG}: {key} {short(value)} contradicts the weights, which have {short(actual)}. Correct it, or use the "
        "weights that belong to this file"
    )


def wrong_type(key: str, value: Any, expected: str) -> WeightsError:
    """Return an error about a value of the wrong type."""
    return WeightsError(f"{CONFIG}: {key} {short(value)} has the wrong type, expected {expected}")


def short(value: Any) -> str:
    """Return a value as shown in messages."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _check_backbone_fields(backbone: dict[str, Any], examples: dict[str, Any]) -> None:
    """Reject values of the wrong type, and warn about fields that look misspelled."""
    for key, value in backbone.items():
        if key not in examples:
            # old releases of transformers wrote many fields of other networks here
            if close := difflib.get_close_matches(key, examples, n=1, cutoff=0.8):
                _log.warning(
                    "%s: backbone_config: %r is not a field of this backbone and has no effect. Did you mean %r?",
                    *(CONFIG, key, close[0]),
                )
            continue
        example = examples[key]
        numbers = value if isinstance(value, list) else [value]
        whole = all(0 < number < 2**31 for number in numbers if type(number) is int)
        same_length = not isinstance(example, list) or value is None or len(numbers) == len(example)
        if key == "layer_type" and value not in _LAYER_TYPES:
            raise wrong_type(f"backbone_config.{key}", value, " or ".join(map(repr, _LAYER_TYPES)))
        if not (_is_like(key, value, example) and whole and same_length):
            kind = f"a list of {len(example)} such as {example!r}" if isinstance(example, list) else _kind(key, example)
            raise wrong_type(f"backbone_config.{key}", value, kind + (" above 0" if type(example) is int else ""))


def _is_like(key: str, value: Any, example: Any) -> bool:
    """Whether a value has the type of the example value of its field."""
    if value is None:
        return key in _NULLABLE
    if key == "decoder_n_points" and isinstance(value, list):  # extension of this library: one number per level
        example = [0]
    if example is None:  # numbers with None as default in transformers
        example = [0] if isinstance(value, list) else 0.0
    if isinstance(example, list) and isinstance(value, list):
        return all(_is_like("", one, example[0]) for one in value)
    if isinstance(example, float) and not isinstance(value, bool):
        return isinstance(value, int | float) and -1e300 < value < 1e300
    return type(value) is type(example)


def _kind(key: str, example: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", dict: "an object"}
    word = f"a list like [{example[0]!r}]" if isinstance(example, list) else words.get(type(example), "a number")
    return f"{word} or null" if key in _NULLABLE else word


def _warn_unknown(stored: dict[str, Any], *, known: tuple[str, ...]) -> None:
    """Warn about fields that have no effect, here and in transformers: they could be misspelled."""
    for key in sorted(stored.keys() - set(known)):
        _log.warning("%s: %r is not a field of RT-DETR and has no effect.%s", CONFIG, key, nearest(key, known))
