"""Compare the gain that the outlook of a run predicts for more steps with runs that were really made longer.

    python benchmarks/outlook.py SHORT LONG [SHORT LONG ...]

Each pair of folders holds runs at the same relative paths, such as "scratch, 400 steps" and "scratch, 1000 steps" of
`learning.py --folder`. The runs of a path must have the same data, model, recipe and seed; only the number of epochs
differs. Unfinished runs are skipped. The script prints one row per pair: AP in percent, its predicted gain with the
interval, and the real gain; then the share of the pairs whose gain is inside the interval.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from peers import print_table

from rtdetr.reports.metrics import METRICS_FILE, read_records
from rtdetr.reports.outlook import Forecast, forecast
from rtdetr.run_files import CONFIG_FILE

SAME = ("data", "val_data", "model", "network", "recipe_name", "weights", "seed")


class Run(NamedTuple):
    """A finished run: its settings, number of steps, and the step and AP of each evaluation."""

    config: dict[str, Any]
    num_steps: int
    curve: list[tuple[int, float]]

    @property
    def best_ap(self) -> float:
        """Highest AP of the run."""
        return max(ap for _, ap in self.curve)


class Pair(NamedTuple):
    """A short and a long run, and what is predicted from the short one."""

    name: str
    short: Run
    long: Run
    predicted: Forecast | None

    @property
    def gain(self) -> float:
        """Real gain in AP, a fraction of 1."""
        return self.long.best_ap - self.short.best_ap

    @property
    def is_inside(self) -> bool:
        """Whether the real gain is inside the interval."""
        return self.predicted is not None and self.predicted.low <= self.gain <= self.predicted.high


def read_run(folder: Path) -> Run | None:
    """Read a run folder; None if the run is not finished or was not evaluated."""
    if not (folder / METRICS_FILE).exists() or not (folder / CONFIG_FILE).exists():
        return None
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    epochs = [row for row in read_records(folder) if row["kind"] == "epoch"]
    if not epochs or epochs[-1]["epoch"] < config["recipe"]["epochs"]:
        return None
    curve = [(row["iteration"], row["ap"][0]) for row in epochs if row["ap"] and row["ap"][0] >= 0]
    return Run(config, epochs[-1]["iteration"], curve) if curve else None


def pairs_of(short: Path, long: Path) -> list[Pair]:
    """Return the pairs of finished runs at the same paths below two folders, by path."""
    found = []
    for path in sorted(file.parent.relative_to(short) for file in short.rglob(METRICS_FILE)):
        one, other = read_run(short / path), read_run(long / path)
        if one is None or other is None:
            continue
        different = [name for name in SAME if one.config.get(name) != other.config.get(name)]
        if different:
            print(f"{path}: left out, because the runs differ in {', '.join(different)}")
        elif other.num_steps <= one.num_steps:
            print(f"{path}: left out, because {other.num_steps} steps are not more than {one.num_steps}")
        else:
            predicted = forecast(one.curve, one.num_steps, factor=other.num_steps / one.num_steps)
            found.append(Pair(str(path), one, other, predicted))
    return found


def rows_of(pairs: list[Pair]) -> list[tuple[str, ...]]:
    """Return one row of text per pair."""
    rows = []
    for pair in pairs:
        steps = f"{pair.short.num_steps} to {pair.long.num_steps}"
        texts = ("cannot tell", "-")
        if pair.predicted is not None:
            gain, low, high = (f"{100 * value:+.1f}" for value in pair.predicted)
            texts = (f"{gain} ({low} to {high})", "yes" if pair.is_inside else "no")
        aps = (f"{100 * pair.short.best_ap:.1f}", f"{100 * pair.gain:+.1f}")
        rows.append((pair.name, steps, aps[0], texts[0], aps[1], texts[1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="SHORT LONG [SHORT LONG ...]")
    folders = parser.parse_args().folders
    if len(folders) % 2:
        parser.error(f"expected an even number of folders, got {len(folders)}")
    pairs = [pair for short, long in zip(folders[::2], folders[1::2], strict=True) for pair in pairs_of(short, long)]
    print_table(("run", "steps", "AP", "predicted gain", "real gain", "inside"), rows_of(pairs))
    told = [pair for pair in pairs if pair.predicted is not None]
    print(f"\n{sum(pair.is_inside for pair in told)} of {len(told)} real gains are inside the interval")
    print(f"{len(pairs) - len(told)} of {len(pairs)} short runs do not allow a prediction")


if __name__ == "__main__":
    main()
