"""Results of a benchmark: a table, data for a JSON file, a bar chart, and a description of the machine."""

import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtdetr._version import __version__
from rtdetr.benchmark.measure import STAGES, Measurement
from rtdetr.benchmark.profile import Profile
from rtdetr.benchmark.throughput import Throughput
from rtdetr.errors import InputError
from rtdetr.machine import has_amx, num_cores, package_versions, processor
from rtdetr.plot_style import BLUE, GRAY, ORANGE, PALE_BLUE, SMALL_TEXT, new_figure, save_figure, style_axes
from rtdetr.wording import counted, text_table

PACKAGES = ("numpy", "pillow", "torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
_COLORS = {"decode": GRAY, "preprocess": PALE_BLUE, "network": BLUE, "postprocess": ORANGE}


def environment() -> dict[str, Any]:
    """Describe the machine and the versions of the relevant packages."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "processor": f"{processor()} with AMX" if has_amx() else processor(),
        "cores": num_cores(),
        "python": platform.python_version(),
        "rtdetr": __version__,
        **{name: version for name, version in package_versions(PACKAGES).items() if version is not None},
    }


def table(found: Sequence[Measurement]) -> str:
    """Format a table: medians per stage and percentiles of the total in milliseconds, images/s and memory."""
    header = ("model", "runs as", "batch", *STAGES, "total", "p90", "p99", "images/s", "peak MB")
    rows: list[tuple[str, ...]] = [header]
    for one in found:
        numbers = [f"{one.stages[stage].p50:.2f}" for stage in STAGES]
        numbers += [f"{value:.2f}" for value in one.total]
        memory = "-" if one.peak_memory_mb is None else f"{one.peak_memory_mb:.0f}"
        threads = "" if one.num_threads is None else f", {counted(one.num_threads, 'thread')}"
        runs_as = one.description.partition(" in ")[2] + threads
        rows.append((one.name, runs_as, str(one.batch_size), *numbers, f"{one.images_per_second:.1f}", memory))
    lines = text_table(rows, right=[column >= 2 for column in range(len(header))])
    return f"{lines}\ntimes per batch in milliseconds; stages and total are medians"


def to_json(
    found: Sequence[Measurement], profiles: Sequence[Profile] = (), throughput: Sequence[Throughput] = ()
) -> dict[str, Any]:
    """Return all measurements, profiles, searches for the highest throughput, and the environment."""
    rows = []
    for one in found:
        row = asdict(one)
        row["stages"] = {stage: summary._asdict() for stage, summary in one.stages.items()}
        rows.append(row | {"total": one.total._asdict(), "size_hw": list(one.size_hw)})
    content: dict[str, Any] = {"environment": environment(), "milliseconds": True, "measurements": rows}
    content |= {"profiles": [one._asdict() for one in profiles]} if profiles else {}
    return content | ({"throughput": [one.to_json() for one in throughput]} if throughput else {})


def chart_kind(path: Path) -> str:
    """Return the format of a chart file, from its suffix.

    Raises:
        InputError: the format is not supported.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise InputError(f"expected a chart file ending in .png, .svg or .pdf, got {path}")
    return kind


def save_chart(found: Sequence[Measurement], path: Path) -> Path:
    """Draw one bar per measurement, stacked from its stages.

    Raises:
        InputError: the file cannot be written, or its format is not supported.
    """
    from rtdetr.fonts.figure import figure_names

    kind = chart_kind(path)
    figure = new_figure(9, 1.4 + 0.55 * len(found))
    axes = figure.subplots()
    left = [0.0] * len(found)
    for stage in STAGES:
        widths = [one.stages[stage].p50 / one.batch_size for one in found]
        axes.barh(range(len(found)), widths, left=left, height=0.6, color=_COLORS[stage], label=stage)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, (end, one) in enumerate(zip(left, found, strict=True)):  # the median total is not the sum of medians
        axes.annotate(
            f"{one.total.p50 / one.batch_size:.1f}",
            (end, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL_TEXT,
        )
    names = figure_names([one.name for one in found], stand_in="model")
    notes = [f"{one.precision}, batch {one.batch_size}" for one in found]
    labels = [f"{name}\n{note}" for name, note in zip(names.names, notes, strict=True)]
    axes.set_yticks(range(len(found)), labels, fontsize=SMALL_TEXT, fontfamily=names.families)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(left))
    axes.set_xlabel("milliseconds per image (medians; numbers: median total)")
    style_axes(axes, title="Time per image", grid="x")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(STAGES), frameon=False)
    return save_figure(figure, path, error=InputError, kind=kind)
