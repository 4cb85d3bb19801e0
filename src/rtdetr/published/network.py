"""The model of a published file: backbone, encoder and decoder.

A section refers to another by its class: `backbone: PResNet` uses the section PResNet with the defaults of that class,
`backbone: {type: PResNet, depth: 18}` uses the given values with these defaults. `num_classes` and `eval_spatial_size`
at the top of the file override those of a section.
"""

from typing import Any, NamedTuple

from rtdetr import zoo
from rtdetr.config import STRIDE, STRIDES, ModelConfig
from rtdetr.errors import ConfigError
from rtdetr.published.section import REQUIRED, Section, anything, flag, list_of, mapping, number, one_of, or_none, whole

BACKBONES = ("PResNet", "HGNetv2")
DECODERS = ("RTDETRTransformerv2", "RTDETRTransformer")
MODELS = ("RTDETR", "DEIM")
OLDER_CRITERION = "SetCriterion"  # used in the rtdetr_pytorch folder, where the encoder is v1 and has no version key
_DROPOUT = "the network has no dropout"
_FEATURES = "three feature maps are used, with strides 8, 16 and 32"


def component(root: Section, holder: Section, key: str, *classes: str, default: Any = REQUIRED) -> tuple[str, Section]:
    """Return the class that a key refers to, and its values.

    Raises:
        ConfigError: the key is missing, or the class is not supported.
    """
    value = holder.take(key, anything, default)
    if isinstance(value, dict):
        own = Section(holder.document, value, (*holder.at, key))
        return own.take("type", one_of(*classes)), own
    try:
        name = one_of(*classes)(value)
    except ValueError as error:
        raise holder.error(f"expected {error}, got {value!r}", key) from None
    own = Section(root.document, root.take(name, or_none(mapping), None) or {}, (name,))
    own.ignore("type")
    return name, own


class Network(NamedTuple):
    """The model of a file.

    Attributes:
        config: the network, with its zoo name if it is in the zoo.
        backbone_weights: initial weights of the backbone: "auto", a file, or None.
        multiscale_sizes: sizes for multi-scale training inside the model, for the whole run, as in older files.
    """

    config: ModelConfig
    backbone_weights: str | None
    multiscale_sizes: tuple[int, ...]


def read_network(root: Section) -> Network:
    """Read the network of a file.

    Raises:
        ConfigError: a value is not supported, or a key is unknown.
    """
    num_classes = root.take("num_classes", or_none(whole(1)), None)
    eval_size = root.take("eval_spatial_size", or_none(list_of(whole(32))), None)
    family, parts = component(root, root, "model", *MODELS, default="RTDETR")
    kind, section = component(root, parts, "backbone", *BACKBONES)
    backbone, channels = _presnet(section) if kind == "PResNet" else _hgnetv2(section)
    pretrained = section.take("pretrained", lambda value: value if isinstance(value, str) else flag(value), False)
    section.ignore("local_model_dir")
    section.finish()
    section = component(root, parts, "encoder", "HybridEncoder")[1]
    kind, decoder_section = component(root, parts, "decoder", *DECODERS)
    is_v1 = kind == "RTDETRTransformer"
    version = _encoder_version(root, section, family=family, is_v1=is_v1)
    encoder, encoder_size = _encoder(section, channels)
    decoder, decoder_classes = _decoder(decoder_section, encoder["width"], is_v1=is_v1)
    sides = multiscale_sides(parts, "multi_scale")
    parts.finish()
    if (version == "v1") != is_v1:
        raise parts.error(f"HybridEncoder has version {version!r}, which does not match the decoder {kind}")
    size = eval_size or encoder_size
    if size is not None and len(size) != 2:
        raise root.error(f"expected height and width, got {size}", "eval_spatial_size")
    values = {"version": version, "num_classes": num_classes or decoder_classes, "eval_size_hw": size}
    try:
        config = ModelConfig(**values, backbone=backbone, encoder=encoder, decoder=decoder)
    except ConfigError as error:
        raise root.error(str(error)) from None
    if pretrained is True or (isinstance(pretrained, str) and "://" in pretrained):  # any URL means the same files
        pretrained = "auto"
    return Network(named(config, root.document.origin(()).stem), pretrained or None, sides)


