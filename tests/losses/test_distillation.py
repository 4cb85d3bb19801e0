"""Loss terms of a teacher: known values, classes and queries in any number, nothing to learn from itself."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rtdetr.config import DistillationConfig, LossConfig
from rtdetr.losses import Distillation, HungarianMatcher
from rtdetr.losses.distillation import attention_loss
from rtdetr.models import RTDETR, build_model
from rtdetr.structures import Guidance, GuidedQueries, LayerOutput, RTDETROutput
from rtdetr.training.teacher import Teacher

QUERIES = GuidedQueries(torch.tensor([[0, 1]]), torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.2, 0.2]]]))
GUIDANCE = Guidance(
    QUERIES,
    probabilities=torch.tensor([[[0.8, 0.1], [0.05, 0.02]]]),
    boxes_cxcywh=torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.2, 0.2]]]),
    labels=torch.tensor([2, 0]),
    encoder_maps=(),
)
LOGITS = torch.tensor([[[0.5, -1.0, 2.0], [-3.0, 4.0, -2.0]]])
BOXES = torch.tensor([[[0.5, 0.5, 0.4, 0.2], [0.2, 0.3, 0.2, 0.2]]])


def distillation(**changes: Any) -> Distillation:
    return Distillation(DistillationConfig(**changes), matcher=HungarianMatcher(LossConfig()))


def quality(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return (target - p) ** 2 * -(target * math.log(p) + (1 - target) * math.log(1 - p))


def numbers(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in terms.items()}


def batch(count: int = 2) -> tuple[Tensor, list[Any]]:
    images = torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    one = {"labels": torch.tensor([1]), "boxes": torch.tensor([[0.25, 0.3, 0.3, 0.2]])}
    empty = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}
    return images, [one if i % 2 == 0 else empty for i in range(count)]


def network(model: str = "test-tiny", **changes: Any) -> RTDETR:
    torch.manual_seed(0)
    return build_model(model, num_classes=3, **changes)


def test_known_values_of_guided_queries() -> None:
    output = RTDETROutput(LOGITS, BOXES, guided=(LayerOutput(LOGITS, BOXES),))
    found = numbers(distillation(matched_weight=0)(output, GUIDANCE, total_score=2.0, num_images=1.0))
    entropy = quality(2.0, 0.8) + quality(0.5, 0.1) + quality(-2.0, 0.05) + quality(-3.0, 0.02)
    assert found == pytest.approx(
        {
            "loss_guided_classification": entropy / 2,
            "loss_guided_bbox": 5 * 0.8 * 0.2 / 2,
            "loss_guided_giou": 2 * 0.8 * 0.5 / 2,
        },
        abs=1e-6,
    )


def test_only_detections_with_a_score_are_matched() -> None:
    found = numbers(
        distillation(guided_weight=0)(RTDETROutput(LOGITS, BOXES), GUIDANCE, total_score=1.0, num_images=1.0)
    )
    assert found == pytest.approx(
        {
            "loss_matched_classification": quality(2.0, 0.8) + quality(0.5, 0.1),
            "loss_matched_bbox": 5 * 0.8 * 0.2,
            "loss_matched_giou": 2 * 0.8 * 0.5,
        },
        abs=1e-6,
    )
    nothing = distillation(guided_weight=0, min_score=0.9)(
        RTDETROutput(LOGITS, BOXES), GUIDANCE, total_score=1.0, num_images=1.0
    )
    assert set(numbers(nothing).values()) == {0.0}


def test_the_score_of_a_batch_counts_detections_only() -> None:
    assert distillation().score(GUIDANCE) == pytest.approx(0.8)
    assert distillation(min_score=0.0).score(GUIDANCE) == pytest.approx(0.85)


def test_attention_does_not_depend_on_scale_and_width() -> None:
    maps = torch.rand(2, 8, 4, 6)
    wider = torch.cat([maps, maps], dim=1) * 3
    assert attention_loss((maps,), (wider,)).item() == pytest.approx(0, abs=1e-10)
    assert attention_loss((maps,), (wider.flip(-1),)).item() > 0.01


@pytest.mark.parametrize("selection", ["default", "agnostic", "one2many"])
def test_a_teacher_of_another_size_reaches_every_weight(selection) -> None:
    images, targets = batch()
    teacher = Teacher(network("demo"), {0: 0, 1: 1, 2: 2}, name="demo")
    student = build_model(network().config.replace(decoder={"query_selection": selection}))
    guidance = teacher(images)
    output = student.train()(images, targets, guide=guidance.queries)
    assert [layer.logits.shape[1] for layer in output.guided] == [40, 40, 40]
    assert output.logits.shape[1] == 30
    terms = distillation(maps_weight=1.0, min_score=0.0)(output, guidance, total_score=1.0, num_images=1.0)
    assert len(terms) == 7 and all(value.isfinite() for value in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in student.parameters())


def test_a_teacher_of_the_first_version() -> None:
    images, targets = batch()
    first = build_model(network("demo").config.replace(version="v1", name="first"))
    guidance = Teacher(first, {0: 0, 1: 1, 2: 2}, name="first")(images)
    output = network().train()(images, targets, guide=guidance.queries)
    terms = distillation()(output, guidance, total_score=1.0, num_images=1.0)
    assert all(value.isfinite() for value in terms.values())


def test_guided_queries_do_not_change_the_others() -> None:
    images, targets = batch()
    student, teacher = network().train(), Teacher(network("demo"), {0: 2}, name="demo")
    torch.manual_seed(1)
    alone = student(images, targets)
    torch.manual_seed(1)
    guided = student(images, targets, guide=teacher(images).queries)
    torch.testing.assert_close(guided.logits, alone.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(guided.boxes_cxcywh, alone.boxes_cxcywh, rtol=0, atol=1e-6)
    assert alone.guided == () and guided.guided[0].logits.shape == (2, 40, 3)


def test_no_queries_are_decoded_for_terms_without_weight() -> None:
    images, targets = batch()
    student, teacher = network().train(), Teacher(network("demo"), {0: 2}, name="demo")
    guidance, unguided = teacher(images), distillation(guided_weight=0, maps_weight=1.0)
    found = []
    for queries in (guidance.queries, unguided.queries(guidance)):
        torch.manual_seed(1)
        output = student(images, targets, guide=queries)
        found.append(numbers(unguided(output, guidance, total_score=1.0, num_images=1.0)))
    assert output.guided[0].logits.shape[1] == 0
    assert found[1] == pytest.approx(found[0], rel=1e-5) and "loss_maps" in found[1]
    assert distillation().queries(guidance) == guidance.queries


def test_a_network_answers_its_own_queries_as_in_eval_mode() -> None:
    images, targets = batch()
    student = network().eval()
    guidance = Teacher(student, {0: 0, 1: 1, 2: 2}, name="itself")(images)
    same = copy.deepcopy(student).train()
    for module in same.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    output = same(images, targets, guide=guidance.queries)
    torch.testing.assert_close(output.guided[-1].logits.sigmoid(), guidance.probabilities, rtol=0, atol=1e-5)
    torch.testing.assert_close(output.guided[-1].boxes_cxcywh, guidance.boxes_cxcywh, rtol=0, atol=1e-5)
    assert distillation(maps_weight=1.0)(output, guidance, total_score=1.0, num_images=1.0)["loss_maps"].item() < 1e-9


def test_learned_queries_of_the_student_are_repeated_for_a_teacher_with_more() -> None:
    images, targets = batch()
    teacher = Teacher(network("demo"), {0: 0, 1: 1, 2: 2}, name="demo")
    student = build_model(network().config.replace(decoder={"learned_queries": True})).train()
    guidance = teacher(images)
    output = student(images, targets, guide=guidance.queries)
    assert output.guided[-1].logits.shape == (2, 40, 3)


def test_terms_are_float32_on_half_outputs() -> None:
    half = LayerOutput(LOGITS.half(), BOXES)
    terms = distillation()(RTDETROutput(*half, guided=(half,)), GUIDANCE, total_score=1.0, num_images=1.0)
    assert all(value.dtype == torch.float32 for value in terms.values())
