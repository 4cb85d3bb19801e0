"""Profiles: every engine reports its operators, which are summed per stage and type, and a floor."""

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from rtdetr.benchmark import profile, profile_table
from rtdetr.benchmark.measure import sample_photo
from rtdetr.benchmark.profile import Operation, _by_kind, _by_stage, _medians, stage_of
from rtdetr.cli.main import app
from rtdetr.errors import InputError
from rtdetr.export import ExportOptions, export
from rtdetr.models import build_model
from rtdetr.runtimes import load
from tests.benchmark.test_measure import Sleeper
from tests.export.trained import sample_images, trained_model

SIZE = (256, 320)
STAGES = {
    "backbone.conv1",
    "backbone.res_layers.3",
    "encoder.encoder.0",
    "encoder.fpn_blocks.1",
    "encoder.pan_blocks.0",
}
STAGES |= {"decoder.enc_score_head", "decoder.decoder.layers.1", "decoder.dec_bbox_head.0"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network that is small, but not so small that the engine takes longer than the operators."""
    folder = tmp_path_factory.mktemp("profile")
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=3)
    options = ExportOptions(size_hw=SIZE)
    for name in ("model.onnx", "model.xml"):
        export(model, folder / name, options=options)
    export(model, folder / "any.onnx", options=ExportOptions(dynamic_batch=True, dynamic_size=True))
    torch.save(model.state_dict(), folder / "model.pth")
    return folder


@pytest.mark.parametrize(
    ("name", "convolution"),
    [("model.pth", "convolution"), ("model.onnx", "Conv"), ("any.onnx", "Conv"), ("model.xml", "Convolution")],
)
def test_every_engine_reports_stages_operators_and_a_floor(files, name, convolution):
    detector = load(files / name, device="cpu")
    found = profile(name, detector, sample_photo(), size_hw=SIZE, rounds=3)
    assert set(found.stages) >= STAGES
    assert not any(stage.startswith("decoder.layers") for stage in found.stages)
    assert found.kinds[convolution][1] > 20
    assert found.floor_ms > 0 and found.network_ms > 0
    lines = profile_table(found).splitlines()
    assert lines[0].startswith(f"{name}: test-tiny (3 classes) in ")
    numbers = re.match(
        r"network ([\d.]+) ms, floor ([\d.]+) ms .* above it (-?[\d.]+) ms, ([\d.]+)x the floor", lines[1]
    )
    assert numbers and float(numbers[1]) == pytest.approx(found.network_ms, abs=0.06)


def test_stages_of_names():
    assert stage_of("backbone.res_layers.2.blocks.1.branch2a.conv") == "backbone.res_layers.2"
    assert stage_of("backbone.conv1.conv1_1") == "backbone.conv1"
    assert stage_of("backbone.stages.0.blocks.1.layers.3/WithoutBiases") == "backbone.stages.0"
    assert stage_of("decoder.decoder.layers.1.cross_attn") == "decoder.decoder.layers.1"
    assert stage_of("decoder.input_proj.2.values.1") == "decoder.input_proj.2"
    assert stage_of("decoder.decoder.layers.0_54") == "decoder.decoder.layers.0"
    assert stage_of("Concat_123") is None
    run = [Operation("", "Add", 1), Operation("encoder.encoder.0.norm", "Mul", 2), Operation("Sigmoid_3", "Sigmoid", 4)]
    assert _by_stage(run) == {"encoder.encoder.0": 3, "other": 4}


def test_medians_over_runs():
    runs = [[Operation("encoder.encoder.0", "Add", ms), Operation("", "Mul", 2 * ms)] for ms in (1.0, 5.0, 3.0)]
    assert _medians([_by_stage(run) for run in runs]) == {"encoder.encoder.0": 3.0, "other": 6.0}
    assert list(_by_kind(runs).items()) == [("Mul", (6.0, 1)), ("Add", (3.0, 1))]  # slowest first


def test_no_floor_for_operators_that_are_not_measured_alone(tmp_path):
    export(build_model("test-tiny", num_classes=3), tmp_path / "half.onnx", options=ExportOptions(precision="fp16"))
    found = profile("half", load(tmp_path / "half.onnx"), sample_photo(), rounds=2)
    assert found.floor_ms is None and found.kinds["Conv"][0] > 0
    assert "floor not measured" in profile_table(found)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_no_floor_for_int8(tmp_path, suffix):
    options = ExportOptions(precision="int8")
    export(trained_model(), tmp_path / f"m{suffix}", options=options, images=sample_images()[0])
    found = profile("int8", load(tmp_path / f"m{suffix}"), sample_photo(), rounds=2)
    assert found.floor_ms is None and found.network_ms > 0


def test_only_some_runtimes_can_be_profiled():
    with pytest.raises(InputError, match="own cannot be profiled: only PyTorch models"):
        profile("own", Sleeper(), sample_photo(size_wh=(40, 30)))


def test_only_the_cpu_can_be_profiled(files):
    detector = load(files / "model.onnx")
    detector.where = "CUDA (ONNX Runtime)"
    with pytest.raises(InputError, match="use --device cpu"):
        profile("gpu", detector, sample_photo())


def test_the_command(files, tmp_path):
    fast = ["--rounds", "2", "--warmup", "0", "--no-memory", "--profile", "--json", str(tmp_path / "speed.json")]
    result = CliRunner().invoke(app, ["benchmark", str(files / "model.onnx"), str(files / "model.xml"), *fast])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("x the floor") == 2
    profiles = json.loads((tmp_path / "speed.json").read_text())["profiles"]
    assert [one["name"].rpartition(".")[2] for one in profiles] == ["onnx", "xml"]
    assert all(one["floor_ms"] > 0 for one in profiles)