def named(config: ModelConfig, file_stem: str) -> ModelConfig:
    """Return the network with the name of the equal zoo model; among several, the file name decides."""
    aside = {"name": "", "num_classes": 1, "eval_size_hw": None}
    same = [n for n in zoo.list_models() if zoo.model_config(n).replace(**aside) == config.replace(**aside)]
    of_file = sorted((name for name in same if file_stem.startswith(name)), key=len)
    return config.replace(name=of_file[-1] if of_file else same[0] if same else file_stem)


def _presnet(section: Section) -> tuple[Any, list[int]]:
    section.only("variant", "d", why="the backbone is ResNet-vd")
    section.only("num_stages", 4, why="the backbone has four stages")
    section.only("return_idx", [1, 2, 3], why=_FEATURES, left_out=[0, 1, 2, 3])
    section.only("act", "relu", why="the backbone's activation is ReLU")
    depth = section.take("depth", whole(1))
    if depth not in (18, 34, 50, 101):
        raise section.error(f"expected 18, 34, 50 or 101, got {depth}", "depth")
    channels = [128, 256, 512] if depth < 50 else [512, 1024, 2048]
    freezing = {"freeze_at": section.take("freeze_at", whole(-1), -1)}
    freezing["freeze_norm"] = section.take("freeze_norm", flag, True)
    return {"kind": "presnet", "depth": depth, **freezing}, channels


def _hgnetv2(section: Section) -> tuple[Any, list[int]]:
    section.only("return_idx", [1, 2, 3], why=_FEATURES)
    return {
        "kind": "hgnetv2",
        "size": section.take("name", one_of("L", "X", "H")),
        "use_lab": section.take("use_lab", flag, False),
        "freeze_at": section.take("freeze_at", whole(-1), -1),
        "freeze_norm": section.take("freeze_norm", flag, False),
    }, [512, 1024, 2048]


def multiscale_sides(section: Section, key: str) -> tuple[int, ...]:
    """Return the multi-scale sizes; empty if the key is omitted or null.

    Raises:
        ConfigError: a size is not a multiple of 32.
    """
    sides = section.take(key, or_none(list_of(whole(32))), None) or []
    uneven = [side for side in sides if side % STRIDE]
    if uneven:
        raise section.error(f"expected multiples of 32, got {uneven[0]}", key)
    return tuple(sides)


def _encoder_version(root: Section, section: Section, *, family: str, is_v1: bool) -> str:
    """Return the version of our encoder that a file means, which depends on the project of the file."""
    if family == "DEIM":
        why = "the encoder of RT-DETRv2 in DEIM is 'rt_detrv2', and those of its other models are not supported"
        section.only("version", "rt_detrv2", why=why, left_out="dfine")
        return "v2"
    criterion = root.values.get("criterion")
    criterion = criterion.get("type") if isinstance(criterion, dict) else criterion
    return section.take("version", one_of("v1", "v2"), "v1" if is_v1 and criterion == OLDER_CRITERION else "v2")


