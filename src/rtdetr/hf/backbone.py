"""The network of a configuration: this library's own, or around a backbone of timm or transformers."""

import contextlib
import copy
import re
from typing import Any, Self

import transformers
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoBackbone
from transformers.modeling_layers import GradientCheckpointingLayer

from rtdetr.config import STRIDES
from rtdetr.errors import ConfigError
from rtdetr.hf.checkpointing import make_switchable
from rtdetr.hf.configuration import model_config, own_backbone
from rtdetr.models import RTDETR
from rtdetr.models.backbone import Backbone
from rtdetr.wording import counted


def build_network(config: transformers.RTDetrV2Config) -> RTDETR:
    """Build the network that a configuration describes, with fresh weights; nothing is downloaded.

    Raises:
        ConfigError: a value is not supported, or the backbone does not return maps of strides 8, 16 and 32.
    """
    described = model_config(config)
    if own_backbone(config) is not None or "backbone" in (getattr(config, "network_settings", None) or {}):
        network = RTDETR(described, wide_constants=True)
    else:
        network = RTDETR(described, backbone=AutoBackboneMaps(config), wide_constants=True)
    network.backbone.intermediate_channel_sizes = list(network.backbone.out_channels)  # pyright: ignore  # transformers' name
    make_switchable(network)
    return network


class AutoBackboneMaps(GradientCheckpointingLayer, Backbone):
    """A backbone of transformers or timm: its last three maps, which must have the strides 8, 16 and 32."""

    def __init__(self, config: transformers.RTDetrV2Config) -> None:
        super().__init__()
        backbone_config: Any = copy.deepcopy(config.backbone_config)
        backbone_config._attn_implementation_internal = None  # not every backbone has the detector's
        self.model = AutoBackbone.from_config(backbone_config)
        self.frozen_norms = config.freeze_backbone_batch_norms
        channels = tuple(self.model.channels)
        if len(channels) < 3:
            raise ConfigError(
                f"backbone_config gives {counted(len(channels), 'map')}, expected those of strides 8, 16 and 32; set "
                "out_indices"
            )
        self.out_channels = channels[-3:]
        self.requires_grad_(True)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train the backbone or not; frozen norms and unused parameters are never trained."""
        super().requires_grad_(requires_grad)
        if self.frozen_norms:
            for norm in self._norms():
                norm.requires_grad_(False)
        unread = self.model._keys_to_ignore_on_load_missing or ()  # files may lack it because nothing reads it
        for name, parameter in self.model.named_parameters():
            if any(re.search(pattern, name) for pattern in unread):
                parameter.requires_grad_(False)
        return self

    def set_attention(self, implementation: str) -> None:
        """Choose how the backbone computes attention; no effect if it does not support the implementation."""
        if self.model._can_set_attn_implementation():
            with contextlib.suppress(ValueError, ImportError):
                self.model.set_attn_implementation(implementation)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of strides 8, 16 and 32."""
        maps = tuple(self.model(images).feature_maps[-3:])
        height, width = images.shape[-2:]
        for x, stride in zip(maps, STRIDES, strict=True):
            if x.shape[-2:] != (height // stride, width // stride):
                raise ConfigError(
                    f"the backbone gave a map of {x.shape[-2]}x{x.shape[-1]} for images of {height}x{width} where "
                    f"stride {stride} was expected; set backbone_config.out_indices"
                )
        return maps

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; the statistics of frozen norms do not change."""
        super().train(mode)
        if self.frozen_norms:
            for norm in self._norms():
                norm.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
