"""RTDetrV2Config: transformers' configuration of RT-DETRv2 with a few more fields, and the network it describes."""

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
_FREE = ("learn_initial_query",)  # of FIXED: not fixed here


@strict(accept_kwargs=True)
class RTDetrV2Config(transformers.RTDetrV2Config):
    """Every field of transformers' class with its default and its checks, so that a stock config.json means the same.

    Old names (`backbone`, `use_timm_backbone`, `use_pretrained_backbone`, `backbone_kwargs`, `disable_custom_kernels`)
    are accepted as transformers accepts them. What only this library has:

    Args:
        decoder_n_points: sampling points a head and level: one number for all levels, or one for each.
        eval_idx: the decoder layer that is evaluated, counted from 0, or from the end if negative; the layers after it
            are for training only.
        query_selection: how encoder tokens become queries: "default" by best class, "one2many" by pairs of token and
            class, "agnostic" by a score without classes.
        backbone_freeze_at: what of a ResNet-vd or HGNetv2 is not trained: -1 nothing, 0 the stem, n also n stages.
        transformers_compatible_loss: compute in training what transformers computes instead of what is published: no
            gradient from a layer's boxes to the layer before, a divisor that counts the objects of this process alone,
            and denoising queries in front of the others in every output.
        network_settings: changes to `rtdetr.config.ModelConfig` for which there is no field, such as
            {"decoder": {"activation": "silu"}}.
    """

    # a detection is in the loss, the logits and the boxes: the rest would only fill the memory of `Trainer.evaluate`
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
        """Return the configuration of a dictionary with the changes of a call, as transformers does.

        Differs: classes that the call changes, by `id2label` or another `num_labels`, replace all that is stored about
        classes; transformers warns of the stored `id2label`, and leaves a `label2id` that does not fit.
        """
        fields = dict(config_dict)
        if "rtdetr" in fields and "d_model" not in fields:  # what rtdetr.weights writes of models of ours alone
            fields = cls.beside(read_metadata(fields.pop("rtdetr")), fields)
        names, count = kwargs.pop("id2label", None), kwargs.get("num_labels")
        if names is not None:
            label2id = kwargs.pop("label2id", None) or {name: int(label) for label, name in names.items()}
            fields |= {"id2label": names, "label2id": label2id}
        elif count is not None and count != len(fields.get("id2label") or ()):
            fields = {name: value for name, value in fields.items() if name not in ("id2label", "label2id")}
        return super().from_dict(fields, **kwargs)

    @classmethod
    def beside(cls, described: Metadata, fields: dict[str, Any]) -> dict[str, Any]:
        """All fields of a model that has a description of ours, with those that config.json has beside it."""
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
            categories: its classes; default: numbered ones.

        Raises:
            ConfigError: RT-DETR v1, for which transformers has another class, or a backbone that it has no name for.
        """
        if config.version != "v2":
            raise ConfigError(f"RTDetrV2Config describes RT-DETRv2 models only, {config.name!r} is RT-DETR v1")
        if not isinstance(config.backbone, PResNetConfig | HGNetv2Config):
            raise ConfigError(
                f"RTDetrV2Config describes ResNet-vd and HGNetv2, got a backbone of kind {config.backbone.kind!r}; for "
                "one of timm or transformers give its configuration as backbone_config"
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
    """A configuration of our class: the same object, or a stock one's values."""
    if isinstance(config, RTDetrV2Config):
        return config
    result = RTDetrV2Config.from_dict(config.to_dict())
    # what a dictionary does not hold
    result._attn_implementation = config._attn_implementation
    result.name_or_path = config.name_or_path
    return result


def model_config(config: transformers.RTDetrV2Config) -> ModelConfig:
    """Return the network of a configuration, stock or ours. A backbone from elsewhere is left at its default.

    Raises:
        ConfigError: it has a value that RT-DETRv2 as implemented here cannot follow.
    """
    _check_fixed(config)
    levels, points = config.decoder_n_levels, config.decoder_n_points
    points = (points,) * levels if isinstance(points, int) else tuple(points)
    if not len(points) == levels == config.num_feature_levels:
        raise ConfigError(
            f"RTDetrV2Config: decoder_n_levels {levels}, num_feature_levels {config.num_feature_levels} and the "
            f"numbers in decoder_n_points {points} must agree"
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
    """Return the classes of a configuration, None where it only numbers them, or names two alike, with a warning."""
    labels = {str(label): name for label, name in (config.id2label or {}).items()} or None
    try:
        return read_categories(labels, config.num_labels or 2)
    except WeightsError as error:
        _log.warning("%s. The classes are numbered", error)
        return None


def own_backbone(config: transformers.RTDetrV2Config) -> PResNetConfig | HGNetv2Config | None:
    """Return this library's backbone for a configuration; None where it has none, such as timm's."""
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
    """What `base.replace` needs to become the wanted network; names and the stored anchors' size do not count."""
    old, new = base.model_dump(mode="json"), wanted.model_dump(mode="json")
    changes = {}
    for key in old.keys() - {"name", "eval_size_hw"}:
        if old[key] == new[key]:
            continue
        nested = isinstance(new[key], dict) and key != "backbone"
        changes[key] = {k: v for k, v in new[key].items() if v != old[key][k]} if nested else new[key]
    return changes
