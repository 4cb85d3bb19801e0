"""The published deploy scripts' command lines: one image in, an annotated copy out."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rtdetr
from rtdetr.models import build_model
from rtdetr.published import read_published
from rtdetr.weights import save_weights
from tests.published.files import write_over
from tests.runtimes.graphs import save_graph

SMALL = """
num_classes: 2
eval_spatial_size: [64, 64]
PResNet: {depth: 18, freeze_at: -1, freeze_norm: False, pretrained: False}
HybridEncoder: {in_channels: [128, 256, 512], hidden_dim: 32, dim_feedforward: 32, nhead: 4, expansion: 0.5}
RTDETRTransformerv2:
  {feat_channels: [32, 32, 32], hidden_dim: 32, dim_feedforward: 32, nhead: 4, num_layers: 1, num_queries: 30}
train_dataloader: {dataset: {transforms: {ops: [{type: Resize, size: [64, 64]}]}}}
val_dataloader: {dataset: {transforms: {ops: [{type: Resize, size: [64, 64]}]}}}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in, with an image."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools" / "deploy")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)).save("a.png")
    return tmp_path


def call(script: str, *arguments: object) -> int:
    return importlib.import_module(f"rtdetrv2_{script}").main([str(one) for one in arguments])


def test_torch(place, capsys):
    config = write_over(place, SMALL)
    torch.manual_seed(0)
    weights = save_weights(build_model(read_published(config).network), place / "weights.pth")
    assert call("torch", "-c", config, "-r", weights, "-f", "a.png", "-d", "cpu") == 0
    assert capsys.readouterr().out == "a.png: nothing found; results_0.jpg\n"
    with Image.open("results_0.jpg") as annotated:
        assert annotated.size == (80, 48)
    assert call("torch", "-c", config, "-r", "absent.pth", "-f", "a.png") == 2
    assert "WeightsError: " in capsys.readouterr().err


def test_onnxruntime(place, capsys):
    Image.new("RGB", (80, 48), (9, 9, 200)).save("a.png")
    file = save_graph(place / "a.onnx")
    expected = rtdetr.load(file)("a.png", threshold=0.6)
    assert len(expected)
    assert call("onnxruntime", "--onnx-file", file, "--im-file", "a.png") == 0
    found = ", ".join(f"{count} {name}" for name, count in expected.counts().items())
    assert capsys.readouterr().out == f"a.png: {found}; results_0.jpg\n"
    assert np.asarray(Image.open("results_0.jpg")).std(axis=(0, 1)).max() > 1  # something is drawn on the plain image


def test_an_onnx_file_of_the_published_tool(place, capsys):
    file = save_graph(place / "published.onnx", described=False)
    assert call("onnxruntime", "--onnx-file", file, "--im-file", "a.png") == 2
    assert "does not name its classes" in capsys.readouterr().err
    assert call("onnxruntime", "--onnx-file", file, "--im-file", "a.png", "--coco") == 0


def test_tensorrt_says_what_is_missing(place, capsys):
    (place / "a.engine").write_bytes(b"engine")
    assert call("tensorrt", "--engine", "a.engine", "--image", "a.png") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("output", ["absent/a.jpg", "a.unknown"])
def test_a_result_that_cannot_be_written(place, capsys, output):
    annotate = importlib.import_module("annotate").annotate
    file = save_graph(place / "a.onnx")
    assert annotate(lambda: rtdetr.load(file), Path("a.png"), output=Path(output), threshold=0.6) == 2
    assert f"InputError: cannot write {output}" in capsys.readouterr().err
