"""`rtdetr env`: what is installed and on which machine, without names and passwords, also without PyTorch."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import rtdetr
from rtdetr.cli import env
from rtdetr.cli.main import app

BUG_REPORT = Path(__file__).parents[2] / ".github" / "ISSUE_TEMPLATE" / "bug.yml"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["env", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json() -> None:
    found = json.loads(run("--json"))
    assert found["rtdetr"] == rtdetr.__version__
    assert found["python"].startswith(platform.python_version())
    assert found["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["torch_devices"][0] == {"type": "cpu"}
    assert found["cores"] >= 1 and found["cpu"]


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "PACKAGES", ("torch", "no-such-package"))
    lines = dict(line.split(":", 1) for line in run().splitlines())
    assert lines["no-such-package"].strip() == "not installed"
    assert lines["location"].strip()[:1] in "~P."


def test_names_and_passwords_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("RTDETR_CACHE", "/home/ann/cache")
    monkeypatch.setenv("RTDETR_WEIGHTS_URL", "https://ann:secret@mirror.example/weights")
    monkeypatch.setenv("OTHER_TOKEN", "secret")
    variables = json.loads(run("--json"))["variables"]
    assert variables["RTDETR_CACHE"] == "~/cache"
    assert variables["RTDETR_WEIGHTS_URL"] == "https://mirror.example/weights"
    assert "secret" not in run() and "OTHER_TOKEN" not in variables
    assert env.without_names("/home/anna/x in /home/ann") == "/home/anna/x in ~"


def test_gpus_and_unknown_values_are_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [{"name": "NVIDIA H200", "memory_gib": 139.8, "driver": "570.1"}] * 2
    monkeypatch.setattr(env, "environment", lambda: {"gpus": gpus, "cores": None, "packages": {}, "variables": {}})
    one = "NVIDIA H200, memory 139.8 GiB, driver 570.1"
    assert run().splitlines() == [f"gpus:  {one}; {one}", "cores: unknown"]


@pytest.mark.parametrize(
    ("torch_module", "expected"),
    [("", "torch is not installed"), ("raise OSError('libcudart.so is missing')", "OSError: libcudart.so is missing")],
)
def test_a_missing_or_broken_torch(tmp_path: Path, torch_module: str, expected: str) -> None:
    (tmp_path / "torch.py").write_text(torch_module)
    block = "sys.modules['torch'] = None; " if not torch_module else f"sys.path.insert(0, {str(tmp_path)!r}); "
    code = f"import sys; {block}sys.argv = ['rtdetr', 'env']; from rtdetr.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"torch devices:     {expected}" in done.stdout
    assert done.stderr == ""


def test_bug_reports_ask_for_it() -> None:
    assert "`rtdetr env`" in BUG_REPORT.read_text()
