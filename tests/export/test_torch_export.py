"""Programs for PyTorch give the same numbers without this library's code, and contain the metadata."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rtdetr.errors import ConfigError, ExportError
from rtdetr.export import ExportOptions, Source, export
from rtdetr.export.job import prepared
from rtdetr.export.torch_export import ExportGraph
from rtdetr.export.verify import TOLERANCES, verify
from rtdetr.models import build_model
from rtdetr.runtimes import load
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import save_weights
from tests.export.trained import CATEGORIES, sample_images, trained_detector, trained_model


def exported(model, path: Path, **settings):
    return export(Source(model, CATEGORIES), path, options=ExportOptions(format="torch", **settings))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model("test-tiny", num_classes=3).eval()


@pytest.mark.slow
def test_a_program_gives_the_graphs_numbers_and_its_description(model, tmp_path) -> None:
    result = exported(model, tmp_path / "model.pt2", postprocess="raw")
    stored = {"rtdetr": ""}
    program = torch.export.load(result.path, extra_files=stored).module()
    assert stored["rtdetr"] == result.metadata.to_json()
    images = torch.rand(1, 3, 64, 64)
    graph = ExportGraph(prepared(model, ExportOptions(postprocess="raw")), postprocess="raw")
    with torch.no_grad():
        for value, expected in zip(program(images), graph(images), strict=True):
            torch.testing.assert_close(value, expected)
    assert result.num_nodes and [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"precision": "int8"}, "expected fp32, fp16 or bf16"), ({"nms_iou": 0.5}, "no NMS")],
)
def test_unsupported_options_are_refused(model, tmp_path, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        exported(model, tmp_path / "model.pt2", **settings)


def test_a_compiler_is_needed(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("rtdetr.export.torch_export.trace", lambda *arguments: pytest.fail("work before the error"))
    with pytest.raises(ExportError, match="needs a C\\+\\+ compiler"):
        exported(model, tmp_path / "model.pt2", compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_detections(tmp_path, precision) -> None:
    result = exported(trained_model(), tmp_path / "model.pt2", precision=precision)
    tolerance = TOLERANCES[precision]
    report = verify(result.path, trained_detector(), images=sample_images()[0], tolerance=tolerance, threshold=0.5)
    assert report.passed and report.agreement.num_reference >= 9, report.reason


@pytest.mark.slow
def test_dynamic_axes(model, tmp_path) -> None:
    # in a process of its own: here the tests' type checks take free sizes for wrong ones
    save_weights(model, tmp_path / "model.pth", categories=CATEGORIES)
    options = ["--format", "torch", "--dynamic", "batch,size", "--no-check", "--output", tmp_path / "model.pt2"]
    command = [sys.executable, "-m", "rtdetr", "export", tmp_path / "model.pth", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    program = torch.export.load(tmp_path / "model.pt2").module()
    network = prepared(model, ExportOptions())
    network.decoder.eval_sizes_hw = None
    graph = ExportGraph(network)
    for batch, height, width in ((1, 64, 64), (3, 96, 64), (8, 64, 160)):
        feed = torch.rand(batch, 3, height, width), torch.full((batch, 2), 100)
        with torch.no_grad():
            for value, expected in zip(program(*feed), graph(*feed), strict=True):
                torch.testing.assert_close(value, expected)


@pytest.mark.slow
def test_images_of_any_size_are_resized_in_the_graph(model, tmp_path) -> None:
    result = exported(model, tmp_path / "model.pt2", preprocess=True)
    program = torch.export.load(result.path).module()
    for height, width in ((480, 640), (33, 71)):
        labels, boxes, scores = program(torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8))
        assert labels.shape == scores.shape == boxes.shape[:2] and boxes.isfinite().all()


@pytest.mark.slow
def test_a_compiled_package_runs_without_this_library(tmp_path) -> None:
    result = exported(trained_model(), tmp_path / "model.pt2", compiled=True, num_layers=1)
    reference = TorchDetector(prepared(trained_model(), ExportOptions(num_layers=1)), CATEGORIES, precision="float32")
    report = verify(result.path, reference, images=sample_images()[0], threshold=0.5)
    assert report.passed, report.reason
    assert load(result.path).categories == CATEGORIES
    code = (
        "import sys, torch; package = torch._inductor.aoti_load_package(sys.argv[1]);"
        f"print(package(torch.zeros(1, 3, {result.metadata.size_hw[0]}, {result.metadata.size_hw[1]}),"
        " torch.tensor([[5, 7]]))[1].shape); assert 'rtdetr' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(result.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "torch.Size([1, 90, 4])" in done.stdout, done.stderr[-500:]
