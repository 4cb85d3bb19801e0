"""The gradient of 3x3 kernels by matrix products equals that of PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rtdetr.models.convolution import Conv2d, weight_gradient

LAST = torch.channels_last


def make_layer(*, stride: int = 1, **other) -> Conv2d:
    torch.manual_seed(0)
    return Conv2d(32, 8, 3, stride=stride, padding=1, bias=False, **other).to(memory_format=LAST)


def gradients(layer: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of a sum in which every pixel counts differently."""
    images = images.detach().requires_grad_()
    output = layer(images)
    share = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output, *torch.autograd.grad((output * share).sum(), [images, layer.weight])]


@pytest.fixture
def avx2(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size_hw", [(20, 30), (7, 4), (5, 5), (1, 1), (1, 6)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_gradient_is_right(stride, size_hw, batch):
    torch.manual_seed(0)
    images = torch.randn(batch, 5, *size_hw, dtype=torch.float64).to(memory_format=LAST)
    weight = torch.randn(3, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    output = F.conv2d(images, weight, stride=stride, padding=1)
    gradient = torch.randn_like(output).contiguous(memory_format=LAST)
    (expected,) = torch.autograd.grad(output, weight, gradient)
    torch.testing.assert_close(weight_gradient(images, gradient, stride=stride), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_trains_like_that_of_pytorch(avx2, stride):
    images = torch.randn(2, 32, 22, 20).to(memory_format=LAST)
    layer = make_layer(stride=stride)
    plain = nn.Conv2d(32, 8, 3, stride=stride, padding=1, bias=False).to(memory_format=LAST)
    plain.load_state_dict(layer.state_dict())
    ours, theirs = gradients(layer, images), gradients(plain, images)
    assert type(ours[0].grad_fn).__name__ == "_ConvolutionBackward"
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    torch.testing.assert_close(ours[2], theirs[2], rtol=1e-4, atol=1e-4)
    assert ours[1].is_contiguous(memory_format=LAST)


def test_only_what_needs_a_gradient_gets_one(avx2):
    images, layer = torch.randn(1, 32, 20, 20).to(memory_format=LAST), make_layer()
    layer(images).sum().backward()
    assert layer.weight.grad is not None and images.grad is None
    frozen = make_layer().requires_grad_(False)
    assert type(frozen(images.requires_grad_()).grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize(
    "change",
    [
        lambda layer, images: (layer, images.contiguous()),
        lambda layer, images: (layer.double(), images.double()),
        lambda layer, images: (layer, images[:, :, :8, :8].contiguous(memory_format=LAST)),
        lambda layer, images: (make_layer(dilation=2), images),
        lambda layer, images: (make_layer(groups=2), images),
    ],
    ids=["layout", "float64", "small", "dilation", "groups"],
)
def test_other_layers_and_maps_are_left_to_pytorch(avx2, change):
    layer, images = change(make_layer(), torch.randn(1, 32, 20, 20).to(memory_format=LAST))
    assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0"


def test_autocast_is_followed(avx2):
    layer, images = make_layer(), torch.randn(1, 32, 20, 20).to(memory_format=LAST)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images).dtype == torch.bfloat16


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_other_processors_are_left_to_pytorch(monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer, images = make_layer(), torch.randn(1, 32, 20, 20).to(memory_format=LAST)
    assert type(layer(images).grad_fn).__name__ == "ConvolutionBackward0"
