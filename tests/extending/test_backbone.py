"""The section "Add a backbone" of docs/extending.md."""

from pathlib import Path

import pytest
import yaml

from rtdetr import zoo
from rtdetr.models import build_model
from rtdetr.weights.model_file import described_network
from tests.extending.own_copy import OwnCopy, blocks

SCRIPT = """
import torch, rtdetr
from rtdetr import zoo
from rtdetr.export import ExportOptions, export
from rtdetr.models import build_model
from rtdetr.models.recompute import recompute_activations
from rtdetr.training.freeze import freeze
from rtdetr.weights import save_weights

config = zoo.model_config("test-tiny").replace(backbone={"kind": "plain", "width": 8, "freeze_at": 0})
model = build_model(config)
model(torch.rand(2, 3, 64, 64)).logits.sum().backward()
assert model.backbone.stem[0].conv.weight.grad is None
freeze(model, 2)
recompute_activations(model)
model(torch.rand(2, 3, 64, 64)).logits.sum().backward()
save_weights(model, "plain.pth")
assert rtdetr.load("plain.pth", device="cpu").network.config.backbone.width == 8
export("plain.pth", "plain.onnx", options=ExportOptions(size_hw=(64, 64)), check=True)
"""


def test_one_of_timm() -> None:
    pytest.importorskip("timm")
    file, program = blocks("Add a backbone")[:2]
    config = described_network(yaml.safe_load(file)["model"])
    assert config.backbone.model_dump()["timm"] == "convnext_tiny" and config.backbone.is_pretrained
    small = program.replace("convnext_tiny", "test_convnext").replace("rtdetrv2_r18vd", "test-tiny")
    names = {}
    exec(small, names)
    assert names["model"].backbone.out_channels == (32, 48, 64)
    assert build_model(zoo.model_config("test-tiny")).config.backbone.kind == "presnet"


@pytest.mark.slow
def test_your_own(tmp_path: Path) -> None:
    settings, field, code, table = blocks("Add a backbone")[2:]
    copy = OwnCopy(tmp_path)
    copy.replace("config.py", "class EncoderConfig(", f"{settings}\n\nclass EncoderConfig(")
    lines = (tmp_path / "rtdetr" / "config.py").read_text().splitlines()
    copy.replace("config.py", f"{next(line for line in lines if '| TimmConfig' in line)}\n", field)
    (tmp_path / "rtdetr" / "models" / "plain.py").write_text(code)
    known = '{"presnet": PResNet, "hgnetv2": HGNetv2, "timm": TimmBackbone}'
    copy.replace(
        "models/backbones.py",
        f"BACKBONES: dict[str, type[Backbone]] = {known}\n",
        f"from rtdetr.models.plain import Plain\n\n{table}",
    )
    copy.run(SCRIPT)
