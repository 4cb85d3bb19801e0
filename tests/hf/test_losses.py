"""The loss: the published objective under transformers' names, and transformers' numbers with the switch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rtdetr.losses import build_criterion
from rtdetr.weights.names import from_huggingface
from tests.hf.pairs import facade, labels, pair
from tests.weights.small import small


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("counts", "training"),
    [
        *(((3, 1), True), ((3, 1), False), ((0, 0), True), ((12, 1), True)),
        *(pytest.param(counts, True, marks=pytest.mark.slow) for counts in ((0, 2), (10, 10))),
        *(pytest.param(counts, False, marks=pytest.mark.slow) for counts in ((0, 2), (0, 0))),
    ],
)
def test_terms_of_transformers(counts: tuple[int, ...], training: bool) -> None:
    """12 objects in an image are more than `num_denoising`, which stock transformers does not limit."""
    ours, stock = pair()
    ours.config.transformers_compatible_loss = True
    ours.double().train(training), stock.double().train(training)
    truth = [{"class_labels": x["class_labels"], "boxes": x["boxes"].double()} for x in labels(*counts)]
    torch.manual_seed(0)
    got = ours(images().double(), labels=truth)
    torch.manual_seed(0)
    expected = stock(images().double(), labels=truth)
    assert list(got.loss_dict) == list(expected.loss_dict)
    for name, value in expected.loss_dict.items():
        assert got.loss_dict[name].item() == pytest.approx(value.item(), rel=1e-10, abs=1e-10), name
    assert got.loss.item() == pytest.approx(expected.loss.item(), rel=1e-10)


def test_gradients_of_transformers() -> None:
    """With the switch every gradient is transformers', that of the box heads of earlier layers included."""
    ours, stock = pair()
    ours.config.transformers_compatible_loss = True
    for model in (ours.double().train(), stock.double().train()):
        torch.manual_seed(0)
        truth = [{"class_labels": x["class_labels"], "boxes": x["boxes"].double()} for x in labels(3, 1)]
        model(images().double(), labels=truth).loss.backward()
    expected = from_huggingface({name: p.grad for name, p in stock.named_parameters() if p.grad is not None})
    network = ours.base.network
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert set(found) >= set(expected) and len(expected) > 150
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}")


def test_boxes_learn_from_the_next_layer() -> None:
    """Published: a box head gets a gradient from the boxes of the next layer. Transformers cuts it."""
    model = facade(decoder={"num_denoising": 0}).train()
    head = model.model.decoder.dec_bbox_head[0].layers[-1].weight
    for switch, expected in ((False, True), (True, False)):
        model.config.transformers_compatible_loss = switch
        output = model(images(), labels=labels(3, 1))
        (gradient,) = torch.autograd.grad(output.pred_boxes.sum(), head, allow_unused=True)
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == expected


def test_published_objective() -> None:
    """The terms are those of this library's own criterion; only the encoder's have another name."""
    network = small(num_classes=5, decoder={"num_denoising": 10}).train()
    model = facade(decoder={"num_denoising": 10}).train()
    truth = [{"labels": x["class_labels"], "boxes": x["boxes"]} for x in labels(3, 1)]
    torch.manual_seed(0)
    expected = build_criterion(network.config)(network(images(), truth), truth)
    torch.manual_seed(0)
    output = model(images(), labels=labels(3, 1))
    renamed = {name.replace("_enc_0", "_aux_1"): value for name, value in expected.items()}
    assert set(output.loss_dict) == set(renamed)
    for name, value in renamed.items():
        torch.testing.assert_close(output.loss_dict[name], value)
    torch.testing.assert_close(output.loss, sum(expected.values()))


def test_batch_without_objects_trains_everything() -> None:
    model = facade(decoder={"num_denoising": 10}).train()
    model(images(), labels=labels(0, 0)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_settings() -> None:
    model = facade(decoder={"num_denoising": 10}).train()
    model.config.weight_loss_giou = 0.0
    terms = model(images(), labels=labels(3, 1)).loss_dict
    assert terms["loss_giou"] == 0 and terms["loss_bbox"] > 0
    model.config.auxiliary_loss = False
    output = model(images(), labels=labels(3, 1))
    assert list(output.loss_dict) == ["loss_vfl", "loss_bbox", "loss_giou"] and output.auxiliary_outputs is None


def _divided(rank: int, folder: str, results: list) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = facade(decoder={"num_denoising": 0}).eval()
    counts = (3, 0) if rank == 0 else (0, 1)
    for switch in (False, True):
        model.config.transformers_compatible_loss = switch
        value = model(images(), labels=labels(*counts)).loss_dict["loss_bbox"].item()
        results.append((rank, switch, value))
    dist.destroy_process_group()


@pytest.mark.slow
def test_divisor_is_the_mean_over_processes(tmp_path: Path) -> None:
    """4 objects in 2 processes: both divide by 2, with the switch by their own 3 and 1."""
    with mp.Manager() as manager:
        results = manager.list()
        mp.spawn(_divided, args=(str(tmp_path), results), nprocs=2)
        found = {(rank, switch): value for rank, switch, value in results}
    assert found[0, False] * 2 == pytest.approx(found[0, True] * 3, rel=1e-5)
    assert found[1, False] * 2 == pytest.approx(found[1, True], rel=1e-5)
