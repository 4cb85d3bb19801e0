"""`rtdetr export` and the published export script: files, output and errors."""

import importlib.util
import json
from pathlib import Path

import onnx
import pytest
import torch
from typer.testing import CliRunner

from rtdetr.categories import Categories
from rtdetr.cli.export import parse_axes, parse_range
from rtdetr.cli.main import app
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.runtimes.metadata import KEY
from rtdetr.weights import save_weights
from tests.published.files import write_over

TOOL = Path(__file__).parents[2] / "tools" / "export_onnx.py"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    model = build_model("test-tiny", num_classes=2)
    save_weights(model, path, categories=Categories.from_json([{"id": 1, "name": "bolt"}, {"id": 5, "name": "nut"}]))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def metadata_of(path):
    return json.loads({x.key: x.value for x in onnx.load(path).metadata_props}[KEY])


def test_a_checked_file(weights, tmp_path):
    path = tmp_path / "model.onnx"
    result = run(weights, "-o", path, "--dynamic", "batch,size", "--size", "64x96")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1].startswith(f"{path}: ") and "operators" in result.stdout
    assert "passed" in result.stdout
    found = metadata_of(path)
    assert (found["model"], found["names"], found["category_ids"]) == ("test-tiny", ["bolt", "nut"], [1, 5])
    assert (found["size_hw"], found["dynamic_batch"], found["dynamic_size"]) == ([64, 96], True, True)
    assert len(found["source_sha256"]) == 64
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]


