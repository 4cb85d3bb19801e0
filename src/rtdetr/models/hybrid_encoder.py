"""The hybrid encoder: attention on the coarsest map (AIFI), then convolutional fusion of three maps (CCFF).

Source: arXiv 2304.08069 section 4.2.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rtdetr.config import EncoderConfig
from rtdetr.devices import at_least_float32
from rtdetr.models.layers import ConvNorm, SelfAttention, finite, map_to_tokens, tokens_to_map
from rtdetr.models.positions import sine_position_code
from rtdetr.structures import Trace


class EncoderLayer(nn.Module):
    """Post-norm transformer layer with GELU."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = SelfAttention(width, config.num_heads)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, x: Float[Tensor, "b s d"], position: Float[Tensor, "1 s d"], trace: Trace | None = None
    ) -> Float[Tensor, "b s d"]:
        keep = None
        if trace is not None and trace.with_attentions:
            keep = functools.partial(trace.keep, trace.encoder_attentions, ())
        x = self.norm1(finite(x + self.self_attn(x, position, keep=keep)))
        return self.norm2(finite(x + self.linear2(F.gelu(self.linear1(x)))))


class TransformerEncoder(nn.Module):
    """Attention layers over the tokens of a map, initialized with equal weights; all use the same position code."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        first = EncoderLayer(config)
        self.layers = nn.ModuleList(copy.deepcopy(first) if i else first for i in range(config.num_layers))

    def forward(
        self, x: Float[Tensor, "b c h w"], position: Float[Tensor, "1 h*w c"], trace: Trace | None = None
    ) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        if trace is not None:
            trace.coarsest_maps.append(x)
        for layer in self.layers:
            x = tokens_to_map(layer(map_to_tokens(x), position, trace), height, width)  # views in both directions
            if trace is not None:
                trace.coarsest_maps.append(x)
        return x


class RepVGGBlock(nn.Module):
    """Parallel 3x3 and 1x1 convolutions, then SiLU; `fuse` merges both into one 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels, 3)
        self.conv2 = ConvNorm(channels, channels, 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.silu(finite(self.conv1(x) + self.conv2(x)))


class CSPRepLayer(nn.Module):
    """Fusion block: a RepVGG branch and a plain branch, summed."""

    def __init__(self, in_channels: int, out_channels: int, *, num_blocks: int, expansion: float) -> None:
        super().__init__()
        hidden = int(out_channels * expansion)
        self.conv1 = ConvNorm(in_channels, hidden, 1, activation="silu")
        self.conv2 = ConvNorm(in_channels, hidden, 1, activation="silu")
        self.bottlenecks = nn.Sequential(*(RepVGGBlock(hidden) for _ in range(num_blocks)))
        same = hidden == out_channels
        self.conv3 = nn.Identity() if same else ConvNorm(hidden, out_channels, 1, activation="silu")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return self.conv3(finite(self.bottlenecks(self.conv1(x)) + self.conv2(x)))


class HybridEncoder(nn.Module):
    """Fuse three backbone maps (strides 8, 16, 32) to three maps with `config.width` channels."""

    def __init__(
        self, config: EncoderConfig, *, in_channels: tuple[int, ...], version: str = "v2", wide_constants: bool = False
    ) -> None:
        super().__init__()
        width = config.width
        self.config, self.wide_constants = config, wide_constants
        self.input_proj = nn.ModuleList(_projection(channels, width, version=version) for channels in in_channels)
        self.encoder = nn.ModuleList([TransformerEncoder(config)])
        fusion = {"num_blocks": config.num_blocks, "expansion": config.expansion}
        steps = len(in_channels) - 1
        self.lateral_convs = nn.ModuleList()
        self.fpn_blocks = nn.ModuleList()
        for _ in range(steps):
            self.lateral_convs.append(ConvNorm(width, width, 1, activation="silu"))
            self.fpn_blocks.append(CSPRepLayer(2 * width, width, **fusion))
        self.downsample_convs = nn.ModuleList()
        self.pan_blocks = nn.ModuleList()
        for _ in range(steps):
            self.downsample_convs.append(ConvNorm(width, width, 3, stride=2, activation="silu"))
            self.pan_blocks.append(CSPRepLayer(2 * width, width, **fusion))

    def forward(self, maps: Sequence[Tensor], trace: Trace | None = None) -> list[Tensor]:
        """Fuse the backbone's maps, finest first; sizes are kept."""
        maps = [project(x) for project, x in zip(self.input_proj, maps, strict=True)]
        maps[-1] = self._attend(maps[-1], trace)
        # top-down: after its lateral convolution, a coarse map is upsampled and also kept for the bottom-up path
        laterals: list[Tensor] = []
        fused = maps[-1]
        for lateral, block, finer in zip(self.lateral_convs, self.fpn_blocks, reversed(maps[:-1]), strict=True):
            laterals.append(lateral(fused))
            upsampled = F.interpolate(laterals[-1], scale_factor=2.0, mode="nearest")
            fused = block(torch.cat([upsampled, finer], dim=1))
        # bottom-up
        outputs = [fused]
        for downsample, block, coarse in zip(self.downsample_convs, self.pan_blocks, reversed(laterals), strict=True):
            outputs.append(block(torch.cat([downsample(outputs[-1]), coarse], dim=1)))
        if trace is not None:
            trace.encoder_maps = outputs
        return outputs

    def _attend(self, x: Float[Tensor, "b c h w"], trace: Trace | None) -> Float[Tensor, "b c h w"]:
        height, width = x.shape[-2:]
        dtype = at_least_float32(x.dtype) if self.wide_constants else torch.float32
        code = sine_position_code(height, width, x.shape[1], self.config.temperature, x.device, dtype)
        return self.encoder[0](x, code.to(x.dtype), trace)


def _projection(in_channels: int, out_channels: int, *, version: str) -> nn.Module:
    """1x1 convolution and batch norm: named "conv", "norm" in v2 checkpoints and "0", "1" in v1's."""
    if version == "v2":
        return ConvNorm(in_channels, out_channels, 1)
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(OrderedDict([("0", conv), ("1", nn.BatchNorm2d(out_channels))]))
