"""Folding for inference: batch norms into convolutions, the two RepVGG branches into one. A new model comes out."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtdetr.models.hgnetv2 import ConvBN
from rtdetr.models.hybrid_encoder import RepVGGBlock
from rtdetr.models.layers import ConvNorm, FrozenBatchNorm2d, finite
from rtdetr.models.rtdetr import RTDETR

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


class FusedRepVGG(nn.Module):
    """One 3x3 convolution and SiLU."""

    def __init__(self, block: RepVGGBlock) -> None:
        super().__init__()
        weight3, bias3 = folded(*block.conv1.folding())
        weight1, bias1 = folded(*block.conv2.folding())
        self.conv = with_bias(block.conv1.conv, weight3 + F.pad(weight1, (1, 1, 1, 1)), bias3 + bias1)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(finite(self.conv(x)))


def fuse(model: RTDETR) -> RTDETR:
    """Return a copy for inference with every norm folded; outputs agree with `model.eval()` to rounding.

    The copy has other parameter names, cannot be trained, and is refused wherever weights are saved.
    """
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    if not fused.is_fused:
        _fold_children(fused)
        fused.is_fused = True
    return fused


def _fold_children(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        if isinstance(child, RepVGGBlock):
            setattr(parent, name, FusedRepVGG(child))
        elif isinstance(child, ConvNorm):
            child.conv = with_bias(child.conv, *folded(*child.folding()))
            child.norm = nn.Identity()
        elif isinstance(child, ConvBN):
            conv, norm = child.folding()
            bias_conv = with_bias(conv, *folded(conv, norm))
            child.conv = bias_conv if child.conv is conv else nn.Sequential(child.conv[0], bias_conv)
            child.bn = nn.Identity()
        elif isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], NORMS):
            setattr(parent, name, with_bias(child[0], *folded(child[0], child[1])))
        else:
            _fold_children(child)


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals `conv` followed by the batch norm in eval mode."""
    wide = torch.promote_types(conv.weight.dtype, torch.float64)
    scale = norm.weight.to(wide) * (norm.running_var.to(wide) + norm.eps).rsqrt()
    bias = norm.bias.to(wide) - norm.running_mean.to(wide) * scale
    return (conv.weight.to(wide) * scale[:, None, None, None]).detach(), bias.detach()


def with_bias(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same shape as `conv` with these weights, in the type of `conv`."""
    new = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, groups=conv.groups
    ).to(conv.weight)
    with torch.no_grad():
        new.weight.copy_(weight)
        new.bias.copy_(bias)
    return new.requires_grad_(False)
