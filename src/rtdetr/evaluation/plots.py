"""Plots of an evaluation: curves over recall and score, confusion matrix, AP per class. `save_plots` writes all.

With many classes, the curves of single classes are drawn in gray behind their mean, and the font is smaller.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtdetr.drawing import class_color
from rtdetr.errors import InputError
from rtdetr.evaluation.operating_points import ClassResult
from rtdetr.evaluation.precision import RECALL_POINTS
from rtdetr.evaluation.report import EvaluationReport
from rtdetr.fonts import FontPath
from rtdetr.fonts.figure import FigureNames, figure_names
from rtdetr.plot_style import BLUE, GRAY, PALE_BLUE, SMALL_TEXT, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = {  # file and caption
    "pr_curve.png": "Precision over recall, at IoU 0.5",
    "f1_curve.png": "F1 over the score threshold",
    "p_curve.png": "Precision over the score threshold",
    "r_curve.png": "Recall over the score threshold",
    "class_ap.png": "AP and AP50 per class",
    "confusion_matrix.png": "Confusion matrix at IoU 0.5 and the thresholds with the best F1",
}
_MAX_COLORS = 12  # classes up to which each has its own color and legend entry
_MAX_NUMBERS = 25  # classes up to which the confusion matrix shows numbers


def save_plots(report: EvaluationReport, folder: Path, *, font: FontPath = None) -> list[Path]:
    """Write all plots of a report to a folder, which is created if it does not exist.

    Args:
        report: report of an evaluation.
        folder: folder for the plots.
        font: .ttf or .otf file for class names. Without one, and for letters that it lacks, an installed font is used.

    Returns:
        The files: pr_curve.png, p_curve.png, r_curve.png, f1_curve.png, confusion_matrix.png and class_ap.png.

    Raises:
        InputError: a file cannot be written, or the font cannot be read.
    """
    plots: dict[str, Callable[[EvaluationReport, FigureNames], Figure]] = {
        "pr_curve.png": plot_precision_recall,
        "p_curve.png": plot_precision,
        "r_curve.png": plot_recall,
        "f1_curve.png": plot_f1,
        "confusion_matrix.png": plot_confusion,
        "class_ap.png": plot_class_ap,
    }
    names = figure_names(report.names, font=font)
    return [save_figure(plot(report, names), folder / name, error=InputError) for name, plot in plots.items()]


def plot_precision_recall(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot precision over recall at IoU 0.5, with AP50 in the legend."""
    precision = report.precision.precision()[:, 0]
    notes = ["no objects" if row.ap50 is None else f"{row.ap50:.3f}" for row in report.classes]
    mean = "AP50 -" if report.metrics.ap50 < 0 else f"AP50 {report.metrics.ap50:.3f}"
    labels = "recall", "precision"
    return _lines(names, RECALL_POINTS, precision, labels=labels, title=f"Precision over recall, {mean}", notes=notes)


