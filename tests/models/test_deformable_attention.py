"""Sampling: known values, both implementations, rectangles."""

import pytest
import torch
import torch.nn.functional as F

from rtdetr.config import DecoderConfig
from rtdetr.models import deformable_attention as module
from rtdetr.models.deformable_attention import DeformableAttention, nearest_rows, sample

SIZES = ((2, 2), (1, 1))
POINTS = (4, 2)
LOCATIONS = [(0.5, 0.5), (0.1, 0.9), (0, 0), (1.2, 0.4), (0.5, 0.5), (0.2, 0.2)]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [("bilinear", [2.5, 1.47, 0.25, 0.26, 10, 4.9]), ("discrete", [4, 3, 1, 4, 10, 10])],
)
def test_known_values(sampling: str, expected: list[float]) -> None:
    value = torch.tensor([1.0, 2, 3, 4, 10]).view(1, 5, 1)
    locations = torch.tensor(LOCATIONS).view(1, 1, 1, 6, 2)
    for point, wanted in enumerate(expected):
        weights = F.one_hot(torch.tensor(point), 6).float().view(1, 1, 1, 6)
        assert sample(value, locations, weights, SIZES, POINTS, sampling).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("sizes", [((8, 8), (4, 4)), ((6, 12), (3, 6)), ((12, 6), (6, 3)), ((1, 1), (1, 1))])
def test_gathering_equals_grid_sample_with_gradients(sizes: tuple) -> None:
    heads, points = 2, (3, 2)
    tokens = sum(h * w for h, w in sizes)
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(2, tokens, 8, generator=generator, dtype=torch.float64, requires_grad=True),
        (torch.rand(2, 5, heads, 5, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3).requires_grad_(),
        torch.rand(2, 5, heads, 5, generator=generator, dtype=torch.float64, requires_grad=True),
    ]
    gathered = sample(*inputs, sizes, points, "bilinear")
    gridded = module._sample_by_grid(*inputs, sizes, points)
    torch.testing.assert_close(gathered, gridded, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(gathered.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad((gathered * upstream).sum(), inputs),
        torch.autograd.grad((gridded * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_rows_are_summed_alike_on_every_device() -> None:
    slices, table, shares = torch.randn(20, 4), torch.randint(0, 20, (6, 5)), torch.rand(6, 5)
    torch.testing.assert_close(module._sum_rows(slices, table, shares), module._sum_rows_on_cpu(slices, table, shares))


@pytest.mark.parametrize("size", [(20, 40), (40, 20)])
def test_discrete_rows_stay_on_their_line_of_a_rectangle(size: tuple[int, int]) -> None:
    height, width = size
    locations = torch.rand(1, 50, 1, 1, 2)
    rows, _ = nearest_rows(locations, module._levels((size,), (1,), locations))
    column = (locations[..., 0] * width + 0.5).long().clamp(max=width - 1)
    line = (locations[..., 1] * height + 0.5).long().clamp(max=height - 1)
    torch.testing.assert_close(rows[..., 0], line * width + column)
    assert (column >= height).any() or height > width


def test_points_start_on_rays_and_restart_at_each_level() -> None:
    attention = DeformableAttention(DecoderConfig(width=16, num_heads=4, num_points=(1, 3, 2)))
    bias = attention.sampling_offsets.bias.view(4, 6, 2)
    torch.testing.assert_close(bias[0, :, 0], torch.tensor([1.0, 1, 2, 3, 1, 2]))
    torch.testing.assert_close(bias[1, :, 1], torch.tensor([1.0, 1, 2, 3, 1, 2]))
    torch.testing.assert_close(attention.num_points_scale, torch.tensor([1, 1 / 3, 1 / 3, 1 / 3, 0.5, 0.5]))


def test_discrete_sampling_does_not_train_offsets() -> None:
    attention = DeformableAttention(DecoderConfig(width=16, num_heads=4, sampling="discrete"))
    assert not attention.sampling_offsets.weight.requires_grad
    assert attention.value_proj.weight.requires_grad
