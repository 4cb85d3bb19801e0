"""Shell completion: its installation, and the words that it offers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rtdetr.cli.completion import WORDS
from rtdetr.cli.main import COMMANDS, LazyGroup, app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a command `rtdetr` in its bin/, which is on the path."""
    command = tmp_path / "bin" / "rtdetr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rtdetr "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def words(line: str) -> list[str]:
    """What zsh is told to offer at the end of a command line; empty where it offers files."""
    environment = {"_RTDETR_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    result = CliRunner().invoke(app, [], env=environment, prog_name="rtdetr")
    assert result.exit_code == 0, result.output
    offered = result.stdout.removeprefix("_arguments '*: :((")
    return [word.replace("\\\\:", ":") for word in re.findall(r'^"([^"\n]+)"', offered, flags=re.MULTILINE)]


def test_verbs_and_options() -> None:
    assert words("rtdetr ") == list(COMMANDS)
    assert words("rtdetr predict --thr") == ["--threshold"]
    assert words("rtdetr data ") == ["check"]


@pytest.mark.parametrize(
    "line",
    [
        "predict --model",
        "train --model",
        "train --weights",
        "train data --weights",
        "evaluate",
        "benchmark",
        "benchmark a.onnx",
        "export",
        "quantize",
        "weights convert",
    ],
)
def test_model_names(line: str) -> None:
    offered = words(f"rtdetr {line} rtdetr_r50")
    assert "rtdetr_r50vd" in offered and "rtdetr_r50vd:objects365" in offered
    assert "rtdetr_r50vd_6x_coco" in offered  # another name


def test_formats() -> None:
    assert words("rtdetr export x --format ") == ["onnx", "openvino", "tensorrt", "torch"]
    assert words("rtdetr quantize x --format o") == ["onnx", "openvino"]
    assert words("rtdetr weights convert a b --format h") == ["huggingface"]


@pytest.mark.parametrize(
    "line", ["predict ./ima", "predict --model ./best", "data check ", "train --config ", "predict --font "]
)
def test_file_names_are_completed_by_the_shell(line: str) -> None:
    assert words(f"rtdetr {line}") == []


@pytest.mark.parametrize("line", ["nonsense --x", "predict a.jpg --max-pixels many --devi", "train --epochs x --dev"])
def test_a_mistyped_command_prints_nothing(line: str) -> None:
    assert words(f"rtdetr {line}") in ([], ["--device"])


def test_completion_words_appear_in_the_help() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    context = group.make_context("rtdetr", [], resilient_parsing=True)
    verbs = [group.get_command(context, name) for name in COMMANDS]
    commands = [part for verb in verbs for part in getattr(verb, "commands", {"": verb}).values()]
    for command in commands:
        for parameter in command.params:
            listed = WORDS.get(f"{command.name} {parameter.name}", WORDS.get(parameter.name, ()))
            if isinstance(listed, tuple):
                said = f"{parameter.help} {parameter.metavar}"
                assert all(word in said for word in listed), f"{command.name} {parameter.name}: {said}"


def shell(command: str, *, name: str = "bash") -> str:
    return subprocess.run([name, "-c", command], capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash(home: Path) -> None:
    """Installs completion for bash and calls it as bash does for the Tab key."""
    assert "bash completion installed in" in shell("rtdetr --install-completion; true")
    assert (home / ".bash_completions" / "rtdetr.sh").is_file()
    asked = "COMP_WORDS=(rtdetr export --format o); COMP_CWORD=3; _rtdetr_completion rtdetr"
    assert shell(f'. "$HOME/.bashrc"; {asked}; echo "${{COMPREPLY[@]}}"') == "onnx openvino\n"
    assert "complete -o default -F _rtdetr_completion rtdetr" in shell("rtdetr --show-completion; true")


def test_zsh(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # so that a shell can be named
    run = [sys.executable, "-m", "rtdetr"]
    subprocess.run([*run, "--install-completion", "zsh"], check=True, capture_output=True)
    assert (home / ".zfunc" / "_rtdetr").read_text().startswith("#compdef rtdetr")
    assert ".zfunc" in (home / ".zshrc").read_text()
    shown = subprocess.run([*run, "--show-completion", "zsh"], check=True, capture_output=True, text=True)
    assert "compdef _rtdetr_completion rtdetr" in shown.stdout
    if shutil.which("zsh"):
        stubs = "compdef() { }; _arguments() { print -r -- $@ }"
        asked = "words=(rtdetr export --format o); CURRENT=4; _rtdetr_completion"
        offered = shell(f"{stubs}; source $HOME/.zfunc/_rtdetr; {asked}", name="zsh")
        assert offered.split() == ["*:", ':(("onnx"', '"openvino"))']
