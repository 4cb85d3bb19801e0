"""The table of backbones, by the name in the configuration."""

from typing import Any

from rtdetr.config import BackboneConfig, ModelConfig, TimmConfig
from rtdetr.models.backbone import Backbone
from rtdetr.models.hgnetv2 import HGNetv2
from rtdetr.models.presnet import PResNet
from rtdetr.models.timm_backbone import TimmBackbone, pixel_statistics

BACKBONES: dict[str, type[Backbone]] = {"presnet": PResNet, "hgnetv2": HGNetv2, "timm": TimmBackbone}
"""Class by `kind` of its configuration; built with the configuration and `in_channels`."""


def build_backbone(config: BackboneConfig, *, in_channels: int) -> Backbone:
    """Build a backbone with fresh weights.

    Raises:
        ConfigError: a setting that the backbone cannot follow.
        MissingDependencyError: timm's, without timm.
    """
    return BACKBONES[config.kind](config, in_channels=in_channels)  # pyright: ignore[reportCallIssue]


def settled(config: ModelConfig) -> ModelConfig:
    """Return the configuration of a network that has its weights, so that nothing is downloaded.

    Where pretrained weights of timm are asked for, images are normalized as these weights expect it, unless
    `pixel_mean` or `pixel_std` say otherwise.

    Raises:
        ConfigError, MissingDependencyError: as for `build_backbone`.
    """
    if not config.backbone.is_pretrained:
        return config
    assert isinstance(config.backbone, TimmConfig)
    changes: dict[str, Any] = {"backbone": {"pretrained": False}}
    if config.pixel_mean is None and config.pixel_std is None:
        changes |= pixel_statistics(config.backbone.timm, in_channels=config.in_channels)
    return config.replace(**changes)
