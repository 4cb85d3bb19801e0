"""The objective: known values, float32 under mixed precision, images without objects, class-agnostic selection."""

import math

import pytest
import torch

from rtdetr.config import LossConfig
from rtdetr.losses import Criterion, build_criterion
from rtdetr.losses.matcher import HungarianMatcher
from rtdetr.models import build_model
from rtdetr.structures import LayerOutput, RTDETROutput
from rtdetr.zoo import model_config

LOGITS = torch.tensor([[[2.0, -1.0], [0.5, 0.3]]])
BOXES = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.2, 0.2]]])
TARGET = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.25, 0.3, 0.3, 0.2]])}
EMPTY = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}


def test_known_values() -> None:
    losses = Criterion(LossConfig())(RTDETROutput(LOGITS, BOXES), [TARGET])
    found = {name: value.item() for name, value in losses.items()}
    assert found == pytest.approx({"loss_vfl": 1.973848, "loss_bbox": 0.75, "loss_giou": 0.666667}, abs=1e-5)


def test_boxes_weighted_by_their_iou() -> None:
    losses = Criterion(LossConfig(boxes_weight_format="iou"))(RTDETROutput(LOGITS, BOXES), [TARGET])
    assert losses["loss_giou"].item() == pytest.approx(0.444444, abs=1e-5)


def test_mal_against_its_formula() -> None:
    losses = Criterion(LossConfig(classification="mal", gamma=1.5))(RTDETROutput(LOGITS, BOXES), [TARGET])
    iou = 2 / 3
    total = 0.0
    for logit, matched in [(2.0, False), (-1.0, False), (0.5, False), (0.3, True)]:
        p = 1 / (1 + math.exp(-logit))
        t = iou**1.5 if matched else 0.0
        weight = 1.0 if matched else p**1.5
        total += weight * -(t * math.log(p) + (1 - t) * math.log(1 - p))
    assert losses["loss_mal"].item() == pytest.approx(total, rel=1e-5)


def test_focal_against_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops")
    losses = Criterion(LossConfig(classification="focal", alpha=0.25))(RTDETROutput(LOGITS, BOXES), [TARGET])
    one_hot = torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])
    expected = ops.sigmoid_focal_loss(LOGITS, one_hot, alpha=0.25, gamma=2.0, reduction="sum")
    torch.testing.assert_close(losses["loss_focal"], expected)


def test_losses_are_float32_on_half_outputs_and_survive_saturated_scores() -> None:
    logits = torch.tensor([[[60.0, -60.0], [-60.0, 60.0]]], dtype=torch.float16, requires_grad=True)
    losses = Criterion(LossConfig())(RTDETROutput(logits, BOXES), [TARGET])
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert logits.grad.isfinite().all()


def test_a_nan_prediction_is_never_preferred() -> None:
    boxes = BOXES.clone()
    boxes[0, 1] = torch.nan
    found = HungarianMatcher(LossConfig())([LayerOutput(LOGITS, boxes)], TARGET["labels"], TARGET["boxes"], [1])
    assert found[0].query.tolist() == [0]


def test_more_objects_than_queries() -> None:
    many = {"labels": torch.tensor([0, 1, 0]), "boxes": torch.rand(3, 4) * 0.3 + 0.2}
    found = HungarianMatcher(LossConfig())([LayerOutput(LOGITS, BOXES)], many["labels"], many["boxes"], [3])
    assert sorted(found[0].query.tolist()) == [0, 1]


def test_matching_all_layers_at_once_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(3)
    layers = [
        LayerOutput(torch.randn(3, q, 5, generator=generator), torch.rand(3, q, 4, generator=generator) * 0.4 + 0.3)
        for q in (20, 30, 25)
    ]
    counts = [4, 0, 7]
    labels, boxes = torch.randint(0, 5, (11,), generator=generator), torch.rand(11, 4, generator=generator) * 0.4 + 0.3
    together = HungarianMatcher(LossConfig())(layers, labels, boxes, counts)
    for layer, pairs in zip(layers, together, strict=True):
        alone = HungarianMatcher(LossConfig())([layer], labels, boxes, counts)[0]
        for a, b in zip(pairs, alone, strict=True):
            assert torch.equal(a, b)
        assert pairs.object.max() == 10 and (pairs.image[pairs.object >= 4] == 2).all()


