"""What `make demo` leaves, with eight images to train on, four to evaluate and a tiny network."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
TRAIN = "--model test-tiny --size 64 --epochs 1 --batch-size 4 --device cpu --workers 0".split()


def make_small_dataset(folder: Path) -> Path:
    """Draw shapes of the demo's six classes."""
    script = REPOSITORY / "examples/demo/make_dataset.py"
    command = [sys.executable, str(script), "--num-train", "8", "--num-val", "4", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def make_small_demo(folder: Path) -> None:
    """Write `data` and `run` into a folder."""
    data = make_small_dataset(folder / "data")
    command = [sys.executable, "-m", "rtdetr", "train", str(data), *TRAIN, "--output", str(folder / "run")]
    subprocess.run(command, check=True, capture_output=True)