def _encoder(section: Section, channels: list[int]) -> tuple[Any, list[int] | None]:
    section.only("feat_strides", list(STRIDES), why=_FEATURES)
    section.only("use_encoder_idx", [2], why="attention is applied to the coarsest map")
    section.only("dropout", 0, 0.0, why=_DROPOUT)
    section.only("enc_act", "gelu", why="the encoder's attention layer uses GELU")
    section.only("act", "silu", why="the encoder's convolutions use SiLU")
    inputs = section.take("in_channels", list_of(whole(1)), [512, 1024, 2048])
    if inputs != channels:
        raise section.error(f"expected {channels}, the channels of the backbone, got {inputs}", "in_channels")
    encoder = {
        "width": section.take("hidden_dim", whole(1), 256),
        "feedforward": section.take("dim_feedforward", whole(1), 1024),
        "num_layers": section.take("num_encoder_layers", whole(1), 1),
        "num_heads": section.take("nhead", whole(1), 8),
        "expansion": section.take("expansion", number, 1.0),
        "num_blocks": max(round(3 * section.take("depth_mult", number, 1.0)), 1),
        "temperature": section.take("pe_temperature", number, 10000.0),
    }
    size = section.take("eval_spatial_size", or_none(list_of(whole(32))), None)
    section.finish()
    return encoder, size


def _decoder(section: Section, encoder_width: int, *, is_v1: bool) -> tuple[Any, int]:
    levels = section.take("num_levels", whole(3), 3)
    features = section.take("feat_channels", list_of(whole(1)), [512, 1024, 2048])
    if features != [encoder_width] * 3:
        expected = [encoder_width] * 3
        raise section.error(f"expected {expected}, the channels of the encoder, got {features}", "feat_channels")
    section.only("feat_strides", list(STRIDES), why=_FEATURES)
    section.only("dropout", 0, 0.0, why=_DROPOUT)
    section.only("eps", 1e-2, why="anchors closer than 0.01 to the border are not used")
    section.only("aux_loss", True, why="all decoder layers have a loss")
    section.ignore("eval_spatial_size")
    # older files use other names
    layers = "num_decoder_layers" if "num_decoder_layers" in section else "num_layers"
    points = "num_decoder_points" if "num_decoder_points" in section else "num_points"
    decoder: dict[str, Any] = {
        "width": section.take("hidden_dim", whole(1), 256),
        "feedforward": section.take("dim_feedforward", whole(1), 1024),
        "num_layers": section.take(layers, whole(1), 6),
        "num_heads": section.take("nhead", whole(1), 8),
        "eval_idx": section.take("eval_idx", whole(-1000), -1),
        "num_queries": section.take("num_queries", whole(1), 300),
        "num_points": _points(section, points, levels),
        "activation": section.take("activation", one_of("relu", "silu", "gelu"), "relu"),
        "num_denoising": section.take("num_denoising", whole(), 100),
        "label_noise_ratio": section.take("label_noise_ratio", number, 0.5),
        "box_noise_scale": section.take("box_noise_scale", number, 1.0),
    }
    if is_v1:
        section.ignore("position_embed_type", "version")
        decoder["learned_queries"] = section.take("learnt_init_query", flag, False)
    else:
        decoder["learned_queries"] = section.take("learn_query_content", flag, False)
        decoder["sampling"] = {"default": "bilinear", "discrete": "discrete"}[
            section.take("cross_attn_method", one_of("default", "discrete"), "default")
        ]
        selections = one_of("default", "one2many", "agnostic")
        decoder["query_selection"] = section.take("query_select_method", selections, "default")
        if section.take("query_pos_method", one_of("default", "as_reg"), "default") == "as_reg":
            decoder["query_pos_widths"] = (decoder["width"],) * 2
        heads = section.take("mlp_act", one_of("relu", "silu", "gelu"), "relu")
        if heads != decoder["activation"]:
            raise section.error(
                f"expected the same value for activation and mlp_act, got {decoder['activation']} and {heads}"
            )
    classes = section.take("num_classes", whole(1), 80)
    section.finish()
    return decoder, classes


def _points(section: Section, key: str, levels: int) -> list[int]:
    points = section.take(key, lambda value: value if isinstance(value, int) else list_of(whole(1))(value), 4)
    if isinstance(points, int):
        points = [points] * levels
    if len(points) != levels or min(points) < 1:
        raise section.error(f"expected one number per level ({levels}), got {points}", key)
    return points
