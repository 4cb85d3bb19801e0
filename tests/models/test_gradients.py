"""Gradients do not depend on the batch size or the memory format."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rtdetr.models import RTDETR, build_model

SIZE = 64
Layout = Callable[[Tensor], Tensor]
LAYOUTS: dict[str, Layout] = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    # a batch of one made with [None] from an array (height, width, channels): its first stride is another
    "one_array": lambda x: x[0].permute(1, 2, 0).contiguous().permute(2, 0, 1)[None] if len(x) == 1 else x,
}


class PlainBatchNorm(nn.BatchNorm2d):
    """The same norm from elementary operations, whose gradients come from autograd's own rules."""

    def forward(self, input: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        assert mean is not None and variance is not None
        if self.training:
            mean, variance = input.mean((0, 2, 3)), input.var((0, 2, 3), unbiased=False)
        scale = self.weight / (variance + self.eps).sqrt()
        return (input - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


@pytest.fixture(scope="module")
def network() -> RTDETR:
    torch.manual_seed(0)
    network = build_model("test-tiny", num_classes=3, num_queries=8, eval_size_hw=(SIZE, SIZE)).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(6, 3, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(network: nn.Module, images: Tensor, *, part: int, layout: Layout) -> dict[str, Tensor]:
    """The gradient of a linear function of the outputs, accumulated over parts of the batch."""
    network.zero_grad()
    for batch in images.split(part):
        output = network(layout(batch))
        values = torch.cat([output.logits, output.boxes_cxcywh], dim=-1)
        weights = torch.linspace(-1, 1, values[0].numel(), dtype=values.dtype).view(values[0].shape)
        (values * weights).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def largest_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    assert found.keys() == expected.keys()
    norms = {name: float(value.norm()) for name, value in expected.items()}
    floor = 1e-6 * max(norms.values())  # biases before a softmax have a gradient of rounding errors
    return max(float((found[name] - expected[name]).norm()) / max(norms[name], floor) for name in expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_accumulate_to_the_gradient_of_the_batch(network: RTDETR, images: Tensor, layout: str) -> None:
    """With constant statistics, as in fine-tuning with frozen norms."""
    network.eval()
    expected = gradients(network, images, part=6, layout=LAYOUTS["contiguous"])
    assert sum(name.startswith("backbone") for name in expected) > 10
    for part in (1, 2, 3, 6):
        assert largest_error(gradients(network, images, part=part, layout=LAYOUTS[layout]), expected) < 1e-8


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_image_has_the_gradient_of_elementary_operations(
    network: RTDETR, images: Tensor, layout: str, training: bool
) -> None:
    network.train(training)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    found = gradients(network, images[:1], part=1, layout=LAYOUTS[layout])
    for norm in norms:
        norm.__class__ = PlainBatchNorm
    try:
        expected = gradients(network, images[:1], part=1, layout=LAYOUTS["contiguous"])
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d
    assert largest_error(found, expected) < 1e-7
