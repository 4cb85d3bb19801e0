"""The table of models: network, recipe, and weight files with license and published accuracy, by name.

Sources: the RT-DETRv2 paper (arXiv 2407.17140), the RT-DETR paper (arXiv 2304.08069) and DEIM (arXiv 2412.04234).
"""

from typing import Any, Literal, NamedTuple

from rtdetr.config import (
    PUBLISHED_GAMMA,
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    HGNetv2Config,
    LossConfig,
    ModelConfig,
    ParameterGroup,
    PResNetConfig,
    Recipe,
)
from rtdetr.errors import ConfigError, nearest

RELEASES = "https://github.com/lyuwenyu/storage/releases/download/"
LICENSE = "Apache-2.0 (license of the publishing repository; the file itself states none)"
COCO = "COCO 2017 train"
OBJECTS365 = "Objects365, then COCO 2017 train"


class Checkpoint(NamedTuple):
    """A published weight file. AP and AP50 are as published, in percent on COCO val2017."""

    url: str | None  # None: there is no stable address; see `note`
    training_data: str
    ap: float
    ap50: float | None = None
    sha256: str | None = None  # None: unknown; recorded in the cache at the first download
    license: str = LICENSE
    note: str = ""

    @property
    def filename(self) -> str | None:
        """File name in the download cache."""
        return self.url.rsplit("/", 1)[-1] if self.url else None


class ZooEntry(NamedTuple):
    """A model of the zoo."""

    config: ModelConfig
    recipe: Recipe
    checkpoints: dict[str, Checkpoint]  # tag -> file; the first is the default


NORMS_UNDECAYED = ParameterGroup(pattern=r"norm|bn", weight_decay=0.0)
HEAD_NORMS_UNDECAYED = ParameterGroup(pattern=r"^(?=.*(encoder|decoder)).*(norm|bn)", weight_decay=0.0)
HEAD_NORMS_BIASES_UNDECAYED = ParameterGroup(pattern=r"^(?=.*(encoder|decoder)).*(norm|bn|bias)", weight_decay=0.0)

_BACKBONE_FILES: tuple[tuple[BackboneConfig, str], ...] = (
    (PResNetConfig(depth=18), "v0.1/ResNet18_vd_pretrained_from_paddle.pth"),
    (PResNetConfig(depth=34), "v0.1/ResNet34_vd_pretrained_from_paddle.pth"),
    (PResNetConfig(depth=50), "v0.1/ResNet50_vd_ssld_v2_pretrained_from_paddle.pth"),
    (PResNetConfig(depth=101), "v0.1/ResNet101_vd_ssld_pretrained_from_paddle.pth"),
    (HGNetv2Config(size="L"), "v0.1/PPHGNetV2_L_ssld_pretrained_from_paddle.pth"),
    (HGNetv2Config(size="X"), "v0.1/PPHGNetV2_X_ssld_pretrained_from_paddle.pth"),
    (HGNetv2Config(size="H"), "v0.1/PPHGNetV2_H_ssld_pretrained_from_paddle.pth"),
)

_CONFIGURATIONS = {  # model -> suffixes of its published configurations
    "rtdetrv2_r18vd": ("120e_coco", "120e_voc"),
    **{f"rtdetrv2_r18vd_sp{points}": ("120e_coco",) for points in (1, 2, 3)},
    "rtdetrv2_r18vd_dsp": ("3x_coco",),
    "rtdetrv2_r18vd_dsp1": ("1x_coco", "120e_coco"),
    "rtdetrv2_r34vd": ("120e_coco",),
    "rtdetrv2_r34vd_dsp": ("1x_coco",),
    "rtdetrv2_r50vd_m": ("7x_coco",),
    "rtdetrv2_r50vd_m_dsp": ("3x_coco",),
    "rtdetrv2_r50vd": ("6x_coco",),
    "rtdetrv2_r50vd_dsp": ("1x_coco",),
    **{f"rtdetrv2_{size}": ("6x_coco",) for size in ("r101vd", "hgnetv2_l", "hgnetv2_x", "hgnetv2_h")},
    **{f"rtdetr_{size}": ("6x_coco",) for size in ("r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd")},
}
_OTHER_RECIPES: dict[str, dict[str, Any]] = {  # recipe values that differ from the model's
    "rtdetrv2_r18vd_120e_voc": {"batch_size": 32},
    "rtdetrv2_r18vd_dsp1_120e_coco": {"epochs": 120, "augmentation_stop_epoch": 117, "tuning_from": None},
}
_OTHER_FILES = {"rtdetrv2_r18vd_dsp1_120e_coco": "coco_120e"}  # tags of weights, if not the model's first

