"""The table of backbones, by the name in the configuration."""

from typing import Any

from rtdetr.config import BackboneConfig, ModelConfig, TimmConfig
from rtdetr.models.backbone import Backbone
from rtdetr.models.hgnetv2 import HGNetv2
from rtdetr.models.presnet import PResNet
from rtdetr.models.timm_backbone import TimmBackbone, pixel_statistics

BACKBONES: dict[str, type[Backbone]] = {"presnet": PResNet, "hgnetv2": HGNetv2, "timm": TimmBackbone}
"""Backbone class by the `kind` of its configuration; called with the configuration and `in_channels`."""


def build_backbone(config: BackboneConfig, *, in_channels: int) -> Backbone:
    """Build a backbone with random weights.

    Raises:
        ConfigError: the backbone does not support a setting.
        MissingDependencyError: the backbone is one of timm's, and timm is not installed.
    """
    return BACKBONES[config.kind](config, in_channels=in_channels)  # pyright: ignore[reportCallIssue]


def settled(config: ModelConfig) -> ModelConfig:
    """Return the configuration of a network that already has its weights, so that none are downloaded.

    With pretrained weights of timm, images are normalized as these weights expect, unless `pixel_mean` or `pixel_std`
    is set.

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
