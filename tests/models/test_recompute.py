"""Gradient checkpointing changes only the memory use."""

import copy

import pytest
import torch

from rtdetr.losses import build_criterion
from rtdetr.models import build_model
from rtdetr.models.recompute import recompute_activations


@pytest.mark.parametrize("name", ["test-tiny", pytest.param("rtdetrv2_hgnetv2_l", marks=pytest.mark.slow)])
def test_gradients_and_running_statistics_are_the_same(name):
    torch.manual_seed(0)
    model = build_model(name, num_classes=3, num_denoising=0).train()
    other = copy.deepcopy(model)
    recompute_activations(other)
    images = torch.rand(2, 3, 64, 96)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.4, 0.1, 0.1]])
    targets = [{"labels": torch.tensor([0, 2]), "boxes": boxes}, {"labels": torch.zeros(0).long(), "boxes": boxes[:0]}]
    criterion = build_criterion(model.config)
    kept = []
    for network in (model, other):
        activations = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, seen=activations: seen.append(x.numel()) or x, lambda x: x
        ):
            loss = sum(criterion(network(images, targets), targets).values())
        loss.backward()
        kept.append(sum(activations))
    for (key, value), (_, same) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(value, same), key
    for (key, value), same in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value.grad, same.grad, rtol=1e-5, atol=1e-7, msg=key)
    assert kept[1] < 0.6 * kept[0]


def test_evaluation_is_left_alone():
    model = build_model("test-tiny").eval()
    images = torch.rand(1, 3, 64, 64)
    expected = model(images).logits
    recompute_activations(model)
    assert torch.equal(model(images).logits, expected)
