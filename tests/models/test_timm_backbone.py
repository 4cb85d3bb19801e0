"""Backbones of timm: which are taken, what is frozen and recomputed, checkpoints, exports; nothing is downloaded."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import rtdetr
from rtdetr import zoo
from rtdetr.config import ModelConfig, TimmConfig
from rtdetr.errors import ConfigError, MissingDependencyError, WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.models import RTDETR, build_model
from rtdetr.models.backbones import settled
from rtdetr.models.recompute import recompute_activations
from rtdetr.models.timm_backbone import TimmBackbone
from rtdetr.training.freeze import freeze
from rtdetr.weights import save_huggingface, save_weights

timm = pytest.importorskip("timm")


def config(name: str = "test_resnet", **settings) -> ModelConfig:
    return zoo.model_config("test-tiny").replace(backbone={"timm": name, **settings})


def test_settings() -> None:
    assert config().backbone == TimmConfig(timm="test_resnet")
    assert config().replace(backbone={"freeze_at": 1}).backbone == TimmConfig(timm="test_resnet", freeze_at=1)
    assert ModelConfig(backbone={"timm": "test_resnet"}).backbone.kind == "timm"
    assert ModelConfig(**config().model_dump()) == config()


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_maps_equal_timms_and_stages_are_consecutive(name: str) -> None:
    backbone = TimmBackbone(TimmConfig(timm=name)).eval()
    theirs = timm.create_model(name, features_only=True, out_indices=backbone.network.feature_info.out_indices).eval()
    theirs.load_state_dict(backbone.network.state_dict())
    images = torch.rand(1, 3, 64, 96)
    for found, expected, stride in zip(backbone(images), theirs(images), (8, 16, 32), strict=True):
        assert torch.equal(found, expected) and found.shape[-2:] == (64 // stride, 96 // stride)
    assert backbone.num_stages == 4
    parts = [part for group in backbone.stem_and_stages() for part in group]
    assert sum(p.numel() for part in parts for p in part.parameters()) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_tini", "timm has no model 'convnext_tini'. Did you mean 'convnext_tin"),
        ("test_vit", "test_vit returns maps of strides 16, expected 8, 16 and 32"),
    ],
)
def test_invalid_backbones(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(config(name))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_freezing_and_recomputing(name: str) -> None:
    """Norms with an activation inside keep it; gradients and statistics do not depend on recomputing."""
    torch.manual_seed(0)
    model = build_model(config(name))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = [x.clone() for x in model.eval().backbone(images)]
        frozen = copy.deepcopy(model)
        freeze(frozen, "backbone")
        for found, expected in zip(frozen.backbone(images), before, strict=True):
            torch.testing.assert_close(found, expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.backbone.modules())
    freeze(model, 1)
    stem_and_first = [p for group in model.backbone.stem_and_stages()[:2] for part in group for p in part.parameters()]
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    assert not any(p.requires_grad for p in stem_and_first) and trained
    again = copy.deepcopy(model)
    recompute_activations(again)
    for one in (model, again):
        one.train()(images).logits.sum().backward()
    for first, second in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)
    for first, second in zip(model.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(first, second)


def test_checkpoint_and_its_detections(tmp_path: Path) -> None:
    model = build_model(config(), num_classes=3).eval()
    save_weights(model, tmp_path / "model.pth")
    detector = rtdetr.load(tmp_path / "model.pth", device="cpu", precision="float32")
    assert detector.network.config.backbone == model.config.backbone and detector.network.is_fused
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(detector.network(images).logits, model(images).logits, atol=1e-5, rtol=1e-5)
    said = save_huggingface(model, tmp_path / "folder")
    assert "only rtdetr can read the result: transformers does not support backbone of kind 'timm'" in said
    again = rtdetr.load(tmp_path / "folder", device="cpu", precision="float32").network
    assert torch.equal(again.backbone(images)[0], detector.network.backbone(images)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("model.onnx", {}),
        ("model.onnx", {"precision": "fp16"}),
        ("model.onnx", {"dynamic_size": True, "dynamic_batch": True}),
        ("model.xml", {"format": "openvino"}),
        ("model.pt2", {"format": "torch"}),
    ],
)
def test_exports_agree(name: str, file: str, options: dict, tmp_path: Path) -> None:
    model = build_model(config(name)).eval()
    result = export(model, tmp_path / file, options=ExportOptions(size_hw=(64, 96), **options), check=True)
    assert result.report is not None and result.report.passed


def test_pretrained_weights_are_fetched_once_and_normalized_for(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = config(pretrained=True)
    network = RTDETR(wanted)  # builds alone, as for a checkpoint
    expected = timm.get_pretrained_cfg("test_resnet")
    assert network.config.pixel_mean == tuple(expected.mean) and network.config.pixel_std == tuple(expected.std)
    assert not network.config.backbone.is_pretrained and settled(network.config) == network.config
    assert settled(wanted.replace(pixel_mean=(0.0, 0.0, 0.0))).pixel_std is None
    assert settled(wanted.replace(in_channels=1)).pixel_mean == pytest.approx((sum(expected.mean) / 3,))
    create = timm.create_model

    def offline(*names, **options):
        if options.get("pretrained"):
            raise OSError("no route to host\nmore")
        return create(*names, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"weights of test_resnet: no route to host\. Check the connection"):
        build_model(wanted)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(MissingDependencyError, match="pip install timm"):
        build_model(config())
