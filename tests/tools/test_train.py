"""The published command lines, as they stand, on a small file of the published form."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from rtdetr.training.metrics import read_records
from tests.training.published.files import write_over
from tests.training.small import only_the_loop, write_folder

TOOL = Path(__file__).parents[2] / "tools" / "train.py"
SMALL = """
num_classes: 3
output_dir: {root}/output
print_freq: 1
epoches: 2
eval_spatial_size: [64, 64]
PResNet: {{depth: 18, freeze_at: -1, freeze_norm: False, pretrained: False}}
HybridEncoder: {{in_channels: [128, 256, 512], hidden_dim: 32, dim_feedforward: 32, nhead: 4, expansion: 0.5}}
RTDETRTransformerv2:
  {{feat_channels: [32, 32, 32], hidden_dim: 32, dim_feedforward: 32, nhead: 4, num_layers: 1, num_queries: 30}}
lr_warmup_scheduler: {{warmup_duration: 2}}
train_dataloader:
  dataset:
    img_folder: {root}/data/train
    ann_file: {root}/data/train/_annotations.coco.json
    transforms:
      ops:
        - {{type: RandomHorizontalFlip}}
        - {{type: Resize, size: [64, 64]}}
        - {{type: SanitizeBoundingBoxes, min_size: 1}}
        - {{type: ConvertPILImage, dtype: 'float32', scale: True}}
        - {{type: ConvertBoxes, fmt: 'cxcywh', normalize: True}}
  collate_fn: {{scales: ~}}
  total_batch_size: 4
  num_workers: 0
val_dataloader:
  dataset:
    img_folder: {root}/data/valid
    ann_file: {root}/data/valid/_annotations.coco.json
    transforms: {{ops: [{{type: Resize, size: [64, 64]}}]}}
"""


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tools_train", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tool")
    write_folder(root / "data")
    return write_over(root, SMALL.format(root=root))


def arguments_for(file: Path) -> list[str]:
    return ["-c", str(file), "-d", "cpu", "--seed", "3", "--summary-dir", "ignored", "--local-rank=0"]


@pytest.fixture(scope="module")
def run(tool, file) -> Path:
    folder = file.parent / "run"
    more = ["--use-amp", "--output-dir", str(folder), "-u", "epoches=1", "print_freq=2"]
    with only_the_loop():
        assert tool.main([*arguments_for(file), *more]) == 0
    return folder


def test_train_and_evaluate(tool, file, run, capsys):
    config = json.loads((run / "config.json").read_text())
    assert (config["recipe"]["precision"], config["seed"], config["log_every"]) == ("auto", 3, 2)
    assert (config["recipe_name"], config["network"]["name"]) == ("own.yml", "own")
    assert config["recipe"]["augmentation_stop_epoch"] == 0 and config["recipe"]["flip"] == 0.5
    evaluation = ["-r", str(run / "last.pth"), "--test-only", "--output-dir", str(run)]
    assert tool.main([*arguments_for(file), *evaluation]) == 0
    assert "AP" in capsys.readouterr().out
    last = [row["ap"] for row in read_records(run) if row["kind"] == "epoch"][-1]
    measured = list(json.loads((run / "eval.json").read_text()).values())[: len(last)]
    assert measured == pytest.approx(last, abs=0.01)  # the run computed in the precision that suits the machine


@pytest.mark.slow
def test_resume_and_tune(tool, file, run, tmp_path, capsys):
    resume = ["-r", str(run / "last.pth"), "--output-dir", str(tmp_path / "on"), "--no-amp"]
    assert tool.main([*arguments_for(file), *resume]) == 0
    assert capsys.readouterr().out.startswith("finished, best AP ")
    steps = [row["iteration"] for row in read_records(tmp_path / "on") if row["kind"] == "step"]
    assert steps == [4, 5, 6]
    assert json.loads((tmp_path / "on" / "config.json").read_text())["recipe"]["precision"] == "float32"
    tune = [
        "-t",
        str(run / "best.pth"),
        "--output-dir",
        str(tmp_path / "tuned"),
        "-u",
        "epoches=1",
        "optimizer.lr=1e-9",
    ]
    assert tool.main([*arguments_for(file), *tune]) == 0
    old, new = (torch.load(path, weights_only=True) for path in (run / "best.pth", tmp_path / "tuned" / "last.pth"))
    name = "decoder.enc_output.proj.weight"
    torch.testing.assert_close(new["ema"]["module"][name], old["ema"]["module"][name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-r", "a", "-t", "b"], "ConfigError: expected --resume or --tuning, got both"),
        (["--test-only"], "ConfigError: --test-only: expected the checkpoint to evaluate: -r FILE"),
        (["-u", "epochs=1"], "ConfigError: command line: unknown key 'epochs'. Did you mean 'epoches'"),
        (["-c", "recipes/finetune.yml"], "with: rtdetr train -c recipes/finetune.yml"),
        (["-u", "PResNet"], "ConfigError: expected key=value, got 'PResNet'"),
        (["-r", "nowhere.pth"], "no such file"),
        (["-u", "val_dataloader=~"], "has no validation part"),
    ],
)
def test_mistakes_are_one_line(tool, file, capsys, arguments, message):
    assert tool.main(["-c", str(file), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