UNTRAINED = ":untrained"  # suffix of a model name: random weights instead of the published ones
ALIASES = {
    **{f"{name}_{length}": name for name, lengths in _CONFIGURATIONS.items() for length in lengths},
    "rtdetrv2_s": "rtdetrv2_r18vd",
    "rtdetrv2_m_r34": "rtdetrv2_r34vd",
    "rtdetrv2_m_r50": "rtdetrv2_r50vd_m",
    "rtdetrv2_l": "rtdetrv2_r50vd",
    "rtdetrv2_x": "rtdetrv2_r101vd",
}


def _backbone_groups(lr: float, *, norms: bool) -> tuple[ParameterGroup, ...]:
    """Groups for a backbone learning rate and, if its batch norms are trained, no weight decay for them."""
    weights = ParameterGroup(pattern=r"^(?=.*backbone)(?!.*norm)", lr=lr)
    if not norms:
        return (weights,)
    return (weights, ParameterGroup(pattern=r"^(?=.*backbone).*norm", lr=lr, weight_decay=0.0))


_FREE = {18: PResNetConfig(depth=18), 34: PResNetConfig(depth=34)}
_FROZEN = {depth: PResNetConfig(depth=depth, freeze_at=0, freeze_norm=True) for depth in (50, 101)}
_BACKBONES = {
    "r18vd": _FREE[18],
    "r34vd": _FREE[34],
    "r50vd_m": _FROZEN[50],
    "r50vd": _FROZEN[50],
    "r101vd": _FROZEN[101],
    **{f"hgnetv2_{s.lower()}": HGNetv2Config(size=s, freeze_at=0, freeze_norm=True) for s in ("L", "X", "H")},
}
_ENCODERS = {
    "r18vd": EncoderConfig(expansion=0.5),
    "r34vd": EncoderConfig(expansion=0.5),
    "r50vd_m": EncoderConfig(expansion=0.5),
    "r50vd": EncoderConfig(),
    "r101vd": EncoderConfig(width=384, feedforward=2048),
    "hgnetv2_l": EncoderConfig(),
    "hgnetv2_x": EncoderConfig(width=384, feedforward=2048),
    "hgnetv2_h": EncoderConfig(width=512, feedforward=2048, num_layers=2),
}
_DECODERS = {
    "r18vd": DecoderConfig(num_layers=3),
    "r34vd": DecoderConfig(num_layers=4),
    "r50vd_m": DecoderConfig(num_layers=6, eval_idx=2),
    **dict.fromkeys(("r50vd", "r101vd", "hgnetv2_l", "hgnetv2_x", "hgnetv2_h"), DecoderConfig(num_layers=6)),
}
_V2_GROUPS = {
    "r18vd": (NORMS_UNDECAYED,),
    "r34vd": (*_backbone_groups(5e-5, norms=True), HEAD_NORMS_BIASES_UNDECAYED),
    "r50vd_m": (*_backbone_groups(1e-5, norms=False), HEAD_NORMS_UNDECAYED),
    "r50vd": (*_backbone_groups(1e-5, norms=False), HEAD_NORMS_UNDECAYED),
    "r101vd": (*_backbone_groups(1e-6, norms=False), HEAD_NORMS_UNDECAYED),
    "hgnetv2_l": (*_backbone_groups(5e-6, norms=False), HEAD_NORMS_UNDECAYED),
    "hgnetv2_x": (*_backbone_groups(1e-6, norms=False), HEAD_NORMS_UNDECAYED),
    "hgnetv2_h": (*_backbone_groups(5e-6, norms=False), HEAD_NORMS_UNDECAYED),
}
_V1_GROUPS = {
    "r18vd": (*reversed(_backbone_groups(1e-5, norms=True)), HEAD_NORMS_BIASES_UNDECAYED),
    "r34vd": (*reversed(_backbone_groups(1e-5, norms=True)), HEAD_NORMS_BIASES_UNDECAYED),
    "r50vd_m": (*_backbone_groups(1e-5, norms=False), HEAD_NORMS_BIASES_UNDECAYED),
    "r50vd": (*_backbone_groups(1e-5, norms=True), HEAD_NORMS_BIASES_UNDECAYED),
    "r101vd": (*_backbone_groups(1e-6, norms=False), HEAD_NORMS_UNDECAYED),
}
_DEIM_BACKBONE_LR = {"r34vd": 1e-4, "r50vd_m": 2e-5, "r50vd": 2e-5, "r101vd": 2e-6}
_STOPS = {120: 117, 84: 81, 72: 71, 36: 33, 12: 10}  # epochs -> last epoch with strong augmentation


