"""The published command lines, as they stand, on a small file of the published form."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

import rtdetr
from rtdetr.evaluation import CocoMetrics
from rtdetr.reports.metrics import read_records
from tests.published.files import write_over
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


def with_ids_as_labels(file: Path) -> Path:
    """The same configuration for the same data with the ids 1 to 3 and one row for each id from 0 on."""
    root = file.parents[1] / "ids"
    shutil.copytree(file.parents[1] / "data", root / "data")
    for path in root.glob("data/*/_annotations.coco.json"):
        content = json.loads(path.read_text())
        for rows, key in ((content["categories"], "id"), (content["annotations"], "category_id")):
            for row in rows:
                row[key] = {3: 1, 7: 2, 90: 3}[row[key]]
        path.write_text(json.dumps(content))
    return write_over(root, SMALL.format(root=root) + "remap_mscoco_category: False\n")


class Report:
    """What an evaluation that is not made returns."""

    metrics = CocoMetrics(*[0.0] * 12, per_class={})

    def table(self) -> str:
        return ""


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


def test_use_ema_decides_what_is_evaluated(tool, file, run, tmp_path, monkeypatch, caplog):
    content = torch.load(run / "last.pth", weights_only=True)
    seen = []
    monkeypatch.setattr(rtdetr, "evaluate", lambda detector, *_, **__: seen.append(detector.network) or Report())
    name = "decoder.enc_output.proj.weight"
    for use_ema, expected in (("True", content["ema"]["module"]), ("False", content["model"])):
        options = [
            "-r",
            str(run / "last.pth"),
            "--test-only",
            "--output-dir",
            str(tmp_path),
            "-u",
            f"use_ema={use_ema}",
        ]
        assert tool.main([*arguments_for(file), *options]) == 0
        assert torch.equal(seen[-1].state_dict()[name], expected[name])
    assert not torch.equal(content["ema"]["module"][name], content["model"][name])
    caplog.clear()
    options = ["-r", str(run / "best.pth"), "--test-only", "--output-dir", str(tmp_path), "-u", "use_ema=False"]
    assert tool.main([*arguments_for(file), *options]) == 0
    assert "has only EMA weights, so use_ema: False has no effect" in caplog.text
    assert torch.equal(seen[-1].state_dict()[name], content["ema"]["module"][name])


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


@pytest.mark.slow
def test_checkpoints_with_a_row_per_category_id(tool, file, run, tmp_path, caplog):
    """Published checkpoints of N classes with ids 1 to N: evaluated, resumed and tuned."""
    content = torch.load(run / "last.pth", weights_only=True)
    names = [name for group in content.pop("trained") for name in group]
    heads = ("decoder.enc_score_head.", "decoder.dec_score_head.", "decoder.denoising_class_embed.")

    def with_row_0(state):
        """The state of a published run: row 0 of the class heads is of no class, with scores near 0."""
        rows = {k: v[:1] * 0 - (20 if v.ndim == 1 else 0) for k, v in state.items() if k.startswith(heads)}
        return {k: torch.cat([rows[k], v]) if k in rows else v for k, v in state.items()}

    published = {"last_epoch": 0, "model": with_row_0(content["model"]), "optimizer": content["optimizer"]}
    published["ema"] = {**content["ema"], "module": with_row_0(content["ema"]["module"])}
    for index, moments in published["optimizer"]["state"].items():
        if names[index].startswith(heads):
            moments.update({k: torch.cat([v[:1] + 9, v]) for k, v in moments.items() if k.startswith("exp_avg")})
    torch.save(published, tmp_path / "last.pth")
    own, head = with_ids_as_labels(file), "decoder.dec_score_head.0.bias"
    results = {}
    for name, config, source in (("ids", own, tmp_path / "last.pth"), ("usual", file, run / "last.pth")):
        options = ["-r", str(source), "--test-only", "--output-dir", str(tmp_path / name)]
        assert tool.main([*arguments_for(config), *options]) == 0
        results[name] = json.loads((tmp_path / name / "eval.json").read_text())
    of_classes = {name: result.pop("per_class") for name, result in results.items()}
    assert results["ids"] == pytest.approx(results["usual"])
    assert of_classes["ids"] == pytest.approx({"id 0": -1.0, **of_classes["usual"]})
    with only_the_loop():
        for option, text in (("-r", "3 of 4 rows that have a class in the data"), ("-t", "3 classes transferred")):
            folder = tmp_path / option
            more = [
                option,
                str(tmp_path / "last.pth"),
                "--output-dir",
                str(folder),
                "--no-amp",
                "--evaluate-every",
                "0",
            ]
            update = ["-u", f"epoches={2 if option == '-r' else 1}", "optimizer.lr=1e-12"]
            assert tool.main([*arguments_for(own), *more, "--set", "rehearsal=false", *update]) == 0
            assert text in caplog.text
            saved = torch.load(folder / "last.pth", weights_only=True)
            former = content["model" if option == "-r" else "ema"]
            former = former if option == "-r" else former["module"]
            torch.testing.assert_close(saved["model"][head], former[head], atol=1e-5, rtol=0)


def test_options_override_the_file(tool, file, tmp_path, capsys):
    options = ["--epochs", "7", "--set", "train.accumulate=2", "--bad-boxes", "drop", "--output", str(tmp_path / "run")]
    with only_the_loop():
        assert tool.main([*arguments_for(file), *options, "--dry-run"]) == 0
    assert "7 epochs of 3 steps" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["recipe"]["epochs"], config["recipe"]["accumulate"], config["bad_boxes"]) == (7, 2, "drop")
    assert (config["seed"], config["recipe"]["batch_size"]) == (3, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epohcs", "3"], "ConfigError: No such option"),
        (["--epochs", "many"], "ConfigError: Invalid value for '--epochs'"),
        (["--processes", "2"], "start them with torchrun --nproc_per_node 2 tools/train.py"),
        (["-r", "a", "-t", "b"], "ConfigError: expected --resume or --tuning, got both"),
        (["--test-only"], "ConfigError: --test-only: no checkpoint to evaluate: pass one with -r FILE"),
        (["-u", "epochs=1"], "ConfigError: command line: unknown key 'epochs'. Did you mean 'epoches'"),
        (["-c", "recipes/finetune.yml"], "use: rtdetr train -c recipes/finetune.yml"),
        (
            ["-u", "num_layers=1"],
            "command line: unknown key 'num_layers'. Did you mean 'RTDETRTransformerv2.num_layers'",
        ),
        (
            ["-u", "train_dataloader.dataset.ann_file=a.json"],
            "Correct the path in own.yml: train_dataloader.dataset.ann_file, or override it with DATA",
        ),
        (["-u", "PResNet"], "ConfigError: -u: expected NAME=VALUE, such as train.lr=2e-4, got 'PResNet'"),
        (["-r", "nowhere.pth"], "nowhere.pth does not exist"),
        (["-u", "val_dataloader=~"], "has no validation split"),
    ],
)
def test_mistakes_are_one_line(tool, file, capsys, arguments, message):
    assert tool.main(["-c", str(file), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]