@pytest.mark.parametrize("targets", [[EMPTY, TARGET], [EMPTY, EMPTY]])
def test_every_parameter_has_a_gradient_whatever_the_batch(targets: list) -> None:
    model = build_model("test-tiny", num_classes=2).train()
    output = model(torch.rand(2, 3, 64, 96), targets)
    losses = build_criterion("test-tiny")(output, targets)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(value.isfinite() for value in losses.values())


def test_the_final_loss_does_not_depend_on_denoising_queries() -> None:
    model = build_model("test-tiny", num_classes=2).double().train()
    images, targets = torch.rand(2, 3, 64, 64, dtype=torch.float64), [TARGET, TARGET]
    with torch.no_grad():
        plain = build_criterion("test-tiny")(model(images), targets)
        denoised = build_criterion("test-tiny")(model(images, targets), targets)
    for name, value in plain.items():
        torch.testing.assert_close(denoised[name], value, rtol=1e-9, atol=1e-9)
    assert "loss_vfl_dn_1" in denoised and "loss_vfl_dn_1" not in plain


def test_seven_hundred_objects_train() -> None:
    crowd = {"labels": torch.randint(0, 2, (700,)), "boxes": torch.rand(700, 4) * 0.4 + 0.2}
    model = build_model("test-tiny", num_classes=2).train()
    output = model(torch.rand(1, 3, 64, 64), [crowd])
    losses = build_criterion("test-tiny")(output, [crowd])
    assert output.denoising_meta.num_queries == 20
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("method", ["default", "one2many", "agnostic"])
def test_query_selection_methods_train(method: str) -> None:
    config = model_config("test-tiny").replace(num_classes=3, decoder={"query_selection": method})
    targets = [{"labels": torch.tensor([2]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}]
    model = build_model(config).train()
    losses = build_criterion(config)(model(torch.rand(1, 3, 64, 64), targets), targets)
    sum(losses.values()).backward()
    assert model.decoder.enc_score_head.out_features == (1 if method == "agnostic" else 3)
    assert losses["loss_vfl_enc_0"] > 0


def test_layers_share_the_final_match_when_asked() -> None:
    model = build_model("test-tiny", num_classes=2).train()
    targets = [TARGET]
    output = model(torch.rand(1, 3, 64, 64), targets)
    shared = build_criterion("test-tiny", loss=LossConfig(share_matched_indices=True))(output, targets)
    own = build_criterion("test-tiny")(output, targets)
    assert list(shared) == list(own)
    torch.testing.assert_close(shared["loss_bbox"], own["loss_bbox"])


def test_v1_names_the_encoder_s_terms_as_one_more_auxiliary_layer() -> None:
    output = RTDETROutput(LOGITS, BOXES, auxiliary=(LayerOutput(LOGITS, BOXES),), encoder=(LayerOutput(LOGITS, BOXES),))
    assert "loss_vfl_aux_1" in build_criterion("rtdetr_r18vd")(output, [TARGET])
    assert "loss_vfl_enc_0" in build_criterion("rtdetrv2_r18vd")(output, [TARGET])


def test_normalizer_is_at_least_one_and_may_come_from_outside() -> None:
    output = RTDETROutput(LOGITS, BOXES)
    criterion = Criterion(LossConfig())
    half = criterion(output, [TARGET], num_boxes=2.0)["loss_bbox"]
    torch.testing.assert_close(half * 2, criterion(output, [TARGET])["loss_bbox"])
    torch.testing.assert_close(criterion(output, [TARGET], num_boxes=0.25)["loss_bbox"], half * 2)
