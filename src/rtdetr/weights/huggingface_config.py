"""config.json of transformers' RTDetr and RTDetrV2: the names of a model's settings.

`huggingface_reading` reads such files, including those of other programs.
"""

from typing import Any

from rtdetr.categories import Categories
from rtdetr.config import STRIDES, BackboneConfig, HGNetv2Config, ModelConfig, PResNetConfig
from rtdetr.errors import WeightsError
from rtdetr.models.hgnetv2 import SHAPES
from rtdetr.models.presnet import BLOCKS

OWN_TYPE = "rtdetr"  # model type of models that stock transformers does not support
TYPES = {"v1": ("rt_detr", "RTDetrForObjectDetection"), "v2": ("rt_detr_v2", "RTDetrV2ForObjectDetection")}
# settings of transformers that are fixed in this library: other values are rejected
FIXED: dict[str, Any] = {
    "activation_function": "silu",
    "batch_norm_eps": 1e-5,
    "decoder_activation_function": "relu",
    "decoder_offset_scale": 0.5,
    "encode_proj_layers": [2],
    "encoder_activation_function": "gelu",
    "eval_size": None,  # other values disable the position encoding
    "feat_strides": list(STRIDES),
    "layer_norm_eps": 1e-5,
    "learn_initial_query": False,
    "normalize_before": False,
    "use_focal_loss": True,
    "with_box_refine": True,
}
V2_FIELDS = ("decoder_n_levels", "decoder_offset_scale", "decoder_method")
# the published loss and regularization: training settings that are not part of our model
TRAINING: dict[str, Any] = {
    "activation_dropout": 0.0,
    "anchor_image_size": None,
    "attention_dropout": 0.0,
    "auxiliary_loss": True,
    "dropout": 0.0,
    "eos_coefficient": 1e-4,
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "initializer_bias_prior_prob": None,
    "initializer_range": 0.01,
    "is_encoder_decoder": True,
    "matcher_alpha": 0.25,
    "matcher_bbox_cost": 5.0,
    "matcher_class_cost": 2.0,
    "matcher_gamma": 2.0,
    "matcher_giou_cost": 2.0,
    "tie_word_embeddings": True,
    "weight_loss_bbox": 5.0,
    "weight_loss_giou": 2.0,
    "weight_loss_vfl": 1.0,
}
# stages of HGNetV2: transformers' names and ours
_STAGES = {
    "in_channels": "in_channels",
    "mid_channels": "mid_channels",
    "out_channels": "out_channels",
    "num_blocks": "num_blocks",
    "numb_of_layers": "num_layers",
    "downsample": "downsample",
    "light_block": "light",
    "kernel_size": "kernel",
}
# fields of HGNetV2 that repeat its stages
BACKBONE_REPEATS = {"depths", "embedding_size", "hidden_sizes"}


def unsupported_by_transformers(config: ModelConfig) -> list[str]:
    """Return the settings of a model that transformers' RTDetr and RTDetrV2 have no field for; empty if supported."""
    decoder, encoder = config.decoder, config.encoder
    reasons = {
        "numbers of points that differ between levels": len(set(decoder.num_points)) > 1,
        "learned queries": decoder.learned_queries,  # transformers 5.23 has the setting, but its forward pass fails
        f"query selection {decoder.query_selection!r}": decoder.query_selection != "default",
        f"activation {decoder.activation!r} in the whole decoder": decoder.activation != "relu",
        "query position heads of other widths": tuple(decoder.query_pos_widths or ()) not in ((), (2 * decoder.width,)),
        f"fusion blocks of {encoder.num_blocks} RepVGG blocks": encoder.num_blocks != 3,
        "discrete sampling in RT-DETR v1": config.version == "v1" and decoder.sampling == "discrete",
        "pixel normalization in the network": bool(config.pixel_mean or config.pixel_std),
        f"backbone of kind {config.backbone.kind!r}": not isinstance(config.backbone, PResNetConfig | HGNetv2Config),
        f"temperature {encoder.temperature}": encoder.temperature != int(encoder.temperature),
    }
    return [reason for reason, applies in reasons.items() if applies]


