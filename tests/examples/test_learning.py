"""The learning benchmark runs from scratch and from weights, and continues where it was interrupted."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rtdetr.comparison import Comparison, Evaluation

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = re.compile(r"^\| few \| (\S+) \| ([\d.]+) ± ([\d.]+) \|", re.MULTILINE)


def command(script: str, *options: str | Path) -> str:
    line = [sys.executable, BENCHMARKS / script, *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def run(folder: Path, *options: str) -> str:
    usual = ("--folder", folder, "--families", "few", "--steps", "6", "--seeds", "1")
    return command("learning.py", *usual, *options)


@pytest.mark.slow
def test_recipes_are_compared_and_can_be_added(tmp_path):
    recipes = "published,deim+train.betas=[0.9,0.95]+lr_factor=2"
    first = run(tmp_path, "--recipes", recipes)
    assert "2 of 2 runs to train" in first
    rows = ROW.findall(first)
    assert [row[0] for row in rows] == ["published", "deim+train.betas=[0.9,0.95]+lr_factor=2"]
    with Image.open(tmp_path / "learning.png") as image:
        assert image.width > 300
    stored = (tmp_path / "learning.jsonl").read_text().splitlines()
    again = run(tmp_path, "--recipes", f"{recipes},finetune")
    assert "1 of 3 runs to train" in again and ROW.findall(again)[:2] == rows
    assert (tmp_path / "learning.jsonl").read_text().splitlines()[:2] == stored
    (tmp_path / "learning.png").unlink()
    shown = command("learning_results.py", tmp_path / "learning.jsonl")
    assert ROW.findall(shown) == ROW.findall(again)
    with Image.open(tmp_path / "learning.png") as image:
        assert image.width > 300
    two = command("learning_results.py", tmp_path / "learning.jsonl", "--recipes", f"finetune,{recipes.split(',')[0]}")
    assert [row[0] for row in ROW.findall(two)] == ["finetune", "published"]


@pytest.mark.slow
def test_runs_replace_former_ones_of_the_same_recipe_and_seed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("learning_results")
    path = tmp_path / "results.jsonl"

    def runs(*aps: float) -> list[list[Evaluation]]:
        return [[Evaluation(10, 3.5, ap / 2, ap, -1.0), Evaluation(20, 7.0, ap, ap, -1.0)] for ap in aps]

    script.add(path, "scratch", "few", Comparison(20, 8, {"deim": runs(0.1), "scratch": runs(0.2)}))
    script.add(path, "scratch", "tiny", Comparison(20, 8, {"deim": runs(0.4)}))
    script.add(path, "scratch", "few", Comparison(20, 8, {"deim": runs(0.3, 0.5)}))
    script.add(path, "scratch", "few", Comparison(20, 8, {"deim": runs(0.6)}))
    script.add(path, "weights", "few", Comparison(20, 8, {"finetune": runs(0.7)}))
    found = script.read(path)
    assert found == {
        "scratch": {
            "few": Comparison(20, 8, {"deim": runs(0.6, 0.5), "scratch": runs(0.2)}),
            "tiny": Comparison(20, 8, {"deim": runs(0.4)}),
        },
        "weights": {"few": Comparison(20, 8, {"finetune": runs(0.7)})},
    }
    script.draw(found, tmp_path / "two.png")
    with Image.open(tmp_path / "two.png") as image:
        assert image.height > 600  # one row for each setup
    only = ("--recipes", "scratch")  # one setup and one family have none
    assert [row[0] for row in ROW.findall(command("learning_results.py", path, *only))] == ["scratch"]
    monkeypatch.setattr(sys, "argv", ["learning_results.py", str(path), "--recipes", "scrtch"])
    with pytest.raises(SystemExit):
        script.main()
    assert script.read(tmp_path / "missing.jsonl") == {}


@pytest.mark.slow
def test_weights_are_trained_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("learning")
    monkeypatch.setattr(script, "PRETRAINING", script.PRETRAINING._replace(train_images=16, val_images=1))
    weights = script.pretrain(tmp_path, "scratch+train.mosaic=0", steps=2, device="cpu")
    before = weights.stat().st_mtime_ns
    again = script.pretrain(tmp_path, "scratch+train.mosaic=0", steps=2, device="cpu")
    assert again == weights and weights.stat().st_mtime_ns == before
    paths = {"teacher": tmp_path / "t.pth", "unlabelled": tmp_path / "more"}
    data = tmp_path / "data" / "pretraining"
    taught = script.variant("scratch+teacher+unlabelled+train.mosaic=0", data, steps=2, weights=None, **paths)
    assert {name: taught[name] for name in paths} == {name: str(path) for name, path in paths.items()}
    assert taught["recipe"] == "scratch" and taught["set"]["train.mosaic"] == "0"
    muon, adamw = 12 * 8e-4 / 2**0.5, 8e-4 / 2**0.5  # for a batch of 8 instead of 16
    rates = {
        "published": 4e-4,  # four times the published 1e-4, and 2e-4 below
        "published+lr_factor=3": 1.2e-3,
        "deim": 8e-4,
        "scratch+train.optimizer=muon": muon,
        "scratch+train.optimizer=adamw": adamw,
    }
    for name, rate in rates.items():
        found = script.variant(name, tmp_path / "data" / "pretraining", steps=2, weights=weights)["lr"]
        assert found == pytest.approx(rate), name
