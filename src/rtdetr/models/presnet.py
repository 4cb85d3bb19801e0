"""ResNet-vd ("PResNet"), the residual backbone. Source: arXiv 1812.01187; returns the maps of strides 8, 16 and 32."""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rtdetr.config import PResNetConfig
from rtdetr.models.backbone import Backbone
from rtdetr.models.layers import ConvNorm, finite

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def _shortcut(in_channels: int, out_channels: int, stride: int, frozen: bool) -> nn.Module:
    """Projection of a stage's first block: average pooling before a 1x1 convolution if the stage halves the map."""
    if stride == 1:
        return ConvNorm(in_channels, out_channels, 1, frozen=frozen)
    pool = nn.AvgPool2d(2, 2, 0, ceil_mode=True)
    return nn.Sequential(OrderedDict(pool=pool, conv=ConvNorm(in_channels, out_channels, 1, frozen=frozen)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, *, stride: int, project: bool, frozen: bool) -> None:
        super().__init__()
        self.short = _shortcut(in_channels, width, stride, frozen) if project else nn.Identity()
        self.branch2a = ConvNorm(in_channels, width, 3, stride=stride, activation="relu", frozen=frozen)
        self.branch2b = ConvNorm(width, width, 3, frozen=frozen)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        return F.relu(finite(self.branch2b(self.branch2a(x)) + self.short(x)), inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; the 3x3 convolution has the stride."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, project: bool, frozen: bool) -> None:
        super().__init__()
        out = width * self.expansion
        self.branch2a = ConvNorm(in_channels, width, 1, activation="relu", frozen=frozen)
        self.branch2b = ConvNorm(width, width, 3, stride=stride, activation="relu", frozen=frozen)
        self.branch2c = ConvNorm(width, out, 1, frozen=frozen)
        self.short = _shortcut(in_channels, out, stride, frozen) if project else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        return F.relu(finite(self.branch2c(self.branch2b(self.branch2a(x))) + self.short(x)), inplace=True)


class Stage(nn.Module):
    """Residual blocks at one resolution; the first one projects and, except in the first stage, halves the map."""

    def __init__(self, block: type, in_channels: int, width: int, *, count: int, stride: int, frozen: bool) -> None:
        super().__init__()
        out = width * block.expansion
        self.blocks = nn.ModuleList(
            block(in_channels if j == 0 else out, width, stride=stride if j == 0 else 1, project=j == 0, frozen=frozen)
            for j in range(count)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        for block in self.blocks:
            x = block(x)
        return x


class PResNet(Backbone):
    """Three-convolution stem, max-pool and four stages; `out_channels` are the widths of the three returned maps."""

    def __init__(self, config: PResNetConfig, *, in_channels: int = 3) -> None:
        super().__init__()
        base, frozen = config.base_width, config.freeze_norm
        block = BasicBlock if config.depth < 50 else Bottleneck
        stem = {"activation": "relu", "frozen": frozen}
        self.conv1 = nn.Sequential(
            OrderedDict(
                conv1_1=ConvNorm(in_channels, base // 2, 3, stride=2, **stem),
                conv1_2=ConvNorm(base // 2, base // 2, 3, **stem),
                conv1_3=ConvNorm(base // 2, base, 3, **stem),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        )
        self.res_layers = nn.ModuleList()
        channels = base
        for i, count in enumerate(config.blocks or BLOCKS[config.depth]):
            width = base * 2**i
            stage = Stage(block, channels, width, count=count, stride=1 if i == 0 else 2, frozen=frozen)
            self.res_layers.append(stage)
            channels = width * block.expansion
        self.out_channels = tuple(base * 2**i * block.expansion for i in (1, 2, 3))
        self.freeze(config.freeze_at)

    def stem_and_stages(self) -> list[list[nn.Module]]:
        return [[self.conv1], *([stage] for stage in self.res_layers)]

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return the maps of strides 8, 16 and 32."""
        x = self.conv1(images)
        maps = []
        for stage in self.res_layers:
            x = stage(x)
            maps.append(x)
        return maps[1:]
