"""`rtdetr quantize`: what is written and printed; the work is in rtdetr.export.quantize."""

import json

import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.weights import save_weights
from tests.export.test_quantize import dataset  # noqa: F401  (a fixture)
from tests.export.trained import CATEGORIES, trained_model


def run(*arguments):
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_unknown_format_and_missing_model_are_one_line(tmp_path) -> None:
    result = run("model.pth", tmp_path, "--format", "onxn")
    assert result.exit_code == 2 and "Did you mean 'onnx'?" in result.stderr
    result = run(tmp_path / "absent.pth", tmp_path, "--format", "onnx")
    assert result.exit_code == 2 and "absent.pth" in result.stderr and result.stderr.count("\n") == 1


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
