"""`rtdetr benchmark`: files side by side, a table on stdout, and the numbers and a chart in files."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rtdetr.cli.main import app
from tests.runtimes.graphs import make_metadata, save_graph


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    raw = make_metadata(postprocess="raw", dynamic_batch=True, dynamic_size=True)
    return [str(save_graph(folder / "a.onnx")), str(save_graph(folder / "b.onnx", raw))]


def run(*arguments):
    fast = ["--rounds", "2", "--warmup", "0", "--threads", "1", "--no-memory"]
    return CliRunner().invoke(app, ["benchmark", *map(str, arguments), *fast])


def test_a_table_numbers_and_a_chart(files, tmp_path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    data, chart = tmp_path / "out" / "speed.json", tmp_path / "speed.svg"
    result = run(
        *files,
        "--images",
        tmp_path / "photo.png",
        "--batch-size",
        1,
        "--batch-size",
        3,
        "--json",
        data,
        "--chart",
        chart,
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == [*files, *files]
    assert "float32 on CPU (ONNX Runtime) at 64x64, 1 thread" in lines[1]
    assert "processor" in lines[-1]
    rows = json.loads(data.read_text())["measurements"]
    assert [row["batch_size"] for row in rows] == [1, 1, 3, 3]
    assert chart.read_text().startswith("<?xml")


def test_a_broken_photo_is_named(files, tmp_path):
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    result = run(files[0], "--images", tmp_path)
    assert result.exit_code == 2 and str(tmp_path / "b.jpg") in result.stderr.splitlines()[-1]


def test_json_on_stdout(files):
    result = run(files[0], "--json", "-")
    assert json.loads(result.stdout)["measurements"][0]["name"] == files[0]


def test_mistakes_are_one_line(files, tmp_path):
    for arguments, message in (
        ([tmp_path / "none.onnx"], "no such ONNX file"),
        ([files[0], "--images", tmp_path], "no image found"),
        ([files[0], "--size", "32"], "exported for images of 64x64 only"),
        ([files[0], "--device", "gpu"], "unknown device 'gpu'"),
        ([files[0], "--chart", tmp_path / "a.txt"], "expected a chart file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr.splitlines()[-1]


def test_classes_apply_only_to_files_without_names(files, tmp_path):
    published = save_graph(tmp_path / "published.onnx", described=False)
    assert run(files[0], published).exit_code == 2
    result = run(files[0], published, "--classes", "voc", "--config", "test-tiny")
    assert result.exit_code == 0 and "published.onnx" in result.stdout, result.output
    result = run(files[0], published, "--classes", "vok")
    assert result.exit_code == 2 and "no such file of class names: vok" in result.stderr


def test_tuned_settings_are_measured_stored_and_used(tmp_path, caplog):
    file = save_graph(tmp_path / "model.onnx", make_metadata(dynamic_batch=True))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(photo)
    data = tmp_path / "speed.json"
    result = run(file, "--throughput", "--save-tuned", "--batch-size", 2, "--json", data)
    assert result.exit_code == 0, result.output
    assert "highest throughput: 1 stream of 1 thread, batch size" in result.stdout  # of --threads 1
    (found,) = json.loads(data.read_text())["throughput"]
    assert [row["batch_size"] for row in found["settings"]] == [1, 2]
    stored = json.loads((tmp_path / "model.onnx.tuned.json").read_text())
    assert stored["streams"].items() <= found["best_throughput"].items()
    options = ["--rounds", "1", "--warmup", "0", "--no-memory", "--tuned"]
    result = CliRunner().invoke(app, ["benchmark", str(file), *options])
    assert result.exit_code == 0 and "lists in 1 stream of 1 thread" in result.stdout, result.output
    result = CliRunner().invoke(app, ["predict", str(photo), "--model", str(file), "--tuned"])
    assert result.exit_code == 0 and result.stdout.startswith(f"{photo}: "), result.output
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_mistakes_about_tuned_settings_are_one_line(files, tmp_path):
    for arguments, message in (
        ([files[0], "--save-tuned"], "--save-tuned stores what --throughput finds: add --throughput"),
        ([files[0], "--tuned", "--throughput"], "--throughput measures all settings: omit --tuned"),
        ([files[0], "--tuned"], "num_threads (--threads) cannot be combined with tuned settings"),
        (["test-tiny:untrained", "--throughput", "--save-tuned"], "test-tiny:untrained is not a file"),
        ([tmp_path / "model.pt2", "--throughput", "--save-tuned"], "model.pt2 is not a file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert message in result.stderr.splitlines()[-1]
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "photo.png")
    result = CliRunner().invoke(app, ["predict", str(tmp_path), "--model", files[0], "--tuned"])
    assert result.exit_code == 2 and f"rtdetr benchmark {files[0]} --throughput --save-tuned" in result.stderr
