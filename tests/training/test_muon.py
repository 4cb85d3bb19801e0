"""Muon: directions from a singular value decomposition, one step in numbers, and which parameters are matrices."""

import copy

import pytest
import torch
from torch import nn

from rtdetr import zoo
from rtdetr.config import Recipe
from rtdetr.models import build_model
from rtdetr.training.muon import UPDATE_RMS, Muon, orthogonalized
from rtdetr.training.optimizer import build_optimizer


def by_singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """The same polynomial, applied to the singular values."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / matrix.double().norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (16, 20), (1, 8), (8, 1)])
def test_only_the_singular_values_change(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrices)
    assert found.dtype == torch.float32
    for matrix, direction in zip(matrices, found, strict=True):
        assert torch.allclose(direction.double(), by_singular_values(matrix), atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8)])
def test_a_zero_gradient_gives_no_update(shape):
    assert torch.equal(orthogonalized(torch.zeros(2, *shape)), torch.zeros(2, *shape))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_two_steps_of_a_convolution_and_its_norm(layout):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8)).to(memory_format=layout)
    reference = nn.BatchNorm2d(8)
    kernel, norm = model[0].weight, model[1]
    recipe = Recipe(lr=0.1, optimizer="muon", betas=(0.8, 0.95), weight_decay=0.01)
    optimizer = build_optimizer(model, recipe)
    adamw = torch.optim.AdamW(reference.parameters(), lr=0.1, betas=recipe.betas, weight_decay=0.01)
    expected, momentum = kernel.detach().double().reshape(8, 36), torch.zeros(8, 36, dtype=torch.float64)
    for _ in range(2):
        gradient, scale = torch.randn(8, 4, 3, 3), torch.randn(8)
        kernel.grad = gradient.to(memory_format=layout)
        for parameter in (*norm.parameters(), *reference.parameters()):
            parameter.grad = scale.clone()
        optimizer.step()
        adamw.step()
        flat = gradient.double().reshape(8, 36)
        momentum = 0.8 * momentum + 0.2 * flat
        direction = by_singular_values(0.8 * momentum + 0.2 * flat)
        expected = expected * (1 - 0.1 * 0.01) - 0.1 * UPDATE_RMS * 36**0.5 * direction
    assert torch.allclose(kernel.double().reshape(8, 36), expected, atol=1e-5)
    assert torch.allclose(norm.weight, reference.weight) and torch.allclose(norm.bias, reference.bias)
    assert [list(optimizer.state[kernel]), sorted(optimizer.state[norm.weight])] == [
        ["momentum_buffer"],
        ["exp_avg", "exp_avg_sq", "step"],
    ]


def test_frozen_and_unused_parameters_do_not_change():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, Recipe(lr=0.1, optimizer="muon"))
    model[1](torch.ones(1, 8)).sum().backward()
    optimizer.step()
    same = [torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, False, True, True]


def test_matrices_alone_with_a_closure():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8, bias=False)
    groups = [{"params": [layer.weight], "muon": True}]
    optimizer = Muon(groups, lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    before = layer.weight.detach().clone()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (layer(torch.eye(8)) ** 2).sum()
        value.backward()
        return value

    assert optimizer.step(loss).item() == pytest.approx((before**2).sum().item(), rel=1e-6)
    update = 0.1 * UPDATE_RMS * 8**0.5 * by_singular_values(before)  # the gradient is twice the weight
    assert torch.allclose(layer.weight.double(), before - update, atol=1e-5)


def test_copies_and_loaded_states_continue_alike():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [build_optimizer(model, Recipe(lr=0.1, optimizer="muon")) for model in models]
    gradients = [torch.randn(parameter.shape) for parameter in models[0].parameters()]

    def step(index: int) -> None:
        for parameter, gradient in zip(models[index].parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizers[index].step()

    step(0)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    step(0)
    step(1)
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    copied_model, copied = copy.deepcopy((models[0], optimizers[0]))
    copied.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    models[1], optimizers[1] = copied_model, copied
    step(0)
    step(1)
    pairs = zip(models[0].parameters(), copied_model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_rehearsal_changes_nothing():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    optimizer = build_optimizer(model, Recipe(lr=0.1, optimizer="muon"))
    model[0](torch.ones(1, 8)).sum().backward()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer.rehearse()
    assert not optimizer.state
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_a_gradient_scaler_skips_the_whole_step_if_a_gradient_overflows():
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = build_optimizer(model, Recipe(lr=0.1, optimizer="muon"))
    scaler = torch.amp.GradScaler("cpu")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    scaler.scale(torch.zeros(()))  # initializes it
    model[1].bias.grad[0] = torch.inf
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", ["rtdetrv2_r18vd", "rtdetrv2_r101vd", "rtdetrv2_hgnetv2_l", "rtdetr_r50vd"])
def test_matrices_have_their_own_groups(name):
    with torch.device("meta"):
        model = build_model(name)
    recipe = zoo.recipe(name)
    usual = build_optimizer(model, recipe).param_groups
    optimizer = build_optimizer(model, recipe.replace(optimizer="muon"))
    groups = optimizer.param_groups
    assert isinstance(optimizer, Muon)
    assert [group["muon"] for group in groups] == [False, True] * len(usual)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for index, group in enumerate(usual):
        rest, matrices = groups[2 * index : 2 * index + 2]
        values = ("lr", "initial_lr", "weight_decay")
        assert [[one[value] for value in values] for one in (rest, matrices)] == [
            [group[value] for value in values]
        ] * 2
        assert sorted(map(id, rest["params"] + matrices["params"])) == sorted(map(id, group["params"]))
    others = [names[id(p)] for group in groups if not group["muon"] for p in group["params"] if p.ndim > 1]
    allowed = ("score_head", "denoising_class_embed", "bbox_head", "downsample.conv", "conv2.conv")  # two: depthwise
    assert all(any(part in other for part in allowed) for other in others)
    assert {"decoder.enc_score_head.weight", "decoder.dec_bbox_head.0.layers.2.weight"} <= set(others)
    assert "decoder.dec_bbox_head.0.layers.1.weight" not in others
    assert not [other for other in others if other.endswith("conv2.conv.weight")] or "hgnetv2" in name
