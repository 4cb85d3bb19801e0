"""RTDetrV2Config: the transformers configuration of RT-DETRv2 with additional fields, and the network it describes."""

import logging
from typing import Any, ClassVar, Literal, Self

import transformers
from huggingface_hub.dataclasses import strict

from rtdetr.categories import Categories
from rtdetr.config import DecoderConfig, EncoderConfig, HGNetv2Config, ModelConfig, PResNetConfig
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.weights.huggingface_classes import read_categories
from rtdetr.weights.huggingface_config import FIXED, read_backbone, write_config
from rtdetr.weights.official import Metadata, read_metadata

_log = logging.getLogger(__name__)
_SAMPLING: dict[str, Literal["bilinear", "discrete"]] = {"default": "bilinear", "discrete": "discrete"}
_FREE = ("learn_initial_query",)  # fields of FIXED that can be changed here


@strict(accept_kwargs=True)
class RTDetrV2Config(transformers.RTDetrV2Config):
    """All fields, defaults and checks of the transformers class, so a stock config.json has the same meaning.

    Old names (`backbone`, `use_timm_backbone`, `use_pretrained_backbone`, `backbone_kwargs`, `disable_custom_kernels`)
    are accepted as in transformers. Additional fields of this library:

    Args:
        decoder_n_points: sampling points per head and level: one number for all levels, or a list with one per level.
        eval_idx: the decoder layer that is evaluated, counted from 0, or from the end if negative; the layers after it
            are for training only.
        query_selection: how encoder tokens become queries: "default" by the best class score, "one2many" by pairs of
            token and class, "agnostic" by a class-agnostic score.
        backbone_freeze_at: frozen part of a ResNet-vd or HGNetv2: -1 none, 0 stem, n stem and n stages.
        transformers_compatible_loss: train as transformers does instead of as published: no gradient from the boxes of
            a layer to the previous layer, losses normalized by the number of objects in this process only, and
            denoising queries in front of the others in every output.
        network_settings: changes to `rtdetr.config.ModelConfig` that have no field here, such as
            {"decoder": {"activation": "silu"}}.
    """

    # `Trainer.evaluate` only needs the loss, the logits and the boxes; the other outputs would fill its memory
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "auxiliary_outputs",
        "last_hidden_state",
        "intermediate_hidden_states",
        "intermediate_logits",
        "intermediate_reference_points",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
        "init_reference_points",
        "enc_topk_logits",
        "enc_topk_bboxes",
        "enc_outputs_class",
        "enc_outputs_coord_logits",
        "denoising_meta_values",
        "content_share_hw",
    ]

    decoder_n_points: int | list[int] | tuple[int, ...] = 4
    eval_idx: int = -1
    query_selection: str = "default"
    backbone_freeze_at: int = -1
    transformers_compatible_loss: bool = False
    network_settings: dict | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a configuration from a dictionary and the changes in `kwargs`, as transformers does.

        Differs: classes given by `id2label` or another `num_labels` replace all stored class information; transformers
        warns about the stored `id2label` and keeps a `label2id` that no longer matches.
        """
        fields = dict(config_dict)
        if "rtdetr" in fields and "d_model" not in fields:  # a model that transformers cannot represent
            fields = cls.from_description(read_metadata(fields.pop("rtdetr")), fields)
        names, count = kwargs.pop("id2label", None), kwargs.get("num_labels")
        if names is not None:
            label2id = kwargs.pop("label2id", None) or {name: int(label) for label, name in names.items()}
            fields |= {"id2label": names, "label2id": label2id}
        elif count is not None and count != len(fields.get("id2label") or ()):
            fields = {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
        return super().from_dict(fields, **kwargs)

    @classmethod
    def from_description(cls, described: Metadata, fields: dict[str, Any]) -> dict[str, Any]:
        """Return all fields of a model described by this library, overridden by the other fields of its config.json."""
        own = cls.from_model_config(described.config, categories=described.categories).to_dict()
        given = {name: value for name, value in fields.items() if name != "model_type" and value is not None}
        if "id2label" in given:
            given.setdefault("label2id", {name: int(label) for label, name in given["id2label"].items()})
        return {**own, **given}

    @classmethod
    def from_model_config(cls, config: ModelConfig, *, categories: Categories | None = None) -> Self:
        """Return the configuration of a model of this library, such as `rtdetr.zoo.model_config("rtdetrv2_r18vd")`.

        Args:
            config: the model.
            categories: its classes; numbered by default.

        Raises:
            ConfigError: the model is RT-DETR v1, which has another class in transformers, or has another backbone.
        """
        if config.version != "v2":
            raise ConfigError(f"RTDetrV2Config supports RT-DETRv2 only, but {config.name!r} is RT-DETR v1")
        if not isinstance(config.backbone, PResNetConfig | HGNetv2Config):
            raise ConfigError(
                f"RTDetrV2Config supports ResNet-vd and HGNetv2, got a backbone of kind {config.backbone.kind!r}; for "
                "one of timm or transformers, pass its configuration as backbone_config"
            )
        decoder, points = config.decoder, config.decoder.num_points
        fields = write_config(config, categories=categories, dtype="float32") | {
            "decoder_n_points": points[0] if len(set(points)) == 1 else list(points),
            "decoder_n_levels": len(points),
            "num_feature_levels": len(points),
            "backbone_freeze_at": config.backbone.freeze_at,
            "eval_idx": decoder.eval_idx,
            "learn_initial_query": decoder.learned_queries,
            "query_selection": decoder.query_selection,
        }
        result = cls.from_dict(fields)
        result.network_settings = _changes(model_config(result), config) or None
        return result


def own_config(config: transformers.RTDetrV2Config) -> RTDetrV2Config:
    """Return an `RTDetrV2Config`: the same object, or a copy of a stock configuration."""
    if isinstance(config, RTDetrV2Config):
        return config
    result = RTDetrV2Config.from_dict(config.to_dict())
    # not part of the dictionary
    result._attn_implementation = config._attn_implementation
    result.name_or_path = config.name_or_path
    return result


def model_config(config: transformers.RTDetrV2Config) -> ModelConfig:
    """Return the network settings of a configuration, stock or ours; an external backbone is left at the default.

    Raises:
        ConfigError: a value is not supported by this implementation.
    """
    _check_fixed(config)
    levels, points = config.decoder_n_levels, config.decoder_n_points
    points = (points,) * levels if isinstance(points, int) else tuple(points)
    if not len(points) == levels == config.num_feature_levels:
        raise ConfigError(
            f"RTDetrV2Config: decoder_n_levels {levels}, num_feature_levels {config.num_feature_levels} and the "
            f"length of decoder_n_points {points} must be equal"
        )
    result = ModelConfig(
        num_classes=config.num_labels or 2,
        in_channels=getattr(config.backbone_config, "num_channels", 3),
        eval_size_hw=None,  # anchors are made for every size, as transformers does
        backbone=own_backbone(config) or PResNetConfig(),
        encoder=EncoderConfig(
            width=config.encoder_hidden_dim,
            feedforward=config.encoder_ffn_dim,
            num_layers=config.encoder_layers,
            num_heads=config.encoder_attention_heads,
            expansion=config.hidden_expansion,
            temperature=config.positional_encoding_temperature,
        ),
        decoder=DecoderConfig(
            width=config.d_model,
            feedforward=config.decoder_ffn_dim,
            num_layers=config.decoder_layers,
            num_heads=config.decoder_attention_heads,
            eval_idx=getattr(config, "eval_idx", -1),
            num_queries=config.num_queries,
            num_points=points,
            sampling=_SAMPLING[config.decoder_method],
            query_selection=getattr(config, "query_selection", "default"),
            learned_queries=config.learn_initial_query,
            num_denoising=config.num_denoising,
            label_noise_ratio=config.label_noise_ratio,
            box_noise_scale=config.box_noise_scale,
        ),
    )
    return result.replace(**(getattr(config, "network_settings", None) or {}))


def _check_fixed(config: transformers.RTDetrV2Config) -> None:
    for name, supported in FIXED.items():
        found = getattr(config, name, supported)
        found = list(found) if isinstance(found, tuple) else found
        if found != supported and name not in _FREE:
            raise ConfigError(f"RTDetrV2Config: {name} {found!r} is not supported, expected {supported!r}")
    if config.decoder_method not in _SAMPLING:
        method = config.decoder_method
        raise ConfigError(f"RTDetrV2Config: decoder_method must be 'default' or 'discrete', got {method!r}")


def categories_of(config: transformers.RTDetrV2Config) -> Categories | None:
    """Return the classes of a configuration; None if they are only numbered, or (with a warning) if names repeat."""
    labels = {str(label): name for label, name in (config.id2label or {}).items()} or None
    try:
        return read_categories(labels, config.num_labels or 2)
    except WeightsError as error:
        _log.warning("%s. Using numbered classes instead", error)
        return None


def own_backbone(config: transformers.RTDetrV2Config) -> PResNetConfig | HGNetv2Config | None:
    """Return the settings of a backbone of this library; None for an external backbone, such as one of timm."""
    stored: Any = config.backbone_config
    found = read_backbone(stored.to_dict())
    if found is None:
        return None
    training = {
        "freeze_at": getattr(config, "backbone_freeze_at", -1),
        "freeze_norm": config.freeze_backbone_batch_norms,
    }
    return type(found)(**{**found.model_dump(), **training})


def _changes(base: ModelConfig, wanted: ModelConfig) -> dict[str, Any]:
    """Return the arguments of `base.replace` that yield `wanted`, ignoring name and evaluation size."""
    old, new = base.model_dump(mode="json"), wanted.model_dump(mode="json")
    changes = {}
    for key in old.keys() - {"name", "eval_size_hw"}:
        if old[key] == new[key]:
            continue
        nested = isinstance(new[key], dict) and key != "backbone"
        changes[key] = {k: v for k, v in new[key].items() if v != old[key][k]} if nested else new[key]
    return changes
