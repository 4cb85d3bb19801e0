"""The learning benchmark runs from scratch and from weights, and continues where it was interrupted."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROW = re.compile(r"^\| few \| (\S+) \| ([\d.]+) ± ([\d.]+) \|", re.MULTILINE)


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, BENCHMARKS / "learning.py", "--folder", folder, "--families", "few", "--steps", "6"]
    done = subprocess.run([*command, "--seeds", "1", *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_recipes_are_compared_and_can_be_added(tmp_path):
    recipes = "published,deim+train.betas=[0.9,0.95]+lr_factor=2"
    first = run(tmp_path, "--recipes", recipes)
    assert "2 of 2 runs to train" in first
    rows = ROW.findall(first)
    assert [row[0] for row in rows] == ["published", "deim+train.betas=[0.9,0.95]+lr_factor=2"]
    with Image.open(tmp_path / "learning.png") as image:
        assert image.width > 300
    again = run(tmp_path, "--recipes", f"{recipes},finetune")
    assert "1 of 3 runs to train" in again and ROW.findall(again)[:2] == rows


@pytest.mark.slow
def test_weights_are_trained_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    script = importlib.import_module("learning")
    monkeypatch.setattr(script, "PRETRAINING", script.PRETRAINING._replace(train_images=16, val_images=1))
    weights = script.pretrain(tmp_path, "scratch+train.mosaic=0", steps=2, device="cpu")
    before = weights.stat().st_mtime_ns
    again = script.pretrain(tmp_path, "scratch+train.mosaic=0", steps=2, device="cpu")
    assert again == weights and weights.stat().st_mtime_ns == before
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
