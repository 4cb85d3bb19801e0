"""Backbones of transformers and timm under this library's encoder and decoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import rtdetr
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.hf import RTDetrV2Config, RTDetrV2ForObjectDetection
from tests.hf.pairs import facade, labels

RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "out_indices": [2, 3, 4]}
SMALL = {
    "encoder_hidden_dim": 32,
    "d_model": 32,
    "decoder_in_channels": [32] * 3,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_queries": 20,
    "num_labels": 5,
}


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def model(backbone: Any, **fields: Any) -> RTDetrV2ForObjectDetection:
    return RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=backbone, **SMALL, **fields))


def backbone(name: str) -> Any:
    if name == "resnet":
        return transformers.ResNetConfig(**RESNET)
    if name == "swin":
        return transformers.SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, out_indices=[2, 3, 4]
        )
    pytest.importorskip("timm")
    return transformers.TimmBackboneConfig(backbone=name, out_indices=[2, 3, 4], use_pretrained_backbone=False)


@pytest.mark.parametrize(
    "name", ["test_resnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet", "swin"))]
)
def test_trains_and_saves(name: str, tmp_path: Path) -> None:
    ours = model(backbone(name)).train()
    before = {key: value.clone() for key, value in ours.model.backbone.named_buffers()}
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.01)
    ours(images(), labels=labels(2, 1)).loss.backward()
    optimizer.step()
    assert not [key for key, p in ours.named_parameters() if p.requires_grad and p.grad is None]
    ours.model.freeze_backbone()
    ours.model.unfreeze_backbone()  # what is never trained stays frozen
    assert not [key for key, p in ours.named_parameters() if p.requires_grad and p.grad is None]
    for key, value in ours.model.backbone.named_buffers():
        assert torch.equal(value, before[key]), key  # frozen norms do not count either
    ours.eval().save_pretrained(tmp_path)
    again = RTDetrV2ForObjectDetection.from_pretrained(tmp_path)
    torch.testing.assert_close(again(images()).logits, ours(images()).logits)
    stock_config = transformers.RTDetrV2Config.from_pretrained(tmp_path)
    stock_config.encoder_in_channels = list(ours.model.backbone.out_channels)  # ours reads them off the backbone
    stock = transformers.RTDetrV2ForObjectDetection.from_pretrained(tmp_path, config=stock_config).eval()
    torch.testing.assert_close(stock(images()).logits, ours(images()).logits, atol=1e-5, rtol=0)


def test_detector(tmp_path: Path) -> None:
    """`rtdetr.load` does not build such backbones, and says who does."""
    odd = transformers.RTDetrResNetConfig(**RESNET, layer_type="basic")
    ours = model(odd, id2label=dict(enumerate("abcde"))).eval()
    detector = ours.to_detector(device="cpu", precision="float32", size_hw=(64, 96))
    assert detector.categories.names == list("abcde") and detector.network.is_fused
    found = detector(np.zeros((30, 40, 3), np.uint8), threshold=0.0)
    with torch.no_grad():
        expected = ours(torch.zeros(1, 3, 64, 96)).logits.sigmoid().max()
    np.testing.assert_allclose(found.scores.max(), expected, rtol=1e-4)
    ours.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"a backbone 'rt_detr_resnet' of this shape .* to_detector\(\)"):
        rtdetr.load(tmp_path)


@pytest.mark.slow
def test_frozen_norms_keep_their_activation() -> None:
    """The maps are timm's own; stock transformers loses the activation inside timm's BatchNormAct2d."""
    timm = pytest.importorskip("timm")
    ours = model(backbone("test_efficientnet")).eval()
    theirs = timm.create_model("test_efficientnet", features_only=True, out_indices=(2, 3, 4)).eval()
    state = ours.model.backbone.state_dict()
    theirs.load_state_dict({key.removeprefix("model._backbone."): value for key, value in state.items()})
    with torch.no_grad():
        for found, expected in zip(ours.model.backbone(images()), theirs(images()), strict=True):
            torch.testing.assert_close(found, expected)


def test_norms_that_train() -> None:
    ours = model(backbone("resnet"), freeze_backbone_batch_norms=False).train()
    ours(images(), labels=labels(2, 1)).loss.backward()
    norm = next(m for m in ours.model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.weight.grad is not None and norm.num_batches_tracked == 1


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_of_the_detector_alone(implementation: str) -> None:
    """A backbone without that implementation keeps its own; transformers refuses to build such a model."""
    config = RTDetrV2Config(backbone_config=backbone("resnet"), **SMALL)
    ours = RTDetrV2ForObjectDetection._from_config(config, attn_implementation=implementation)
    assert ours.config._attn_implementation == implementation
    assert ours.eval()(images()).logits.shape == (2, 20, 5)


def test_a_backbone_follows_a_change_of_attention_where_it_can() -> None:
    ours, able = model(backbone("resnet")), model(backbone("swin"))
    for implementation in ("eager", "sdpa"):
        for changed, expected in ((ours, "eager"), (able, implementation)):  # ResNet knows no other
            changed.set_attn_implementation(implementation)
            assert changed.config._attn_implementation == implementation
            assert changed.config.backbone_config is changed.model.backbone.model.config
            assert changed.config.backbone_config._attn_implementation == expected


def test_widths_of_maps_under_their_name_in_transformers() -> None:
    assert model(backbone("resnet")).model.backbone.intermediate_channel_sizes == [16, 24, 32]
    assert facade().model.backbone.intermediate_channel_sizes == list(facade().model.backbone.out_channels)


def test_gradient_checkpointing() -> None:
    ours = model(backbone("resnet"), num_denoising=0).train()
    gradients = []
    for enable in (False, True):
        if enable:
            ours.activation_checkpointing_enable()
        ours.zero_grad()
        ours(images(), labels=labels(2, 1)).loss.backward()
        gradients.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(second, first)


@pytest.mark.parametrize(
    ("out_indices", "message"),
    [([1, 2, 3], "gave a map of 16x24 .* where stride 8 was expected"), ([3, 4], "gives 2 maps, expected those")],
)
def test_wrong_maps(out_indices: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(transformers.ResNetConfig(**RESNET | {"out_indices": out_indices}))(images())
