"""Convolution with a faster gradient of the weights on some CPUs; values are equal up to rounding."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from rtdetr.devices import is_recording


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose 3x3 kernels get their gradient from `weight_gradient` where that is faster.

    On CPUs with AVX2, oneDNN computes this gradient of channels-last maps at a fifth to two thirds of the speed of the
    forward pass (benchmarks/README.md). Other CPUs were not measured and keep the gradient of PyTorch.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d y x"]:
        if self.weight.requires_grad and torch.is_grad_enabled() and self._sums_products(input):
            return _Convolution.apply(input, self.weight, self.stride[0])
        return super().forward(input)

    def _sums_products(self, x: Tensor) -> bool:
        return (
            not is_recording()  # first, as a trace would record the comparison of sizes
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.stride in ((1, 1), (2, 2))
            and (self.groups, self.dilation, self.bias) == (1, (1, 1), None)
            and self.in_channels >= 32
            and x.shape[2] * x.shape[3] >= 400  # smaller products are slower than oneDNN
            and x.is_contiguous(memory_format=torch.channels_last)
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
            and not torch.is_autocast_enabled("cpu")
        )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = conv2d_input(x.shape, weight, gradient, stride=ctx.stride, padding=1)
        if ctx.needs_input_grad[1]:
            of_weight = weight_gradient(x, gradient, stride=ctx.stride)
        return of_x, of_weight, None


def weight_gradient(
    x: Float[Tensor, "b c h w"], gradient: Float[Tensor, "b d y x"], *, stride: int
) -> Float[Tensor, "d c 3 3"]:
    """Return the gradient of the weights of a 3x3 convolution with padding 1 and stride 1 or 2.

    Each of the nine weights is a matrix product over all pixels, of the gradient with the map moved by one pixel. With
    both maps padded to the same width, a moved map is a contiguous range of rows of the same memory.
    """
    far = 2 // stride  # the largest move
    rows, columns = gradient.shape[2] + far, gradient.shape[3] + far
    bottom, right = stride * rows - x.shape[2] - 1, stride * columns - x.shape[3] - 1
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, right, 1, bottom))
    # for stride 2, the pixels of even and odd rows and columns are separate maps
    maps = {
        (i, j): padded[:, i::stride, j::stride].flatten(1, 2)  # (b, rows*columns, c)
        for i in range(stride)
        for j in range(stride)
    }
    count = rows * columns - far * (columns + 1)
    left = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, 0, far, 0, far)).flatten(1, 2)[:, :count].transpose(1, 2)
    products = []
    for i in range(3):
        for j in range(3):
            first = i // stride * columns + j // stride
            moved = maps[i % stride, j % stride][:, first : first + count]
            products.append(torch.bmm(left, moved).sum(0))
    return torch.stack(products, dim=-1).unflatten(-1, (3, 3))
