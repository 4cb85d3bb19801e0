"""The program `rtdetr`: errors on one line, exit statuses, logging and pipes; in this process where possible."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rtdetr.cli.models
from rtdetr import zoo
from rtdetr.cli.main import app
from rtdetr.errors import DatasetError, MissingSplitError


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make the verb `models` raise `error`."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(rtdetr.cli.models, "_rows", fail)


def test_an_error_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, DatasetError("a.json is broken\nat line 3"))
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "DatasetError: a.json is broken at line 3\n"


def test_an_error_is_printed_with_its_public_class(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, MissingSplitError("no val"))
    assert CliRunner().invoke(app, ["models"]).stderr == "DatasetError: no val\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nope"], "ConfigError: No such option"),
        (["data", "chek"], "See rtdetr data --help"),
        (["evaluate"], "See rtdetr evaluate --help"),
        (["train", "--epochs", "x"], "ConfigError: Invalid value for '--epochs'"),
        (["train", "--epochs", "x"], "'x'"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_value_of_a_wrong_kind_is_named_in_plain_words() -> None:
    said = CliRunner().invoke(app, ["train", "--lr", "abc"]).stderr
    assert "'--lr'" in said and "'abc'" in said
    assert "Input should be" not in said and "parse" not in said


def test_a_group_without_a_verb_shows_its_help() -> None:
    assert "Check and clean datasets" in CliRunner().invoke(app, ["data"]).output


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, DatasetError("a.json is broken"))
    result = CliRunner().invoke(app, ["--debug", "models"])
    assert isinstance(result.exception, DatasetError)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, ZeroDivisionError())
    assert isinstance(CliRunner().invoke(app, ["models"]).exception, ZeroDivisionError)


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, KeyboardInterrupt())
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_an_unexpected_missing_package_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere"))
    assert isinstance(CliRunner().invoke(app, ["models"]).exception, ModuleNotFoundError)


def test_an_unknown_verb_names_the_nearest() -> None:
    result = CliRunner().invoke(app, ["predcit"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "Did you mean 'predict'?" in result.stderr


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"rtdetr {rtdetr.__version__}\n"


def test_models_lists_every_model_and_file() -> None:
    table = CliRunner().invoke(app, ["models"]).stdout
    rows = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    for name in zoo.list_models():
        for tag in list(zoo.entry(name).checkpoints) or [None]:
            assert table.count(f"\n{zoo.full_name(name, tag)} ") == 1
        tags = [row["tag"] for row in rows if row["name"] == name]
        assert tags == (list(zoo.entry(name).checkpoints) or [None])
    assert {alias for row in rows for alias in row["aliases"]} == set(zoo.ALIASES)
    published = [row for row in rows if row["tag"]]
    assert all(row["ap"] > 40 and row["license"] and row["training_data"] for row in published)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["models"], ["--version"], ["models", "--json"]])
def test_a_full_disk_on_standard_output_is_one_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "rtdetr", *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("InputError: cannot write the output: the disk is full.")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_undecodable_file_names_are_reported() -> None:
    """This happens in the C locale without UTF-8 mode; engines and PyTorch cannot open such names."""
    command = [sys.executable, "-m", "rtdetr", "predict", "bär.jpg", "--model", "modell.onnx"]
    off = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, env=off, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"ConfigError: ") and b"Python uses the encoding ascii" in done.stderr
    on = os.environ | {"LC_ALL": "C"}
    on.pop("PYTHONUTF8", None)
    done = subprocess.run(command, env=on, capture_output=True, check=False)
    assert b"no such ONNX file: modell.onnx" in done.stderr or "bär.jpg".encode() in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rtdetr", "models", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # the reader goes away before the first line is written
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() != 0
