"""PP-HGNetv2, the backbone of the L, X and H models; returns the maps of strides 8, 16 and 32."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rtdetr.config import HGNetv2Config
from rtdetr.models.backbone import Backbone
from rtdetr.models.convolution import Conv2d
from rtdetr.models.layers import FrozenBatchNorm2d, activate, batch_norm, finite


class StageShape(NamedTuple):
    """Shape of a stage: channels, number of blocks, whether it halves the map, whether layers are depthwise."""

    in_channels: int
    mid_channels: int
    out_channels: int
    num_blocks: int
    downsample: bool
    light: bool
    kernel: int
    num_layers: int = 6


# size -> (stem widths after the image channels, four stages)
SHAPES: dict[str, tuple[tuple[int, int], tuple[StageShape, ...]]] = {
    "L": (
        (32, 48),
        (
            StageShape(48, 48, 128, 1, False, False, 3),
            StageShape(128, 96, 512, 1, True, False, 3),
            StageShape(512, 192, 1024, 3, True, True, 5),
            StageShape(1024, 384, 2048, 1, True, True, 5),
        ),
    ),
    "X": (
        (32, 64),
        (
            StageShape(64, 64, 128, 1, False, False, 3),
            StageShape(128, 128, 512, 2, True, False, 3),
            StageShape(512, 256, 1024, 5, True, True, 5),
            StageShape(1024, 512, 2048, 2, True, True, 5),
        ),
    ),
    "H": (
        (48, 96),
        (
            StageShape(96, 96, 192, 2, False, False, 3),
            StageShape(192, 192, 512, 3, True, False, 3),
            StageShape(512, 384, 1024, 6, True, True, 5),
            StageShape(1024, 768, 2048, 3, True, True, 5),
        ),
    ),
}


class LearnableAffine(nn.Module):
    """Learnable affine block (LAB): one scale and one bias for a whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.scale * x + self.bias


class ConvBN(nn.Module):
    """Convolution without bias, batch norm, ReLU unless `linear`. Checkpoints of this family name norms `bn`.

    An even kernel is padded on the right and bottom only, with the convolution at index 1 of a sequence.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        config: HGNetv2Config,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        conv = Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.conv: nn.Module = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv) if kernel % 2 == 0 else conv
        self.bn = batch_norm(out_channels, frozen=config.freeze_norm)
        self.activation = None if linear else "relu"
        if config.use_lab and not linear:
            self.lab = LearnableAffine()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        x = activate(self.bn(self.conv(x)), self.activation)
        return self.lab(x) if hasattr(self, "lab") else x

    def folding(self) -> tuple[nn.Conv2d, nn.BatchNorm2d | FrozenBatchNorm2d]:
        """Return the convolution and the norm that follows it, for folding."""
        return next(m for m in self.conv.modules() if isinstance(m, nn.Conv2d)), self.bn


class Stem(nn.Module):
    """Stem with stride 4: a strided convolution, then parallel pooled and convolved branches."""

    def __init__(self, in_channels: int, mid: int, out: int, *, config: HGNetv2Config) -> None:
        super().__init__()
        self.stem1 = ConvBN(in_channels, mid, 3, stride=2, config=config)
        self.stem2a = ConvBN(mid, mid // 2, 2, config=config)
        self.stem2b = ConvBN(mid // 2, mid, 2, config=config)
        self.stem3 = ConvBN(2 * mid, mid, 3, stride=2, config=config)
        self.stem4 = ConvBN(mid, out, 1, config=config)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        x = self.stem1(images)
        pooled = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), kernel_size=2, stride=1, ceil_mode=True)
        return self.stem4(self.stem3(torch.cat([pooled, self.stem2b(self.stem2a(x))], dim=1)))


class LightConv(nn.Module):
    """1x1 convolution, then a depthwise one."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, config: HGNetv2Config) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels, 1, linear=True, config=config)
        self.conv2 = ConvBN(out_channels, out_channels, kernel, groups=out_channels, config=config)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return self.conv2(self.conv1(x))


class Block(nn.Module):
    """Sequential layers; the input and all outputs are concatenated, then squeezed and excited."""

    def __init__(self, in_channels: int, shape: StageShape, *, residual: bool, config: HGNetv2Config) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList()
        for i in range(shape.num_layers):
            channels = in_channels if i == 0 else shape.mid_channels
            unit = LightConv if shape.light else ConvBN
            self.layers.append(unit(channels, shape.mid_channels, shape.kernel, config=config))
        total = in_channels + shape.num_layers * shape.mid_channels
        out = shape.out_channels
        self.aggregation_squeeze_conv = ConvBN(total, out // 2, 1, config=config)
        self.aggregation_excitation_conv = ConvBN(out // 2, out, 1, config=config)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        outputs = [x]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        y = self.aggregation_excitation_conv(self.aggregation_squeeze_conv(torch.cat(outputs, dim=1)))
        return finite(y + x) if self.residual else y


class Stage(nn.Module):
    """Optional depthwise strided convolution, then blocks; all but the first block are residual."""

    def __init__(self, shape: StageShape, *, config: HGNetv2Config) -> None:
        super().__init__()
        channels = shape.in_channels
        if shape.downsample:
            self.downsample = ConvBN(channels, channels, 3, stride=2, groups=channels, linear=True, config=config)
        self.blocks = nn.ModuleList(
            Block(channels if j == 0 else shape.out_channels, shape, residual=j > 0, config=config)
            for j in range(shape.num_blocks)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class HGNetv2(Backbone):
    """Stem and four stages; `out_channels` are the widths of the three returned maps."""

    def __init__(self, config: HGNetv2Config, *, in_channels: int = 3) -> None:
        super().__init__()
        (mid, out), shapes = SHAPES[config.size]
        self.stem = Stem(in_channels, mid, out, config=config)
        self.stages = nn.ModuleList(Stage(shape, config=config) for shape in shapes)
        self.out_channels = tuple(shape.out_channels for shape in shapes[1:])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        self.freeze(config.freeze_at)

    def stem_and_stages(self) -> list[list[nn.Module]]:
        return [[self.stem], *([stage] for stage in self.stages)]

    def forward(self, images: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """Return the maps of strides 8, 16 and 32."""
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
