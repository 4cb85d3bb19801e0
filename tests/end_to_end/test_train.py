"""`rtdetr train` in its own process: interrupted, killed and resumed, and the use of its weights."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.training import read
from tests.training.small import STEPS, accuracies, config_of, losses, only_the_loop, write_folder

TINY = ["--model", "test-tiny", "--batch-size", "4", "--device", "cpu", "--precision", "float32"]
TINY += ["--set", "train.warmup_iterations=2", "--set", "train.lr=1e-3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A training in its own process group, of which nothing is left afterwards."""
    command = [sys.executable, "-m", "rtdetr", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def test_train_evaluate_and_detect(data, tmp_path):
    run = tmp_path / "run"
    result = invoke(
        "train", data, "--output", run, "--epochs", 2, "--size", "64x96", "--seed", 4, "--workers", 0, *TINY
    )
    assert result.exit_code == 0, result.output
    stated = re.fullmatch(rf"finished: best AP (\d+\.\d), {re.escape(str(run))}/best\.pth\n", result.stdout)
    assert stated
    config = config_of(run)
    assert config["recipe"]["train_size_hw"] == [64, 96]
    assert (config["recipe"]["warmup_iterations"], config["recipe"]["lr"]) == (2, 1e-3)

    result = invoke("evaluate", run / "best.pth", data, "--device", "cpu", "--precision", "float32", "--json", "-")
    assert result.exit_code == 0, result.output
    numbers = [-1.0 if value is None else value for value in json.loads(result.stdout)["metrics"].values()]
    assert numbers in accuracies(run)  # the very numbers that were printed in training

    picture = next((data / "valid").glob("*.png"))
    result = invoke("predict", picture, "--model", run / "best.pth", "--threshold", 0, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert re.search(r"\d+ (cat|dog|bird)", result.stdout)


@pytest.mark.slow
def test_a_killed_run_leaves_its_last_good_checkpoint(data, tmp_path):
    with running(data, "--output", tmp_path, "--epochs", 1000, "--workers", 0, *TINY) as process:
        wait_for(lambda: (tmp_path / "last.pth").exists() and read(tmp_path)["last_epoch"] >= 1, process)
        process.kill()
    epoch = read(tmp_path)["last_epoch"] + 1
    with only_the_loop():
        result = invoke("train", "--resume", tmp_path, "--epochs", epoch + 1)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("finished")
    assert [iteration for iteration, _ in losses(tmp_path)] == [STEPS * n for n in range(1, epoch + 2)]


@pytest.mark.parametrize(
    ("name", "send"),
    [
        pytest.param("SIGINT", os.killpg, marks=pytest.mark.slow),  # as the terminal does it, to the worker as well
        pytest.param("SIGTERM", os.kill, marks=pytest.mark.slow),
        pytest.param("SIGTERM", os.killpg, marks=pytest.mark.slow),
    ],
)
def test_a_stop_signal_saves_a_checkpoint_and_ends_the_run(data, tmp_path, name, send):
    with running(data, "--output", tmp_path, "--epochs", 1000, "--workers", 2, *TINY) as process:
        wait_for(lambda: len(losses(tmp_path)) > 0, process)
        send(process.pid, getattr(signal, name))
        shown, log = process.communicate(timeout=90)
    assert process.returncode == (130 if name == "SIGINT" else 143), log
    assert f"interrupted; resume with: rtdetr train --resume {tmp_path}" in shown
    iteration = read(tmp_path)["progress"]["iteration"]
    assert f"{name}: stopped after step {iteration}" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "ConfigError: no dataset given"),
        (["DATA", "--model", "rtdetrv2_r18v"], "ConfigError: unknown model 'rtdetrv2_r18v'. Did you mean"),
        (
            ["DATA", "--set", "warmup=5"],
            "ConfigError: --set: unknown setting 'warmup'. Did you mean 'train.ema_warmup'?",
        ),
        (["DATA", "--set", "lr"], "ConfigError: --set: expected NAME=VALUE, such as train.lr=2e-4, got 'lr'"),
        (
            ["DATA", "--size", "630"],
            "ConfigError: image size (--size, Python: size_hw): height and width must be multiples of 32, got 630x630",
        ),
        (["nowhere"], "DatasetError: no dataset nowhere"),
        (["--resume", "nowhere"], "WeightsError: resume: nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, options, message):
    options = [str(data) if option == "DATA" else option for option in options]
    result = invoke("train", *options, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
