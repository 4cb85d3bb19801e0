"""Learning curves: total loss, accuracy, loss terms and learning rate over the epochs of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtdetr.errors import TrainingError
from rtdetr.plot_style import BLUE, GRAY, ORANGE, PALE_GRAY, SERIES, new_figure, save_figure, style_axes
from rtdetr.reports.metrics import read_records

CURVE_FILE = "learning_curve.png"
Rows = list[dict[str, Any]]


def draw_learning_curve(folder: Path) -> Path:
    """Plot the rows of metrics.jsonl to learning_curve.png.

    Raises:
        TrainingError: the plot cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    rows = read_records(folder)
    steps = [row for row in rows if row["kind"] == "step"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    # steps are placed between epochs with the mean number of steps per epoch
    per_epoch = epochs[-1]["iteration"] / epochs[-1]["epoch"] if epochs else 1.0
    times = np.array([row["iteration"] for row in steps]) / per_epoch
    figure = new_figure(11, 7)
    (loss, accuracy), (terms, rate) = figure.subplots(2, 2)
    _draw_loss(loss, steps, times, epochs)
    _draw_accuracy(accuracy, epochs)
    _draw_terms(terms, steps, times)
    _draw_rate(rate, steps, times)
    for axes in (loss, accuracy, terms, rate):
        axes.set_xlabel("epoch" if epochs or axes is accuracy else "step")
        axes.margins(x=0.02)
        if axes is accuracy or len(epochs) > 3:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(epochs) > 1:
            axes.set_xlim(0, epochs[-1]["epoch"] * 1.02)
    return save_figure(figure, folder / CURVE_FILE, error=TrainingError)


def _draw_loss(axes: Any, steps: Rows, times: np.ndarray, epochs: Rows) -> None:
    trained = [row for row in epochs if row["loss"] is not None]
    values = [row["loss"] for row in steps]
    if len(values) > 1:
        axes.plot(times, values, color=PALE_GRAY, linewidth=1)
        # the high loss of the first steps would flatten the rest
        axes.set_ylim(*_limits(values))
    _plot(axes, [row["epoch"] for row in trained], [row["loss"] for row in trained], color=GRAY)
    style_axes(axes, title="Training loss")
    axes.set_ylabel("sum of the weighted terms")


def _draw_accuracy(axes: Any, epochs: Rows) -> None:
    evaluated = [row for row in epochs if row["ap"] and row["ap"][0] >= 0]  # negative: no objects
    title, top = "Validation AP", 1.0
    times = [row["epoch"] for row in evaluated]
    for index, label, color in ((1, "AP50", ORANGE), (0, "AP50:95", BLUE)):
        _plot(axes, times, [row["ap"][index] for row in evaluated], color=color, label=label)
    if evaluated:
        best = max(evaluated, key=lambda row: row["ap"][0])
        title += f", best {best['ap'][0]:.3f} in epoch {best['epoch']}"
        top = min(1.0, 1.15 * max(row["ap"][1] for row in evaluated)) or 1.0
        _plot(axes, [best["epoch"]], [best["ap"][0]], color=BLUE, markersize=8, markerfacecolor="white")
        axes.legend(frameon=False, loc="upper left")
    else:
        axes.text(0.5, 0.5, "not evaluated", transform=axes.transAxes, ha="center", color=GRAY)
    style_axes(axes, title=title)
    axes.set_ylim(0, max(top, 0.01))


def _draw_terms(axes: Any, steps: Rows, times: np.ndarray) -> None:
    """Plot the loss terms of the last decoder layer; those of the other layers are similar."""
    names = [name for name in (steps[-1]["terms"] if steps else {}) if name.count("_") == 1]
    for name, color in zip(names, SERIES, strict=False):
        values = np.array([row["terms"].get(name, np.nan) for row in steps])
        axes.plot(times, _smooth(values), color=color, label=name.removeprefix("loss_"), linewidth=1.6)
    if names:
        axes.legend(frameon=False, loc="upper right", ncols=len(names))
    style_axes(axes, title="Loss terms of the last decoder layer")
    axes.set_ylabel("weighted loss")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])  # room for the legend


def _draw_rate(axes: Any, steps: Rows, times: np.ndarray) -> None:
    """Plot one line per learning rate; groups with the same rate share a line."""
    columns = {tuple(rates): None for rates in zip(*(row["learning_rates"] for row in steps), strict=False)}
    highest_first = sorted(columns, key=max, reverse=True)
    for rates, color in zip(highest_first, SERIES, strict=False):
        axes.plot(times, rates, color=color, linewidth=1.6, label=f"up to {max(rates):.3g}")
    if len(columns) > 1:
        axes.legend(frameon=False, loc="best")
    style_axes(axes, title="Learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)


def _plot(axes: Any, times: Sequence[Any], values: Sequence[Any], **style: Any) -> None:
    style = {"marker": "o" if len(values) <= 30 else "", "markersize": 3.5, **style}
    if values:  # the layout fails on empty lines
        axes.plot(times, values, clip_on=False, **style)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving average over 1/50 of the run, of the values that exist."""
    width = len(values) // 50
    if width < 2:
        return values
    known = ~np.isnan(values)
    window = np.ones(width)
    counts = np.convolve(known, window, mode="same")
    sums = np.convolve(np.where(known, values, 0.0), window, mode="same")
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _limits(values: Sequence[Any]) -> tuple[float, float]:
    low, high = float(min(values)), float(np.quantile(values, 0.98))
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    return max(low - margin, 0.0) if low >= 0 else low - margin, high + margin