def test_json_is_the_only_output(weights, tmp_path):
    path = tmp_path / "model.onnx"
    result = run(weights, "-o", path, "--json", "-")
    found = json.loads(result.stdout)
    assert (found["file"], found["kept_float"], found["passed"]) == (str(path), [], True)
    assert "passed" in result.stderr
    result = run(weights, "-o", path, "--no-check", "--json", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == {"file": str(path), "kept_float": []}


def test_the_format_follows_the_file_name(weights, tmp_path):
    pytest.importorskip("openvino")
    result = run(weights, "-o", tmp_path / "model.xml", "--no-check", "--precision", "float16")
    assert result.exit_code == 0, result.output
    assert sorted(x.name for x in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_an_exported_file_is_refused_as_checkpoint(weights, tmp_path):
    assert run(weights, "-o", tmp_path / "model.onnx", "--no-check").exit_code == 0
    result = run(tmp_path / "model.onnx", "-o", tmp_path / "again.onnx")
    assert result.exit_code == 2 and "Give the one it was exported from" in result.stderr


def test_a_model_without_class_names_suggests_the_option(tmp_path, caplog):
    unnamed = save_weights(build_model("test-tiny", num_classes=2), tmp_path / "unnamed.pth")
    assert run(unnamed, "-o", tmp_path / "model.onnx", "--no-check").exit_code == 0
    assert f"{unnamed} does not name its classes" in caplog.text and "--classes FILE" in caplog.text
    caplog.clear()
    (tmp_path / "names.txt").write_text("bolt\nnut\n")
    result = run(unnamed, "-o", tmp_path / "model.onnx", "--no-check", "--classes", tmp_path / "names.txt")
    assert result.exit_code == 0 and "does not name" not in caplog.text
    assert metadata_of(tmp_path / "model.onnx")["names"] == ["bolt", "nut"]


def test_no_check_and_the_default_name(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(weights, "--no-check", "--postprocess", "raw", "--layers", 1, "--queries", 9, "--opset", 13)
    assert result.exit_code == 0, result.output
    assert "passed" not in result.stdout
    assert [x.name for x in onnx.load("best.onnx").graph.output] == ["logits", "boxes"]
    assert metadata_of("best.onnx")["num_queries"] == 9


def test_a_model_that_differs_is_not_written(weights, tmp_path, monkeypatch):
    from rtdetr.export import onnx as room

    right = room.write_onnx

    def wrong(job, path):
        torch.nn.init.normal_(job.network.backbone.conv1.conv1_1.conv.weight)
        return right(job, path)

    monkeypatch.setattr(room, "write_onnx", wrong)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what was there before")
    result = run(weights, "-o", path)
    assert result.exit_code == 3
    assert "refused" in result.stdout
    assert "ExportError" in result.stderr and "was not written" in result.stderr
    assert path.read_bytes() == b"what was there before"
    assert [x.name for x in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onx"], "Did you mean 'onnx'?"),
        (["--dynamic", "bach"], "Did you mean 'batch'?"),
        (["--size", "100"], "multiples of 32"),
        (["--precision", "bf16"], "expected fp32, fp16 or int8 for format onnx, got 'bf16'"),
        (["--layers", "9"], "at most 2"),
        (["--opset", "99"], "opsets up to"),
        (["--opset", "99", "-o", "a/b/model.onnx"], "opsets up to"),
        (["-o", "model.pt"], "ending in .onnx"),
        (["-o", "model.xml", "--format", "onnx"], "the extension of model.xml is that of format openvino"),
        (["-o", "model.tflite"], "model.tflite: expected a name ending in .onnx, .xml, .engine or .pt2"),
        (
            ["--precision", "int8"],
            "INT8 needs images to calibrate on. Pass a dataset to measure AP as well (--data of ",
        ),
        (["--precision", "int8"], "or only images (--images of 'rtdetr export'"),
        (["--layers", "0"], "--layers: expected a whole number of at least 1; got 0."),
        (["--opset", "3"], "--opset: expected a whole number of at least 13; got 3."),
        (["--nms", "3"], "--nms: expected a number from 0 to 1; got 3.0."),
        (["--workspace", "-1"], "--workspace: expected a number greater than 0; got -1.0."),
        (["--precision", "int8", "--data", ".", "--no-check"], "omit --no-check"),
        (["--max-drop", "0.1"], "int8 (--max-drop) needs precision int8 (--precision), got fp32"),
        (["--queries", "5000", "--size", "64"], "at most 84, the number of tokens of an image of 64x64, got 5000"),
        (["--size", "100x64"], "the nearest are 96x64 and 128x64"),
        (["--preprocess", "--dynamic", "batch"], "dynamic axes"),
        (["--compiled"], "compiled (--compiled) needs format torch, got format onnx"),
        (
            ["--workspace", "2"],
            "engine (--workspace, --batch-range, --size-range, --timing-cache) needs format tensorrt",
        ),
        (["--batch-range", "1,2,4"], "--timing-cache) needs format tensorrt, got format onnx: leave it out"),
        (["--size-range", "32,64,96", "--format", "openvino"], "--timing-cache) needs format tensorrt"),
        (["--timing-cache", "x", "--format", "torch"], "--timing-cache) needs format tensorrt"),
        (["--opset", "18", "--format", "openvino"], "opset (--opset) needs format onnx, got format openvino"),
        (["--nms", "0.0", "--format", "torch"], "nms_iou (--nms) needs format onnx, openvino or tensorrt"),
        (["--gather-only", "--format", "torch"], "gather_only (--gather-only) needs format onnx"),
        (["--batch-range", "1,2", "--format", "tensorrt"], "such as 1,4,16, got '1,2'"),
        (["--batch-range", "1,2x2,4", "--format", "tensorrt"], "such as 1,4,16"),
        (["--size-range", "64,-96,128", "--format", "tensorrt"], "64,-96,128"),
        (["--size-range", "64,100,128", "--format", "tensorrt"], "multiples of 32"),
        (
            ["--one-label", "--postprocess", "raw"],
            "one_label (--preprocess, --nms, --one-label) need postprocess='boxes'",
        ),
    ],
)
def test_mistakes_are_one_line(weights, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run(weights, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_it_fails_before_reading(tmp_path):
    result = run(tmp_path / "absent.pth", "--format", "tensorrt", "-o", tmp_path / "model.engine")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "MissingDependencyError: cannot export to tensorrt" in result.stderr
    assert "pip install tensorrt cuda-bindings" in result.stderr


def test_an_unwritable_output(weights, tmp_path):
    (tmp_path / "file").write_text("")
    result = run(weights, "-o", tmp_path / "file" / "model.onnx", "--no-check")
    assert result.exit_code == 2 and "cannot write" in result.stderr


def test_a_damaged_checkpoint(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    result = run(tmp_path / "bad.pth", "-o", tmp_path / "model.onnx")
    assert result.exit_code == 2 and "WeightsError" in result.stderr


def test_ranges():
    assert parse_range("--batch-range", "1, 4,16") == [(1, 1), (4, 4), (16, 16)]
    assert parse_range("--size-range", "320,640,960") == [(320, 320), (640, 640), (960, 960)]
    assert parse_range("--size-range", "320x480,640,960x1280") == [(320, 480), (640, 640), (960, 1280)]


def test_axes():
    assert parse_axes("") == {}
    assert parse_axes("batch, size") == {"dynamic_batch": True, "dynamic_size": True}
    with pytest.raises(ConfigError):
        parse_axes("batch,,size")


def test_the_published_command_line(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("tools_export_onnx", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = write_over(
        tmp_path,
        """
num_classes: 2
eval_spatial_size: [64, 64]
PResNet: {depth: 18, freeze_at: -1, freeze_norm: False, pretrained: False}
HybridEncoder: {in_channels: [128, 256, 512], hidden_dim: 32, dim_feedforward: 32, nhead: 4, expansion: 0.5}
RTDETRTransformerv2:
  {feat_channels: [32, 32, 32], hidden_dim: 32, dim_feedforward: 32, nhead: 4, num_layers: 1, num_queries: 30}
train_dataloader: {dataset: {transforms: {ops: [{type: Resize, size: [64, 64]}]}}}
val_dataloader: {dataset: {transforms: {ops: [{type: Resize, size: [64, 64]}]}}}
""",
    )
    from rtdetr.published import read_published

    torch.manual_seed(0)
    weights = save_weights(build_model(read_published(config).network), tmp_path / "weights.pth")
    path = tmp_path / "out.onnx"
    assert tool.main(["-c", str(config), "-r", str(weights), "-o", str(path), "--check", "--simplify"]) == 0
    printed = capsys.readouterr().out
    assert "operators" in printed and "passed" in printed
    assert [x.name for x in onnx.load(path).graph.input] == ["images", "orig_target_sizes"]
    assert metadata_of(path)["dynamic_batch"] and metadata_of(path)["size_hw"] == [64, 64]
    assert tool.main(["-c", str(config), "-o", str(path)]) == 2
    assert "-r FILE" in capsys.readouterr().err