def _network(version: Literal["v1", "v2"], size: str, name: str, **decoder: Any) -> ModelConfig:
    config = ModelConfig(
        name=name, version=version, backbone=_BACKBONES[size], encoder=_ENCODERS[size], decoder=_DECODERS[size]
    )
    return config.replace(decoder=decoder) if decoder else config


def backbone_url(config: ModelConfig) -> str | None:
    """Return the URL of the ImageNet weights for a network's backbone; None if none are published."""
    trained = config.backbone.replace(freeze_at=-1, freeze_norm=False)
    return next((RELEASES + file for backbone, file in _BACKBONE_FILES if backbone == trained), None)


def _coco(file: str, ap: float, ap50: float, data: str = COCO) -> Checkpoint:
    return Checkpoint(url=RELEASES + file, training_data=data, ap=ap, ap50=ap50)


def _v2(size: str, epochs: int, *, suffix: str = "", tuning_from: str | None = None, **decoder: Any) -> ZooEntry:
    name = f"rtdetrv2_{size}{suffix}"
    config = _network("v2", size, name, **decoder)
    stop = _STOPS[epochs]
    recipe = Recipe(
        epochs=epochs,
        groups=_V2_GROUPS[size],
        augmentation_stop_epoch=stop,
        multiscale_stop_epoch=stop,
        tuning_from=tuning_from,
    )
    if size == "r18vd":
        recipe = recipe.replace(multiscale_sizes=(), multiscale_stop_epoch=None)
    return ZooEntry(config, recipe, _V2_CHECKPOINTS[name])


def _v1(size: str) -> ZooEntry:
    name = f"rtdetr_{size}"
    config = _network("v1", size, name)
    recipe = Recipe(groups=_V1_GROUPS[size], augmentation_stop_epoch=None, multiscale_stop_epoch=None)
    return ZooEntry(config, recipe, _V1_CHECKPOINTS[name])


