"""Kill and resume training runs, and compare them with an uninterrupted run.

    python benchmarks/resume.py [--kills 5,9,14,23]

Each run gets SIGKILL when it has reported the given step, and is restarted with `--resume auto` until it is finished.
The script compares the losses of all steps and the final weights, EMA and optimizer state bit by bit.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from rtdetr.reports.metrics import read_records

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "demo"))
from make_dataset import make_dataset  # pyright: ignore[reportMissingImports]

EPOCHS, STEPS, SAVE_EVERY = 4, 6, 4
SETTINGS = {"train.warmup_iterations": 5, "save_every": SAVE_EVERY, "log_every": 1}


def command(data: Path, folder: Path) -> list[str]:
    """Return the command that starts or resumes a run."""
    options = [
        "--model",
        "test-tiny",
        "--epochs",
        str(EPOCHS),
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--workers",
        "1",
    ]
    options += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "rtdetr", "train", str(data), "--output", str(folder), "--resume", "auto", *options]


def losses(folder: Path) -> dict[int, float]:
    """Return the loss of each step that the run has reported."""
    if not (folder / "metrics.jsonl").is_file():
        return {}
    return {row["iteration"]: row["loss"] for row in read_records(folder) if row["kind"] == "step"}


def run_through(data: Path, folder: Path, *, kill_after: int | None = None) -> int:
    """Train to the end; return the number of steps when the run was killed, 0 without a kill."""
    killed_at = 0
    if kill_after is not None:
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command(data, folder), start_new_session=True, stdout=quiet, stderr=quiet)
        while max(losses(folder), default=0) < kill_after and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed_at = max(losses(folder), default=0)
    subprocess.run(command(data, folder), check=True, capture_output=True)
    return killed_at


def differing_entries(first: Path, second: Path) -> list[str]:
    """Return the names of tensors and numbers that differ between two last.pth files."""
    contents = [_flat(torch.load(folder / "last.pth", weights_only=True)) for folder in (first, second)]
    return [name for name, value in contents[0].items() if not _equal(value, contents[1].get(name))]


def _flat(value: object, name: str = "") -> dict[str, object]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            key: leaf for k, v in items if k not in ("date", "rtdetr") for key, leaf in _flat(v, f"{name}/{k}").items()
        }
    return {name: value}


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return one == other


def compare(folder: Path, kills: list[int]) -> list[tuple[int, int, float, int]]:
    """Return per kill: requested step, reached step, largest difference of a loss, number of different entries."""
    data = make_dataset(folder / "data", num_train=STEPS * 4, num_val=4)
    whole = folder / "whole"
    run_through(data, whole)
    expected, rows = losses(whole), []
    for kill in kills:
        run = folder / f"killed_{kill}"
        reached = run_through(data, run, kill_after=kill)
        found = losses(run)
        assert found.keys() == expected.keys(), f"steps {sorted(found)} instead of {sorted(expected)}"
        worst = max(abs(found[step] - expected[step]) for step in expected)
        rows.append((kill, reached, worst, len(differing_entries(whole, run))))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", default="2,5,9,14,23", help="steps after which runs are killed")
    kills = [int(word) for word in parser.parse_args().kills.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), kills)
        whole = losses(Path(folder) / "whole")
        print("step          " + " ".join(f"{step:>8}" for step in list(whole)[:: len(whole) // 6]))
        for name in ["whole", *(f"killed_{kill}" for kill in kills)]:
            found = losses(Path(folder) / name)
            print(f"{name:<14}" + " ".join(f"{found[step]:8.4f}" for step in list(found)[:: len(found) // 6]))
    print(f"\n{len(whole)} steps in {EPOCHS} epochs, a checkpoint every {SAVE_EVERY} steps and after each epoch")
    for kill, reached, worst, differing in rows:
        print(
            f"killed after step {reached} (asked: {kill}): losses differ by {worst}, {differing} saved entries differ"
        )


if __name__ == "__main__":
    main()
