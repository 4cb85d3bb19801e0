"""Denoising queries: recorded values, layout, bounds."""

import pytest
import torch
from torch import nn

import rtdetr
from rtdetr.config import DecoderConfig
from rtdetr.models.denoising import make_denoising_queries

TARGETS = [
    {
        "labels": torch.tensor([0, 17, 79]),
        "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.25, 0.3, 0.2, 0.25], [0.7, 0.65, 0.3, 0.5]]),
    },
    {"labels": torch.tensor([5]), "boxes": torch.tensor([[0.4, 0.6, 0.5, 0.6]])},
]
EMPTY = {"labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}


def labels_embedding() -> nn.Embedding:
    """An embedding whose first value is the label."""
    embedding = nn.Embedding(81, 4, padding_idx=80)
    with torch.no_grad():
        embedding.weight[:, 0] = torch.arange(81)
    return embedding


def crowd(count: int) -> dict:
    return {"labels": torch.arange(count) % 80, "boxes": torch.rand(count, 4) * 0.4 + 0.1}


def test_recorded_values() -> None:
    embedding = labels_embedding()
    torch.manual_seed(0)
    content, logits, allowed, meta = make_denoising_queries(TARGETS, embedding, DecoderConfig(), num_queries=300)
    assert (meta.num_groups, meta.num_queries) == (33, 198)
    assert allowed.shape == (498, 498)
    assert (~allowed).sum() == 97416
    classes = content[..., 0].long()
    assert classes[0, :12].tolist() == [0, 17, 14, 33, 17, 79, 0, 17, 79, 0, 17, 79]
    assert classes[1, :12].tolist() == [36, 80, 80, 5, 80, 80, 56, 80, 80, 5, 80, 80]
    expected = torch.tensor([-0.142036, -0.217575, -2.149888, -1.558294])
    torch.testing.assert_close(logits[0, 0], expected, rtol=0, atol=2e-6)
    expected = torch.tensor([-0.353465, 0.614190, 0.301104, -1.178126])
    torch.testing.assert_close(logits[1, 0], expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(logits[1, 1], torch.full((4,), -11.512925), rtol=0, atol=1e-5)
    expected = torch.tensor([0.522251, 0.531957, 0.945638, 0.00001])
    torch.testing.assert_close(logits[0, 3].sigmoid(), expected, rtol=0, atol=2e-6)


def test_attention_mask() -> None:
    config = DecoderConfig(num_denoising=4)
    _, _, allowed, meta = make_denoising_queries([TARGETS[1]], labels_embedding(), config, num_queries=3)
    assert meta.num_queries == 8
    assert not allowed[8:, :8].any()
    assert allowed[:, 8:].all()
    assert allowed[:2, :2].all() and not allowed[:2, 2:8].any()


def test_no_object_in_the_whole_batch() -> None:
    content, logits, _, meta = make_denoising_queries(
        [EMPTY, EMPTY], labels_embedding(), DecoderConfig(), num_queries=5
    )
    assert meta.num_queries == 2
    assert [len(x) for x in meta.positive_indices] == [0, 0]
    assert content.requires_grad and torch.isfinite(logits).all()


def test_many_objects_do_not_exceed_the_limit_of_queries() -> None:
    queries = make_denoising_queries([crowd(700), crowd(3)], labels_embedding(), DecoderConfig(), num_queries=300)
    assert queries.meta.num_queries == 200
    assert queries.meta.object_indices[0].unique().numel() == 100
    assert queries.meta.object_indices[1].tolist() == [0, 1, 2]
    targets, config = [crowd(700), crowd(3)], DecoderConfig()
    queries = make_denoising_queries(
        targets, labels_embedding(), config.replace(denoise_every_object=True), num_queries=300
    )
    assert queries.meta.num_queries == 1400 and len(queries.meta.object_indices[0]) == 700


def test_denoise_every_object_gives_published_behavior() -> None:
    config = rtdetr.zoo.model_config("test-tiny")  # 10 denoising queries
    images, targets = torch.rand(1, 3, 64, 64), [crowd(25)]
    for every_object, found in ((False, 10), (True, 25)):
        model = rtdetr.build_model(config.replace(decoder={"denoise_every_object": every_object})).train()
        meta = model(images, targets).denoising_meta
        assert (meta.num_queries, len(meta.object_indices[0])) == (2 * found, found)


def test_without_noise_the_queries_are_the_objects() -> None:
    config = DecoderConfig(num_denoising=2, label_noise_ratio=0.0, box_noise_scale=0.0)
    content, logits, _, _ = make_denoising_queries([TARGETS[1]], labels_embedding(), config, num_queries=1)
    assert content[0, :, 0].tolist() == [5, 5, 5, 5]
    torch.testing.assert_close(logits[0].sigmoid(), TARGETS[1]["boxes"].expand(4, 4))


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_noise_stays_within_its_limits(scale: float) -> None:
    config = DecoderConfig(num_denoising=100, label_noise_ratio=0.0, box_noise_scale=scale)
    box = torch.tensor([[0.5, 0.5, 0.2, 0.1]])
    target = {"labels": torch.tensor([1]), "boxes": box}
    _, logits, _, meta = make_denoising_queries([target], labels_embedding(), config, num_queries=1)
    centers = logits[0, meta.positive_indices[0]].sigmoid()[:, :2]
    assert ((centers - 0.5).abs() <= torch.tensor([0.1, 0.05]) * scale + 1e-5).all()
    assert ((centers - 0.5).abs() > 0).any()