def _deim(size: str, ap: float) -> ZooEntry:
    """RT-DETRv2 trained with DEIM: SiLU in the decoder, a three-layer query position head, trained batch norms."""
    name = f"deim_rtdetrv2_{size}"
    layers = {"num_layers": 3, "eval_idx": -1} if size == "r50vd_m" else {}
    config = _network("v2", size, name, activation="silu", query_pos_widths=(256, 256), **layers)
    config = config.replace(backbone={"freeze_at": -1, "freeze_norm": False})
    long = size in ("r18vd", "r34vd")
    groups: tuple[ParameterGroup, ...] = (NORMS_UNDECAYED,)
    if size in _DEIM_BACKBONE_LR:
        groups = (*_backbone_groups(_DEIM_BACKBONE_LR[size], norms=False), *groups)
    recipe = Recipe(
        epochs=120 if long else 60,
        lr=2e-4,
        groups=groups,
        schedule="flat_cosine",
        flat_epochs=64 if long else 34,
        no_augmentation_epochs=3 if long else 2,
        augmentation_start_epoch=4,
        augmentation_stop_epoch=117 if long else 58,
        mosaic=0.5,
        mixup=0.5,
        mixing_stop_epoch=64 if long else 34,
        multiscale_stop_epoch=117 if long else 58,
        loss=LossConfig(classification="mal", gamma=PUBLISHED_GAMMA["mal"]),
    )
    note = "published by the DEIM project on a file-sharing service; download it there and give its path"
    checkpoint = Checkpoint(url=None, training_data=COCO, ap=ap, note=note)
    return ZooEntry(config, recipe, {"coco": checkpoint})


_V2_CHECKPOINTS = {
    "rtdetrv2_r18vd": {
        "coco": _coco("v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1.pth", 48.1, 65.1),
        "coco_v0.1": _coco("v0.1/rtdetrv2_r18vd_120e_coco.pth", 47.9, 64.9),
        "objects365": _coco("v0.1/rtdetrv2_r18vd_5x_coco_objects365_from_paddle.pth", 49.0, 66.5, OBJECTS365),
    },
    "rtdetrv2_r34vd": {"coco": _coco("v0.1/rtdetrv2_r34vd_120e_coco_ema.pth", 49.9, 67.5)},
    "rtdetrv2_r50vd_m": {"coco": _coco("v0.1/rtdetrv2_r50vd_m_7x_coco_ema.pth", 51.9, 69.9)},
    "rtdetrv2_r50vd": {
        "coco": _coco("v0.1/rtdetrv2_r50vd_6x_coco_ema.pth", 53.4, 71.6),
        "objects365": _coco("v0.1/rtdetrv2_r50vd_2x_coco_objects365_from_paddle.pth", 55.2, 73.4, OBJECTS365),
    },
    "rtdetrv2_r101vd": {
        "coco": _coco("v0.1/rtdetrv2_r101vd_6x_coco_from_paddle.pth", 54.3, 72.8),
        "objects365": _coco("v0.1/rtdetrv2_r101vd_2x_coco_objects365_from_paddle.pth", 56.2, 74.5, OBJECTS365),
    },
    "rtdetrv2_hgnetv2_l": {"coco": _coco("v0.1/rtdetrv2_hgnetv2_l_6x_coco_from_paddle.pth", 52.9, 71.5)},
    "rtdetrv2_hgnetv2_x": {"coco": _coco("v0.1/rtdetrv2_hgnetv2_x_6x_coco_from_paddle.pth", 54.7, 72.9)},
    "rtdetrv2_hgnetv2_h": {"coco": _coco("v0.1/rtdetrv2_hgnetv2_h_6x_coco_from_paddle.pth", 56.3, 74.8)},
    "rtdetrv2_r18vd_sp1": {"coco": _coco("v0.1/rtdetrv2_r18vd_sp1_120e_coco.pth", 47.3, 64.3)},
    "rtdetrv2_r18vd_sp2": {"coco": _coco("v0.1/rtdetrv2_r18vd_sp2_120e_coco.pth", 47.7, 64.7)},
    "rtdetrv2_r18vd_sp3": {"coco": _coco("v0.1/rtdetrv2_r18vd_sp3_120e_coco.pth", 47.8, 64.8)},
    "rtdetrv2_r18vd_dsp": {"coco": _coco("v0.1/rtdetrv2_r18vd_dsp_3x_coco.pth", 47.4, 64.8)},
    "rtdetrv2_r18vd_dsp1": {
        "coco": _coco("v0.1/rtdetrv2_r18vd_dsp1_1x_coco.pth", 46.3, 63.9),
        "coco_120e": _coco("v0.1/rtdetrv2_r18vd_dsp1_120e_coco.pth", 45.5, 63.0),
    },
    # the doubled letter is in the published file name
    "rtdetrv2_r34vd_dsp": {"coco": _coco("v0.1/rrtdetrv2_r34vd_dsp_1x_coco.pth", 49.2, 67.1)},
    "rtdetrv2_r50vd_m_dsp": {"coco": _coco("v0.1/rtdetrv2_r50vd_m_dsp_3x_coco.pth", 51.4, 69.7)},
    "rtdetrv2_r50vd_dsp": {"coco": _coco("v0.1/rtdetrv2_r50vd_dsp_1x_coco.pth", 52.9, 71.3)},
}
_V1_CHECKPOINTS = {
    "rtdetr_r18vd": {
        "coco": _coco("v0.1/rtdetr_r18vd_dec3_6x_coco_from_paddle.pth", 46.4, 63.7),
        "objects365": _coco("v0.1/rtdetr_r18vd_5x_coco_objects365_from_paddle.pth", 49.0, 66.5, OBJECTS365),
    },
    "rtdetr_r34vd": {"coco": _coco("v0.1/rtdetr_r34vd_dec4_6x_coco_from_paddle.pth", 48.9, 66.8)},
    "rtdetr_r50vd_m": {"coco": _coco("v0.1/rtdetr_r50vd_m_6x_coco_from_paddle.pth", 51.3, 69.5)},
    "rtdetr_r50vd": {
        "coco": _coco("v0.1/rtdetr_r50vd_6x_coco_from_paddle.pth", 53.1, 71.2),
        "objects365": _coco("v0.1/rtdetr_r50vd_2x_coco_objects365_from_paddle.pth", 55.2, 73.4, OBJECTS365),
    },
    "rtdetr_r101vd": {
        "coco": _coco("v0.1/rtdetr_r101vd_6x_coco_from_paddle.pth", 54.3, 72.8),
        "objects365": _coco("v0.1/rtdetr_r101vd_2x_coco_objects365_from_paddle.pth", 56.2, 74.5, OBJECTS365),
    },
}


