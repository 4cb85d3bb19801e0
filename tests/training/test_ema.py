"""The moving average: the exact formula, entries that it does not change, and resuming."""

import copy
import math

import pytest
import torch
from torch import nn

from rtdetr.training.ema import ModelEMA


class Parts(nn.Module):
    """Every kind of state entry there is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("anchors", torch.tensor([0.5, float("inf"), -1.5]))
        self.register_buffer("valid", torch.tensor([True, False]))


def moved(model: Parts, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += torch.randn(value.shape, generator=generator)
        model.norm.num_batches_tracked += 1
        model.valid.logical_not_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("warmup", [0, 5])
def test_equals_the_formula_exactly(dtype, warmup):
    model = Parts().to(dtype)
    ema = ModelEMA(model, decay=0.99, warmup=warmup)
    expected = copy.deepcopy(model.state_dict())
    for n in range(1, 9):
        moved(model, n)
        ema.update(model)
        d = 0.99 * (1 - math.exp(-n / warmup)) if warmup else 0.99
        for key, value in expected.items():
            if value.is_floating_point():
                value *= d
                value += (1 - d) * model.state_dict()[key]
    for key, value in ema.state_dict()["module"].items():
        assert torch.equal(value, expected[key]), key
    assert ema.state_dict()["module"]["norm.num_batches_tracked"] == 0
    assert torch.equal(ema.module.valid, torch.tensor([True, False]))
    assert ema.updates == 8


@pytest.mark.parametrize(("updates", "decay"), [(1, 4.998e-4), (100, 4.877e-2), (2000, 0.63206), (20000, 0.99985)])
def test_published_decays(updates, decay):
    assert ModelEMA(nn.Linear(1, 1)).decay_at(updates) == pytest.approx(decay, rel=1e-3)


def test_decay_is_read_at_each_update():
    model = nn.Linear(2, 2)
    ema = ModelEMA(model, decay=0.9, warmup=0)
    ema.decay = 0.0
    moved_weight = torch.full_like(model.weight, 7.0)
    model.weight.data.copy_(moved_weight)
    ema.update(model)
    assert torch.equal(ema.module.weight, moved_weight)


def test_without_decay_infinite_anchors_stay_infinite():
    model = Parts()
    ema = ModelEMA(model, decay=0.0)
    ema.update(model)
    assert torch.equal(ema.module.anchors, model.anchors)


def test_the_copy_is_independent_frozen_and_in_eval_mode():
    model = Parts().train()
    ema = ModelEMA(model)
    before = ema.module.conv.weight.clone()
    moved(model, 1)
    assert torch.equal(ema.module.conv.weight, before)
    assert not ema.module.training and model.training
    assert not any(p.requires_grad for p in ema.module.parameters())


def test_a_resumed_average_equals_an_uninterrupted_one():
    model = Parts()
    whole = ModelEMA(model, decay=0.9, warmup=3)
    for step in range(4):
        moved(model, step)
        whole.update(model)
    resumed = ModelEMA(Parts(), decay=0.9, warmup=3)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    moved(model, 9)
    whole.update(model)
    resumed.update(model)
    for key, value in whole.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[key])
    assert resumed.updates == 5
