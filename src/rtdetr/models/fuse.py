"""Fusion for inference: fold batch norms into convolutions and merge the two RepVGG branches, in a new model."""

import copy

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from rtdetr.models.hgnetv2 import ConvBN
from rtdetr.models.hybrid_encoder import RepVGGBlock
from rtdetr.models.layers import ConvNorm, FrozenBatchNorm2d, finite
from rtdetr.models.rtdetr import RTDETR

Norm = nn.BatchNorm2d | FrozenBatchNorm2d


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
    """Return a copy for inference with all norms folded; outputs equal those of `model.eval()` up to rounding.

    The copy has other parameter names, and cannot be trained or saved.
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
            child.register_module("norm", nn.Identity())
        elif isinstance(child, ConvBN):
            conv, norm = child.folding()
            bias_conv = with_bias(conv, *folded(conv, norm))
            padded = isinstance(child.conv, nn.Sequential)
            child.conv = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), bias_conv) if padded else bias_conv
            child.register_module("bn", nn.Identity())
        elif isinstance(child, nn.Sequential) and len(child) == 2:
            conv, norm = child
            if isinstance(conv, nn.Conv2d) and isinstance(norm, Norm):
                setattr(parent, name, with_bias(conv, *folded(conv, norm)))
            else:
                _fold_children(child)
        else:
            _fold_children(child)


def folded(conv: nn.Conv2d, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of the convolution equal to `conv` followed by the batch norm in eval mode."""
    mean, variance, weight = norm.running_mean, norm.running_var, conv.weight.double()
    assert mean is not None and variance is not None  # all batch norms here have statistics
    return fuse_conv_bn_weights(weight, None, mean, variance, norm.eps, norm.weight, norm.bias)


def with_bias(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution with the shape and type of `conv` and these weights."""
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight.to(conv.weight), requires_grad=False)
    new.bias = nn.Parameter(bias.to(conv.weight), requires_grad=False)
    return new