def _small(name: str, backbone: PResNetConfig, encoder: EncoderConfig, decoder: DecoderConfig, side: int) -> ZooEntry:
    """A small model of this library, without published weights."""
    config = ModelConfig(name=name, eval_size_hw=(side, side), backbone=backbone, encoder=encoder, decoder=decoder)
    recipe = Recipe(groups=(NORMS_UNDECAYED,), train_size_hw=(side, side), multiscale_sizes=())
    return ZooEntry(config, recipe, {})


_TINY = _small(
    "test-tiny",
    PResNetConfig(depth=18, blocks=(1, 1, 1, 1), base_width=16),
    EncoderConfig(width=32, feedforward=64, num_heads=4, expansion=0.5, num_blocks=1),
    DecoderConfig(
        width=32, feedforward=64, num_heads=4, num_layers=2, num_queries=30, num_points=(2, 2, 2), num_denoising=10
    ),
    64,
)
_DEMO = _small(
    "demo",
    PResNetConfig(depth=18, blocks=(1, 1, 1, 1), base_width=24),
    EncoderConfig(width=64, feedforward=192, num_heads=4, expansion=0.5, num_blocks=1),
    DecoderConfig(width=96, feedforward=192, num_heads=4, num_layers=2, num_queries=40, num_denoising=30),
    160,
)
_DEMO = _DEMO._replace(  # trains from scratch within minutes on a CPU
    recipe=_DEMO.recipe.replace(
        epochs=5,
        batch_size=16,
        lr=0.017,
        optimizer="muon",
        betas=(0.85, 0.95),
        schedule="flat_cosine",
        flat_epochs=3,
        final_lr_factor=0.02,
        warmup_iterations=20,
        ema_decay=0.95,
        ema_warmup=20,
        augmentation_stop_epoch=0,
        loss=LossConfig(classification="mal", gamma=1.0, classification_weight=2.0),
    )
)

