"""What a comparison of recipes found: AP of each run, their means and spread, a table, a verdict and a plot."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rtdetr.errors import TrainingError
from rtdetr.plot_style import SERIES, new_figure, save_figure, style_axes
from rtdetr.wording import counted, text_table

_LOWEST_AP = 0.01  # below, nothing has been learned yet
_SURE = 2.0  # a difference of this many standard errors is not due to chance


class Evaluation(NamedTuple):
    """One evaluation of a run.

    Attributes:
        step: number of steps so far.
        seconds: time of training so far, without evaluations.
        ap: COCO AP on the validation data, 0..1.
        ap50: AP at an IoU of 0.50.
        ap_small: AP of objects below 32 x 32 pixels; -1 if there are none.
    """

    step: int
    seconds: float
    ap: float
    ap50: float
    ap_small: float


class Mean(NamedTuple):
    """Mean over the seeds and their standard deviation; 0 with one seed."""

    value: float
    spread: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Summarize values."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.spread:.1f}"


class Comparison(NamedTuple):
    """Result of `compare`.

    Attributes:
        steps: steps of each run of the first recipe; others may differ, see `compare`.
        batch_size: images per step.
        runs: evaluations by recipe, seed and time.
    """

    steps: int
    batch_size: int
    runs: dict[str, list[list[Evaluation]]]

    @property
    def num_seeds(self) -> int:
        """Runs per recipe."""
        return len(next(iter(self.runs.values())))

    @property
    def shortest_seconds(self) -> float:
        """Mean training time of the fastest recipe: the time at which `at_equal_time` compares."""
        return min(self.seconds(name) for name in self.runs)

    def final(self, recipe: str, field: str = "ap") -> Mean:
        """Return a number of the last evaluation, such as "ap50"."""
        return Mean.of([getattr(run[-1], field) for run in self.runs[recipe]])

    def seconds(self, recipe: str) -> float:
        """Return the mean training time of a run."""
        return statistics.fmean(run[-1].seconds for run in self.runs[recipe])

    def at_equal_time(self, recipe: str) -> Mean:
        """Return the AP after the training time of the fastest recipe, interpolated between evaluations.

        All runs of a recipe count as equally fast, so other programs on the machine make no difference between seeds.
        """
        share = self.shortest_seconds / self.seconds(recipe)  # of the time of each run
        curves = [([0.0, *(one.seconds for one in run)], [0.0, *(one.ap for one in run)]) for run in self.runs[recipe]]
        return Mean.of([float(np.interp(share * times[-1], times, aps)) for times, aps in curves])

    def ranking(self) -> list[str]:
        """Return the recipes by mean AP, the best first."""
        return sorted(self.runs, key=lambda name: -self.final(name).value)

    def difference(self, one: str, other: str) -> tuple[float, float]:
        """Return the difference in mean AP of two recipes, and its standard error."""
        first, second = self.final(one), self.final(other)
        error = (first.spread**2 / len(self.runs[one]) + second.spread**2 / len(self.runs[other])) ** 0.5
        return first.value - second.value, error

    def verdict(self) -> str:
        """Say on one line which recipe is best, or why that is not known."""
        best, second, *_ = self.ranking()
        ahead, error = self.difference(best, second)
        gap = f"{100 * ahead:+.1f} AP compared with {second}"
        if self.final(best).value < _LOWEST_AP:
            return f"{counted(self.steps, 'step')} are too few to compare: no recipe reaches an AP of 1 %"
        if self.num_seeds == 1:
            return f"{best} is first ({gap}), but one seed does not show whether that is chance: use at least 3"
        if ahead < _SURE * error or ahead == 0:
            return f"no recipe is best: {best} has {gap}, with a standard error of {100 * error:.1f}"
        return f"{best} is best: {gap}, with a standard error of {100 * error:.1f}"

    def table(self) -> str:
        """Return a table as text, the best recipe first: means over the seeds ± standard deviation, in percent."""
        header = ("recipe", "AP", "AP50", "AP small", f"AP after {self.shortest_seconds:.0f} s", "s per run")
        rows: list[Sequence[str]] = [header]
        for name in self.ranking():
            small = self.final(name, "ap_small")
            numbers = (self.final(name), self.final(name, "ap50"), "-" if small.value < 0 else small)
            rows.append((name, *map(str, (*numbers, self.at_equal_time(name))), f"{self.seconds(name):.0f}"))
        return (
            f"{counted(self.steps, 'step')} of {counted(self.batch_size, 'image')}, "
            f"{counted(self.num_seeds, 'seed')}; validation AP in percent\n\n"
            f"{text_table(rows, right=(False, *[True] * 5))}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dump`."""
        runs = {name: [[one._asdict() for one in run] for run in some] for name, some in self.runs.items()}
        return {"steps": self.steps, "batch_size": self.batch_size, "verdict": self.verdict(), "runs": runs}

    def draw(self, path: Path) -> Path:
        """Plot AP over steps and over time: the mean of each recipe, and each run.

        Raises:
            TrainingError: the plot cannot be written.
        """
        figure = new_figure(11, 4.2)
        by_step, by_time = figure.subplots(1, 2, sharey=True)
        for index, name in enumerate(self.ranking()):
            color = SERIES[index % len(SERIES)]
            style = "-" if index < len(SERIES) else "--"
            for axes, field in ((by_step, "step"), (by_time, "seconds")):
                places = [[getattr(one, field) for one in run] for run in self.runs[name]]
                values = [[100 * one.ap for one in run] for run in self.runs[name]]
                for place, value in zip(places, values, strict=True):
                    axes.plot(place, value, style, color=color, linewidth=0.8, alpha=0.4)
                mean = np.mean(places, axis=0), np.mean(values, axis=0)
                axes.plot(*mean, style, color=color, marker="o", markersize=4, label=name)
        style_axes(by_step, title=f"AP over steps, mean of {counted(self.num_seeds, 'seed')}")
        style_axes(by_time, title="AP over training time")
        by_step.set(xlabel="step", ylabel="validation AP (%)", xlim=(0, None), ylim=(0, None))
        by_time.set(xlabel="seconds", xlim=(0, None))
        by_time.axvline(self.shortest_seconds, color="black", linewidth=0.8, linestyle=":")
        by_step.legend(frameon=False, loc="upper left")
        return save_figure(figure, path, error=TrainingError, kind=path.suffix.lstrip(".").lower() or "png")
