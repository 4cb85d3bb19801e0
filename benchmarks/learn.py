"""AP curves of our training and that of transformers, and of the recipes `finetune` and `published`.

    python benchmarks/learn.py [--seeds 3] [--steps 1200] [--device cpu] [--folder FOLDER]

From scratch: both networks start from the same weights and see the same batches with the same optimizer, schedule and
EMA. Each is trained with the loss of its own library and evaluated by the same code. Fine-tuning: `rtdetr.train` starts
from one network trained on other classes. On a CPU, each run uses one thread. On a GPU, runs are sequential, with a
larger network and more images. The script prints tables and draws learn.png next to this file.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from learn_dataset import CLASSES, make_dataset
from learn_runs import (
    CPU,
    CUDA,
    LEARNERS,
    Point,
    Scale,
    finetune,
    first_loss,
    pretrain,
    train_from_scratch,
    use_one_thread,
)
from peers import environment, print_table

from rtdetr.machine import num_cores

SHORT_WARMUP = "published with short warm-up"
RECIPES = ("published", SHORT_WARMUP, "finetune")
COLORS = {"ours": "#2a6fbb", "transformers": "#e08a2e"}
COLORS |= {"finetune": "#2a6fbb", "published": "#e08a2e", SHORT_WARMUP: "#8a97a6"}
Runs = dict[str, list[list[Point]]]  # by name, seed and evaluation


class Mean(NamedTuple):
    """Mean over the seeds and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: list[float]) -> "Mean":
        error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), error)

    def __str__(self) -> str:
        return f"{100 * self.value:.2f} ± {100 * self.error:.2f}"


def curve(runs: list[list[Point]], field: str = "ap") -> list[Mean]:
    """Return the mean of each evaluation over the seeds."""
    return [Mean.of([getattr(point, field) for point in points]) for points in zip(*runs, strict=True)]


def show(title: str, runs: Runs) -> None:
    """Print one row per evaluation, AP and AP50 in percent."""
    names = list(runs)
    header = (f"{title}: steps", *(f"{field}, {name}" for field in ("AP", "AP50") for name in names))
    columns = [curve(runs[name], field) for field in ("ap", "ap50") for name in names]
    steps = [str(point.step) for point in runs[names[0]][0]]
    print_table(header, [(step, *map(str, row)) for step, *row in zip(steps, *columns, strict=True)])


def compare(runs: Runs, one: str, other: str) -> None:
    """Print the final difference with its combined standard error."""
    a, b = (curve(runs[name])[-1] for name in (one, other))
    difference = Mean(a.value - b.value, (a.error**2 + b.error**2) ** 0.5)
    print(f"AP of {one} - {other} at the end: {100 * difference.value:+.2f} ± {100 * difference.error:.2f}\n")


