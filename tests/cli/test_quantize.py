"""`rtdetr quantize`: what is written and printed; the work is in rtdetr.export.quantize."""

import json

import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.export import quantize as module
from rtdetr.models import build_model
from rtdetr.weights import save_weights
from tests.export.test_quantize import dataset  # noqa: F401  (a fixture)
from tests.export.trained import CATEGORIES, sample_images, trained_model


def run(*arguments):
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_unknown_format_and_missing_model_are_one_line(tmp_path) -> None:
    result = run("model.pth", tmp_path, "--format", "onxn")
    assert result.exit_code == 2 and "Did you mean 'onnx'?" in result.stderr
    result = run(tmp_path / "absent.pth", tmp_path, "--format", "onnx")
    assert result.exit_code == 2 and "absent.pth" in result.stderr and result.stderr.count("\n") == 1


def test_images_to_calibrate_on_are_searched_in_subfolders(tmp_path) -> None:
    save_weights(build_model("test-tiny"), tmp_path / "model.pth")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(tmp_path / "photos" / "more" / "a.png")
    given = (tmp_path / "model.pth", "--calibration", tmp_path / "photos", "--output", tmp_path / "int8.ONNX")
    result = run(*given)
    assert result.exit_code == 2 and "cannot calibrate on 1 image of one color each" in result.stderr
    result = run(*given, "--no-recursive")
    assert result.exit_code == 2 and "but 1 in its subfolders: add --recursive" in result.stderr


@pytest.mark.slow
def test_a_file_and_its_numbers(tmp_path, dataset) -> None:  # noqa: F811
    save_weights(trained_model(), tmp_path / "model.pth", categories=CATEGORIES)
    numbers = tmp_path / "numbers.json"
    output = ("--output", tmp_path / "int8.onnx", "--json", numbers)
    result = run(
        tmp_path / "model.pth", dataset.sources[0].annotations_file, "--format", "onnx", "--max-drop", "0.05", *output
    )
    assert result.exit_code == 0, result.output
    assert "AP" in result.stdout and "passed" in result.stdout and (tmp_path / "int8.onnx").is_file()
    assert json.loads(numbers.read_text())["ap_drop"] <= 0.05


@pytest.mark.slow
def test_export_with_precision_int8(tmp_path, dataset) -> None:  # noqa: F811
    save_weights(trained_model(), tmp_path / "model.pth", categories=CATEGORIES)
    data = dataset.sources[0].annotations_file
    command = ["export", tmp_path / "model.pth", "-o", tmp_path / "int8.onnx", "--precision", "int8", "--data", data]
    result = CliRunner().invoke(app, [*map(str, command), "--max-drop", "0.05"])
    assert result.exit_code == 0, result.output
    assert "AP" in result.stdout and "passed" in result.stdout
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 10


@pytest.mark.slow
def test_images_without_annotations(tmp_path, caplog) -> None:
    save_weights(trained_model(), tmp_path / "model.pth", categories=CATEGORIES)
    for number, picture in enumerate(sample_images()[0]):
        picture.save(tmp_path / f"{number}.png")
    result = run(tmp_path / "model.pth", "--calibration", tmp_path, "--output", tmp_path / "int8.onnx")
    assert result.exit_code == 0, result.output
    assert "INT8 is judged by AP" in caplog.text and "matched" in result.stdout
    result = run(tmp_path / "model.pth", "--output", tmp_path / "other.onnx")
    assert result.exit_code == 2 and "INT8 needs images to calibrate on" in result.stderr


@pytest.mark.slow
def test_too_large_a_drop_of_ap_is_refused(tmp_path, dataset, monkeypatch) -> None:  # noqa: F811
    save_weights(trained_model(), tmp_path / "model.pth", categories=CATEGORIES)
    losses = iter([0.9])
    monkeypatch.setattr(module, "measure_ap", lambda *arguments, **options: next(losses, 0.2))
    monkeypatch.setattr(module, "stages_of", lambda network: ["backbone.conv1", "encoder.input_proj.0"])
    result = run(tmp_path / "model.pth", dataset.sources[0].annotations_file, "--output", tmp_path / "int8.onnx")
    assert result.exit_code == 3
    assert "AP drops by 0.7000" in result.stderr and "was not written" in result.stderr
    assert not (tmp_path / "int8.onnx").exists()
