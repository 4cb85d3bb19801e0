"""The style of all plots: colors, sizes and axes. For class names see `fonts/figure.py`.

Backgrounds are white, so that files can be printed and shared. On a dark screen `page.css` inverts plots.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtdetr.errors import RTDETRError
from rtdetr.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GRAY = "#2a6fbb", "#e08a2e", "#3a9b6f", "#4c5b70"
PALE_BLUE, PALE_GRAY = "#c3d7ea", "#c3ccd6"
SERIES = (BLUE, ORANGE, GREEN, GRAY)  # colors of lines or bars, in this order
DPI = 120
SMALL_TEXT = 8.5  # points; for values next to bars and class names on axes


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure with a size in inches and automatic layout."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.06), dpi=DPI)


def style_axes(axes: Any, *, title: str, grid: str = "both") -> None:
    """Set a left-aligned title, remove the frame, and draw a faint grid behind the data.

    Args:
        axes: matplotlib axes.
        title: title of the axes.
        grid: axis of the grid lines: "x", "y" or "both".
    """
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, axis=grid)
    axes.set_axisbelow(True)


def save_figure(figure: "Figure", path: Path, *, error: type[RTDETRError], kind: str = "png") -> Path:
    """Write a figure.

    Raises:
        RTDETRError: of class `error`: the file cannot be written.
    """
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind), error=error)