def draw(path: Path, learned: Runs, tuned: Runs) -> None:
    """Plot the curves: mean, a band of one standard error, and each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained", dpi=110)
    titles = ("From scratch, 20 classes", "Fine-tuning, 8 new classes")
    for axes, runs, title in zip(figure.subplots(1, 2), (learned, tuned), titles, strict=True):
        for name, all_points in runs.items():
            steps = [point.step for point in all_points[0]]
            mean = curve(all_points)
            for points in all_points:
                axes.plot(steps, [100 * p.ap for p in points], color=COLORS[name], linewidth=0.7, alpha=0.45)
            axes.plot(steps, [100 * m.value for m in mean], "o-", color=COLORS[name], markersize=4, label=name)
            low, high = ([100 * (m.value + sign * m.error) for m in mean] for sign in (-1, 1))
            axes.fill_between(steps, low, high, color=COLORS[name], alpha=0.18, linewidth=0)
        axes.set(title=title, xlabel="step", ylabel="validation AP (%)", xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper left", title=f"mean of {len(all_points)} seeds ± standard error")
    figure.savefig(path)


def gather(futures: dict[str, list[Future[list[Point]]]]) -> Runs:
    """Wait for the runs and report each completed one."""
    runs: Runs = {}
    for name, some in futures.items():
        runs[name] = []
        for future in some:
            runs[name].append(future.result())
            print(
                f"{name}, seed {len(runs[name]) - 1}: AP {100 * runs[name][-1][-1].ap:.2f}", file=sys.stderr, flush=True
            )
    return runs


def measure(scale: Scale, folder: Path, options: argparse.Namespace) -> tuple[Runs, Runs]:
    """Create the datasets and run everything."""
    other_classes = [name for name in CLASSES if name.split()[1] in ("disk", "square", "star")]
    new_classes = [name for name in CLASSES if name not in other_classes]
    all_data = make_dataset(folder / "all", num_train=scale.train_images, num_val=scale.val_images, seed=0)
    amounts: dict[str, Any] = {"num_train": scale.train_images, "num_val": 1}
    other_data = make_dataset(folder / "other", **amounts, seed=1, classes=other_classes)
    amounts = {"num_train": scale.finetune_images, "num_val": scale.val_images}
    new_data = make_dataset(folder / "new", **amounts, seed=2, classes=new_classes)
    common: dict[str, Any] = {"scale": scale, "device": options.device}
    seeds = range(options.seeds)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=spawn, initializer=use_one_thread) as pool:
        losses = [pool.submit(first_loss, name, all_data, **common) for name in LEARNERS]
        pairs = zip(LEARNERS, losses, strict=True)
        print("Loss of the first batch: " + ", ".join(f"{name} {loss.result():.6f}" for name, loss in pairs), "\n")
        start = pool.submit(pretrain, other_data, folder / "start", steps=options.steps, **common)
        learning: dict[str, list[Future[list[Point]]]] = {name: [] for name in LEARNERS}
        for seed in seeds:
            for name in LEARNERS:
                settings = {"file": folder / f"{name} {seed}.json", "steps": options.steps, "seed": seed, **common}
                future = pool.submit(train_from_scratch, name, all_data, **settings)
                learning[name].append(future)
        common |= {"weights": start.result(), "epochs": options.finetune_epochs}
        tuning: dict[str, list[Future[list[Point]]]] = {name: [] for name in RECIPES}
        for seed in seeds:
            for name in RECIPES:
                run_folder = folder / f"{name} {seed}"
                tuning[name].append(pool.submit(finetune, name, new_data, run_folder, seed=seed, **common))
        return gather(learning), gather(tuning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="steps of training from scratch")
    parser.add_argument("--finetune-epochs", type=int, help="epochs of fine-tuning")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, help="parallel runs; default: 1 on a GPU, otherwise one per core")
    parser.add_argument(
        "--folder", type=Path, help="folder for datasets and runs, to resume after an interruption; default: temporary"
    )
    parser.add_argument("--chart", type=Path, default=Path(__file__).parent / "learn.png")
    options = parser.parse_args()
    scale = CPU if options.device == "cpu" else CUDA
    options.steps = options.steps or scale.steps
    options.finetune_epochs = options.finetune_epochs or scale.finetune_epochs
    options.processes = options.processes or (num_cores() if options.device == "cpu" else 1)
    print(environment(options.device), "\n")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        learned, tuned = measure(scale, options.folder or Path(temporary), options)
    size = f"{scale.network.name}, {scale.side}x{scale.side}, batch {scale.batch}, {options.seeds} seeds"
    show(f"{size}, from scratch", learned)
    compare(learned, "ours", "transformers")
    show(f"{size}, {scale.finetune_images} images of new classes", tuned)
    compare(tuned, "finetune", "published")
    compare(tuned, "finetune", SHORT_WARMUP)
    draw(options.chart, learned, tuned)
    print(f"{time.perf_counter() - begin:.0f} s, {options.processes} parallel runs; wrote {options.chart.name}")


if __name__ == "__main__":
    main()