def write_config(config: ModelConfig, *, categories: Categories | None, dtype: str) -> dict[str, Any]:
    """Return the content of config.json for a model that transformers supports.

    Args:
        config: the model; `unsupported_by_transformers(config)` is empty.
        categories: its classes; None: numbered classes.
        dtype: type of the stored weights, such as "float32".
    """
    names = (categories or Categories.numbered(config.num_classes)).names
    encoder, decoder = config.encoder, config.decoder
    model_type, architecture = TYPES[config.version]
    backbone = write_backbone(config.backbone, config.in_channels)
    fields: dict[str, Any] = {
        **FIXED,
        **TRAINING,
        "architectures": [architecture],
        "backbone_config": backbone,
        "box_noise_scale": decoder.box_noise_scale,
        "d_model": decoder.width,
        "decoder_attention_heads": decoder.num_heads,
        "decoder_ffn_dim": decoder.feedforward,
        "decoder_in_channels": [encoder.width] * 3,
        "decoder_layers": decoder.num_layers,
        "decoder_method": "default" if decoder.sampling == "bilinear" else decoder.sampling,
        "decoder_n_levels": len(decoder.num_points),
        "decoder_n_points": decoder.num_points[0],
        "num_feature_levels": len(decoder.num_points),
        "dtype": dtype,
        "encoder_attention_heads": encoder.num_heads,
        "encoder_ffn_dim": encoder.feedforward,
        "encoder_hidden_dim": encoder.width,
        "encoder_in_channels": backbone["hidden_sizes"][1:],
        "encoder_layers": encoder.num_layers,
        "freeze_backbone_batch_norms": config.backbone.freeze_norm,
        "hidden_expansion": encoder.expansion,
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
        "label_noise_ratio": decoder.label_noise_ratio,
        "model_type": model_type,
        "num_denoising": decoder.num_denoising,
        "num_queries": decoder.num_queries,
        "positional_encoding_temperature": int(encoder.temperature),
    }
    if decoder.eval_idx % decoder.num_layers != decoder.num_layers - 1:
        fields["eval_idx"] = decoder.eval_idx  # read by this library only
    return {key: value for key, value in fields.items() if config.version == "v2" or key not in V2_FIELDS}


def read_backbone(stored: dict[str, Any]) -> PResNetConfig | HGNetv2Config | None:
    """Return this library's backbone for a `backbone_config`; None if it has none, such as for timm.

    Which layers are frozen is not stored there, so those settings keep their defaults.
    """
    closest = closest_backbone(stored)
    return closest[0] if closest and not closest[1] else None


def closest_backbone(stored: dict[str, Any]) -> tuple[PResNetConfig | HGNetv2Config, list[str]] | None:
    """Return the nearest backbone and the fields that differ; None for another kind of network."""
    found: PResNetConfig | HGNetv2Config
    unread = {"num_channels", "out_features"}
    match stored.get("model_type"):
        case "rt_detr_resnet":
            fields = {**write_backbone(PResNetConfig(depth=50)), **stored}
            basic, blocks = fields["layer_type"] == "basic", tuple(fields["depths"])
            depth = next((n for n, usual in BLOCKS.items() if usual == blocks and (n < 50) == basic), None)
            shape = {"depth": depth} if depth else {"depth": 18 if basic else 50, "blocks": blocks}
            found = PResNetConfig(**{**shape, "base_width": fields["embedding_size"]})
        case "hgnet_v2":
            unread |= BACKBONE_REPEATS
            fields = {**write_backbone(HGNetv2Config()), **stored}
            fields["stem_channels"] = [3, *fields["stem_channels"][1:]]
            stem = tuple(fields["stem_channels"][1:])
            size: Any = next((size for size, (ours, _) in SHAPES.items() if ours == stem), "L")
            found = HGNetv2Config(size=size, use_lab=fields["use_learnable_affine_block"])
        case _:
            return None
    built = write_backbone(found)
    return found, [name for name, value in built.items() if name not in unread and _plain(fields[name]) != value]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_backbone(backbone: BackboneConfig, in_channels: int = 3) -> dict[str, Any]:
    """Return transformers' `backbone_config` for a backbone.

    Raises:
        WeightsError: transformers' files do not support the backbone.
    """
    common: dict[str, Any] = {
        "hidden_act": "relu",
        "num_channels": in_channels,
        "out_features": ["stage2", "stage3", "stage4"],
        "out_indices": [2, 3, 4],
    }
    if isinstance(backbone, HGNetv2Config):
        (mid, out), stages = SHAPES[backbone.size]
        widths = [stage.out_channels for stage in stages]
        return {
            **common,
            **{f"stage_{name}": [getattr(stage, ours) for stage in stages] for name, ours in _STAGES.items()},
            "depths": [stage.num_blocks for stage in stages],
            "embedding_size": out,
            "hidden_sizes": widths,
            "model_type": "hgnet_v2",
            "stage_downsample_strides": [2, 2, 2, 2],
            "stem_channels": [in_channels, mid, out],
            "stem_strides": [2, 1, 1, 2, 1],
            "use_learnable_affine_block": backbone.use_lab,
        }
    if not isinstance(backbone, PResNetConfig):
        raise WeightsError(
            f"transformers' files do not support a backbone of kind {backbone.kind!r}; save the model as a .pth file"
        )
    basic = backbone.depth < 50
    widths = [backbone.base_width * 2**i for i in range(4)]
    return {
        **common,
        "depths": list(backbone.blocks or BLOCKS[backbone.depth]),
        "downsample_in_bottleneck": False,
        "downsample_in_first_stage": False,
        "embedding_size": backbone.base_width,
        "hidden_sizes": widths if basic else [4 * width for width in widths],
        "layer_type": "basic" if basic else "bottleneck",
        "model_type": "rt_detr_resnet",
    }
