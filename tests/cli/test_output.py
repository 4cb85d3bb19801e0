"""Standard output: only JSON with --json -, closed pipes, and the exit statuses of docs/cli.md."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import rtdetr
from rtdetr.cli.main import app
from rtdetr.cli.output import write_json
from tests.data.doctor_files import write
from tests.training.records import epoch_record
from tests.training.small import write_folder

NAME = "test-tiny:untrained"
EVALUATE = "evaluate tiny.pth dataset --device cpu --bootstrap 2 --json -"
JSON_COMMANDS = {
    "models": "models --json",
    "env": "env --json",
    "report": "report run --json",
    "data check": "data check sound --json",
    "weights convert": f"weights convert {NAME} out.pth --json",
    "predict": f"predict photo.jpg --model {NAME} --device cpu --json -",
    "evaluate": EVALUATE,
    "benchmark": f"benchmark {NAME} --device cpu --rounds 1 --warmup 0 --no-memory --profile --throughput "
    "--batch-size 1 --json -",
}


def make_place(folder: Path) -> Path:
    """A folder with photo.jpg, two datasets, tiny.pth of the classes of `dataset`, and a run."""
    from rtdetr.reports.metrics import row_of

    Image.new("RGB", (64, 48)).save(folder / "photo.jpg")
    write_folder(folder / "dataset")
    write(folder / "sound")
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text(json.dumps(row_of(epoch_record(1))) + "\n")
    classes = rtdetr.data.open_dataset(folder / "dataset", split="val").categories
    model = rtdetr.build_model("test-tiny", num_classes=len(classes))
    rtdetr.weights.save_weights(model, folder / "tiny.pth", categories=classes)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


def printed_json(command: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("command", JSON_COMMANDS.values(), ids=JSON_COMMANDS)
def test_json_alone(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert printed_json(command, place, monkeypatch)
    assert capfd.readouterr().out == ""  # of libraries that print beside Python's streams


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    write_json({"ap": float("nan"), "loss": [float("inf"), 1.5]}, str(tmp_path / "a.json"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"ap": None, "loss": [None, 1.5]}


def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rtdetr", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_slow_reader_gets_everything() -> None:
    with start("models", "--json") as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        assert len(json.loads(first + process.stdout.read())) > 10
    assert process.returncode == 0


def test_files_are_written_when_the_reader_goes_away(place: Path, tmp_path: Path) -> None:
    """As with `rtdetr predict ... | head -0`: quiet, with the exit status of a shell for a closed pipe."""
    images = [shutil.copy(place / "photo.jpg", tmp_path / f"{number}.jpg") for number in range(3)]
    options = ["--model", NAME, "--device", "cpu", "--json", str(tmp_path / "all.json")]
    process = start("predict", *map(str, images), *options)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        told = process.stderr.read()
    assert process.wait() == 141
    assert "Traceback" not in told and "Error" not in told
    assert len(json.loads((tmp_path / "all.json").read_text())["images"]) == 3


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", -signal.SIGTERM)])
def test_signals(name: str, status: int) -> None:
    """Ctrl-C is handled; SIGTERM ends the process, which shells report as 143."""
    code = (
        "import os, signal, sys, time, rtdetr.cli.models as verb; from rtdetr.cli.main import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored in a shell's background jobs
        f"sys.argv = ['', 'models']; verb._rows = lambda: [os.kill(os.getpid(), signal.{name}), time.sleep(60)]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


def test_a_model_without_class_names_hints_at_the_option(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(place)
    official = str(tmp_path / "official.pth")
    assert CliRunner().invoke(app, ["weights", "convert", "tiny.pth", official, "--format", "official"]).exit_code == 0
    assert "the official format has no class names: load the file with --classes" in caplog.text
    caplog.clear()
    detect = ["predict", "photo.jpg", "--model", official, "--config", "test-tiny", "--device", "cpu"]
    assert CliRunner().invoke(app, detect).exit_code == 0
    assert "official.pth does not name its classes" in caplog.text
    caplog.clear()
    assert CliRunner().invoke(app, [*detect, "--classes", "dataset"]).exit_code in (0, 2)
    assert "does not name its classes" not in caplog.text