def plot_precision(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot precision over the score threshold at IoU 0.5."""
    curves = report.curves
    return _lines(
        names,
        curves.scores,
        curves.precision,
        labels=("score threshold", "precision"),
        title="Precision over score threshold",
    )


def plot_recall(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot recall over the score threshold at IoU 0.5."""
    curves = report.curves
    return _lines(
        names, curves.scores, curves.recall, labels=("score threshold", "recall"), title="Recall over score threshold"
    )


def plot_f1(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot F1 over the score threshold at IoU 0.5, with the best threshold of each class in the legend."""
    curves = report.curves
    mean, title = _mean(curves.f1), "F1 over score threshold"
    if not np.isnan(mean).all():
        best = int(np.nanargmax(mean))
        label = "best mean" if len(report.names) > 1 else "best"
        title += f", {label} {mean[best]:.3f} at {curves.scores[best]:.2f}"
    notes = [_best_f1(row) for row in report.classes]
    return _lines(names, curves.scores, curves.f1, labels=("score threshold", "F1"), title=title, notes=notes)


def _best_f1(row: ClassResult) -> str:
    if row.f1 is None:
        return "no objects"
    return f"{row.f1:.2f}" if row.threshold is None else f"{row.f1:.2f} at {row.threshold:.2f}"


def plot_confusion(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot the confusion matrix at the best F1 thresholds: color is the fraction of the row, numbers are counts."""
    counts = report.confusion
    ticks = [*names.names, "background"]
    side = len(ticks)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    inches = float(np.clip(0.55 * side + 2.5, 5, 16))
    letters = float(np.clip(0.6 * 72 * (inches - 2) / side, 4, 10))
    figure = new_figure(inches * 1.08, inches)
    axes = figure.subplots()
    cells = axes.imshow(np.ma.masked_equal(share, 0), cmap="Blues", vmin=0, vmax=1)
    axes.set_facecolor("white")
    if side <= _MAX_NUMBERS + 1:
        for row, column in np.argwhere(counts).tolist():
            color = "white" if share[row, column] > 0.55 else "#222222"
            count = f"{counts[row, column]}"
            axes.text(column, row, count, ha="center", va="center", color=color, fontsize=min(letters, 9))
    text: Any = {"fontsize": letters, "fontfamily": names.families}
    axes.set_xticks(range(side), ticks, rotation=90 if side > 4 else 0, **text)
    axes.set_yticks(range(side), ticks, **text)
    axes.set_xticks(np.arange(side + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(side + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#e4e4e4", linewidth=0.6 if side <= 40 else 0.3)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title("Confusion matrix at the best F1 thresholds, IoU 0.5", loc="left")
    figure.colorbar(cells, ax=axes, shrink=0.6, label="fraction of the row").outline.set_visible(False)
    return figure


def plot_class_ap(report: EvaluationReport, names: FigureNames) -> "Figure":
    """Plot AP and AP50 of every class that has objects, best first."""
    named = zip(report.classes, names.names, strict=True)
    rows = sorted(((row, name) for row, name in named if row.ap is not None), key=lambda pair: pair[0].ap or 0.0)
    figure = new_figure(6.6, 1.6 + 0.22 * max(len(rows), 4))
    axes = figure.subplots()
    places = np.arange(len(rows))
    height = 0.72 if len(rows) > 2 else 0.4
    axes.barh(places, [row.ap50 or 0.0 for row, _ in rows], height, color=PALE_BLUE, label="AP50")
    axes.barh(places, [row.ap or 0.0 for row, _ in rows], height, color=BLUE, label="AP")
    for place, (row, _) in enumerate(rows):
        axes.text(
            (row.ap50 or 0.0) + 0.01,
            place,
            f"{row.ap:.3f} / {row.ap50:.3f}",
            va="center",
            fontsize=SMALL_TEXT,
            color=GRAY,
        )
    ticks = [f"{name} ({row.objects})" for row, name in rows]
    axes.set_yticks(places, ticks, fontsize=SMALL_TEXT, fontfamily=names.families)
    axes.set(xlim=(0, 1.15), xticks=np.linspace(0, 1, 6), ylim=(-0.7, max(len(rows), 1) - 0.3))
    style_axes(axes, title="AP / AP50 per class (number of objects)", grid="x")
    axes.tick_params(axis="y", length=0)
    if rows:
        figure.legend(*axes.get_legend_handles_labels(), frameon=False, ncols=2, loc="outside lower center")
    return figure


def _lines(
    names: FigureNames,
    x: np.ndarray,
    values: np.ndarray,
    *,
    labels: tuple[str, str],
    title: str,
    notes: list[str] | None = None,
) -> "Figure":
    """Plot one line per class and their mean; `notes` are appended to class names in the legend."""
    few = len(values) <= _MAX_COLORS
    figure = new_figure(6.6, 4.4)
    axes = figure.subplots()
    for label, (name, line) in enumerate(zip(names.names, values, strict=True)):
        note = f"  {notes[label]}" if notes else ""
        text = name + note if few else ("single classes" if label == 0 else None)
        color: Any = tuple(0.85 * c / 255 for c in class_color(label)) if few else GRAY
        axes.plot(x, line, color=color, linewidth=1.5 if few else 0.6, alpha=1 if few else 0.3, label=text)
    if len(values) > 1:
        axes.plot(x, _mean(values), color=BLUE, linewidth=3, label="mean")
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
    style_axes(axes, title=title)
    place: Any = {"loc": "outside right upper"} if few else {"loc": "outside lower center", "ncols": 2}
    prop = {"family": names.families, "size": SMALL_TEXT}
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, prop=prop, **place)
    return figure


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that have a value; NaN if none has."""
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)
