"""`rtdetr train`: how its options become settings. The runs themselves are in tests/end_to_end."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.recipes.settings import FLAGS
from tests.training.small import write_folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


def test_a_dry_run_prints_the_plan(data, tmp_path):
    (tmp_path / "own.yml").write_text("model: test-tiny\nseed: 4\ntrain: {epochs: 30, ema_decay: 0.9}\n")
    run = tmp_path / "run"
    options = [
        "-c",
        tmp_path / "own.yml",
        "--output",
        run,
        "--recipe",
        "finetune",
        "--freeze",
        1,
        "--device",
        "cpu",
        "--workers",
        0,
    ]
    result = invoke(data, *options, "--epochs", 12, "--set", "train.ema_decay=0.8", "--set", "keep_last=3", "--dry-run")
    assert result.exit_code == 0, result.output
    assert result.stdout == (run / "plan.txt").read_text()
    assert "length         12 epochs of 3 steps, batch size 4; 36 steps in total" in result.stdout
    assert "frozen: stem and 1 stage)" in result.stdout
    assert "recipe         finetune: adapted to this dataset" in result.stdout
    assert sorted(path.name for path in run.iterdir()) == [".lock", "config.json", "plan.txt"]
    config = json.loads((run / "config.json").read_text())
    assert (config["seed"], config["keep_last"], config["freeze"], config["recipe"]["ema_decay"]) == (4, 3, 1, 0.8)
    again = invoke("-c", run / "config.json", "--output", tmp_path / "again", "--dry-run")
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "again" / "config.json").read_text())
    assert repeated["data_origins"] == {"data": str(run / "config.json")}
    assert {**repeated, **{key: config[key] for key in ("output_dir", "data_origins")}} == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "finetun"], "ConfigError: unknown recipe 'finetun'. Did you mean 'finetune'?"),
        (
            ["--freeze", "head"],
            "ConfigError: freeze (--freeze): expected 'backbone', 'encoder' or a whole number from 0 to 4; got 'head'.",
        ),
        (["--freeze", "9"], "or a whole number from 0 to 4; got 9."),
        (["--epochs", "x"], "ConfigError: Invalid value for '--epochs': "),
        (["--epochs", "x"], "'x'"),
        (["--lr", "-1"], "ConfigError: lr (--lr): expected a number greater than 0; got -1.0."),
        (["--logger", "board"], "ConfigError: loggers.0 (--logger): expected 'wandb' or 'mlflow'; got 'board'."),
        (["--set", "nonsense"], "ConfigError: --set: expected NAME=VALUE, such as train.lr=2e-4, got 'nonsense'"),
        (["--set", "train.lr=["], "ConfigError: --set train.lr: '[' is not a valid value."),
        (
            ["--set", "train.loss.bbox_weight=x"],
            "ConfigError: --set train.loss.bbox_weight: expected a number; got 'x'",
        ),
        (["--max-pixels", "x"], "InputError: --max-pixels: expected a number of pixels"),
        (["--size", "x"], "InputError: --size: expected a size like 640"),
        (["--epoch", "3"], "ConfigError: No such option"),
        (["--set", "keeplast=3"], "ConfigError: --set: unknown setting 'keeplast'. Did you mean 'keep_last'?"),
        (["--set", "lr=3"], "ConfigError: --set: unknown setting 'lr'. Did you mean 'train.lr'?"),
        (["--set", "model.decoder.queries=3"], "model.decoder: unknown setting 'queries'. Did you mean 'num_queries'?"),
        (
            ["--set", "train.epochs=-1"],
            "ConfigError: --set train.epochs: expected a whole number of at least 1; got -1.",
        ),
        (["--set", "train.groups=[{patern: a}]"], "unknown setting 'patern'. Did you mean 'pattern'?"),
        (["-c", "nowhere.yml"], "ConfigError: cannot read the YAML file nowhere.yml"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, options, message):
    result = invoke(data, "--model", "test-tiny", "--output", tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_messages_name_options_that_exist():
    command = typer.main.get_command(app).get_command(None, "train")
    options = {option for parameter in command.params for option in parameter.opts}
    assert {flag for flag in FLAGS.values() if flag.startswith("--")} <= options


@pytest.mark.slow
def test_the_model_of_a_run_cannot_change_on_resuming(data, tmp_path):
    options = ["--epochs", 1, "--size", 64, "--device", "cpu", "--workers", 0, "--output", tmp_path / "run"]
    assert invoke(data, "--model", "test-tiny", *options).exit_code == 0
    said = invoke("--resume", tmp_path / "run", "--model", "rtdetrv2_r18vd").stderr
    assert f"the model cannot change on resuming: {tmp_path / 'run'} is a run of 'test-tiny', got model" in said
    assert "'rtdetrv2_r18vd' (--model)" in said and f"--weights {tmp_path / 'run'}/best.pth" in said
    assert "backbone" not in said
    assert invoke("--resume", tmp_path / "run", "--model", "test-tiny", "--dry-run").exit_code == 0


def test_a_weight_file_is_not_a_model(data, tmp_path):
    said = invoke(data, "--model", tmp_path / "best.pth", "--output", tmp_path / "run").stderr
    assert said.startswith("ConfigError: model (--model): expected the name of a model, got the weight file")
    assert said.endswith(f"--weights {tmp_path / 'best.pth'}\n")