_ENTRIES: dict[str, ZooEntry] = {
    entry.config.name: entry
    for entry in (
        _v2("r18vd", 120),
        _v2("r34vd", 120),
        _v2("r50vd_m", 84),
        _v2("r50vd", 72),
        _v2("r101vd", 72),
        _v2("hgnetv2_l", 72),
        _v2("hgnetv2_x", 72),
        _v2("hgnetv2_h", 72),
        *(_v2("r18vd", 120, suffix=f"_sp{n}", num_points=(n, n, n)) for n in (1, 2, 3)),
        _v2("r18vd", 36, suffix="_dsp", sampling="discrete", tuning_from="rtdetrv2_r18vd:coco_v0.1"),
        # no configuration is published: epochs from the file names, the rest as for the others
        _v2("r18vd", 12, suffix="_dsp1", sampling="discrete", num_points=(1, 1, 1), tuning_from="rtdetrv2_r18vd_sp1"),
        _v2("r34vd", 12, suffix="_dsp", sampling="discrete", tuning_from="rtdetrv2_r34vd"),
        _v2("r50vd_m", 36, suffix="_dsp", sampling="discrete", tuning_from="rtdetrv2_r50vd_m"),
        _v2("r50vd", 12, suffix="_dsp", sampling="discrete", tuning_from="rtdetrv2_r50vd"),
        *(_v1(size) for size in ("r18vd", "r34vd", "r50vd_m", "r50vd", "r101vd")),
        _deim("r18vd", 49.0),
        _deim("r34vd", 50.9),
        _deim("r50vd_m", 53.2),
        _deim("r50vd", 54.3),
        _deim("r101vd", 55.5),
        _DEMO,
        _TINY,
    )
}


def list_models() -> list[str]:
    """Return the model names that `build_model`, `load` and the command line accept; aliases are in `ALIASES`."""
    return list(_ENTRIES)


def entry(name: str) -> ZooEntry:
    """Look up a model by name or alias, with or without the suffix `UNTRAINED`.

    Raises:
        ConfigError: the model is unknown; the message suggests the nearest one.
    """
    plain = name.removesuffix(UNTRAINED)
    found = _ENTRIES.get(ALIASES.get(plain, plain))
    if found is None:
        known = [*_ENTRIES, *ALIASES]
        raise ConfigError(f"unknown model {name!r}.{nearest(name, known)} Run 'rtdetr models' for the list.")
    return found


def tag(name: str) -> str | None:
    """Return the tag of the default weight file of a name or alias; None if none is published."""
    return _OTHER_FILES.get(name) or next(iter(entry(name).checkpoints), None)


def full_name(name: str, file_tag: str | None) -> str:
    """Return the full name of a weight file of a model, or of the model if it has none: "demo:untrained"."""
    return name if file_tag is not None and file_tag == tag(name) else f"{name}:{file_tag or 'untrained'}"


def aliases(name: str, file_tag: str | None) -> list[str]:
    """Return the other names of a weight file, without configurations for datasets other than COCO."""
    of_model = [alias for alias, target in ALIASES.items() if target == name and tag(alias) == file_tag]
    return [alias for alias in of_model if alias not in _OTHER_RECIPES or alias in _OTHER_FILES]


def model_config(name: str) -> ModelConfig:
    """Return the network settings of a named model."""
    return entry(name).config


def recipe(name: str) -> Recipe:
    """Return the published training recipe of a named model or configuration."""
    return entry(name).recipe.replace(**_OTHER_RECIPES.get(name, {}))
