"""The learning benchmark runs from scratch and from weights, and continues where it was interrupted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "learning.py"


def run(folder: Path, *options: str) -> str:
    command = [sys.executable, SCRIPT, "--folder", folder, "--families", "few", "--steps", "6", "--seeds", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_learning_benchmark(tmp_path):
    recipes = "published,deim+train.mosaic=0+train.lr=2"
    first = run(tmp_path, "--recipes", recipes, "--pretrained", "187")
    assert "4 of 4 runs to train" in first
    rows = re.findall(r"^\| few \| (\S+) \| ([\d.]+) ± ([\d.]+) \|", first, flags=re.MULTILINE)
    assert [row[0] for row in rows] == recipes.split(",")
    with Image.open(tmp_path / "learning.png") as image:
        assert image.width > 300
    again = run(tmp_path, "--recipes", f"{recipes},finetune", "--pretrained", "187")
    assert "2 of 6 runs to train" in again and "epoch 1/1  step" not in again  # the weights are there
    assert re.findall(r"^\| few \| (\S+) \| ([\d.]+) ± ([\d.]+) \|", again, flags=re.MULTILINE)[:2] == rows
