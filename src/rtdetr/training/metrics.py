"""What a run leaves to look at: metrics.jsonl, TensorBoard scalars and the picture of the learning curve."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.errors import TrainingError
from rtdetr.files import write_atomically

METRICS_FILE = "metrics.jsonl"
CURVE_FILE = "learning_curve.png"
GREY, ORANGE, BLUE = "#4c5b70", "#e08a2e", "#2a6fbb"


class StepRecord(NamedTuple):
    """What was measured over the last few steps.

    Attributes:
        iteration: steps made so far, this one included.
        epoch: the epoch under way, counted from 1.
        loss: mean of the total loss.
        terms: mean of each weighted term.
        learning_rates: of the last step, one a parameter group.
        gradient_norm: mean of the global norm before clipping; None where a float16 step was skipped.
        images_per_second: including the wait for data.
        data_wait: share of the time spent waiting for the loader, in [0, 1].
    """

    iteration: int
    epoch: int
    loss: float
    terms: dict[str, float]
    learning_rates: list[float]
    gradient_norm: float | None
    images_per_second: float
    data_wait: float


class EpochRecord(NamedTuple):
    """One finished epoch, counted from 1.

    Attributes:
        epoch: its number.
        iteration: steps made so far over the whole run.
        loss: mean of the total loss; None if the run was resumed after the epoch's last step.
        terms: mean of each weighted term.
        ap: the twelve COCO numbers of the averaged weights; None where they were not evaluated.
        seconds: time spent training.
    """

    epoch: int
    iteration: int
    loss: float | None
    terms: dict[str, float]
    ap: list[float] | None
    seconds: float


class MetricsWriter:
    """Writes records to metrics.jsonl and TensorBoard; on resuming, records past the checkpoint are dropped first."""

    def __init__(self, folder: Path, *, iteration: int, epoch: int) -> None:
        """Start or continue the files in `folder` at a run's position: steps made and epochs finished."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run needs it

        self._path = folder / METRICS_FILE
        kept = [row for row in read_records(folder) if _is_before(row, iteration, epoch)]
        _write_text(self._path, "".join(_line(row) for row in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration + 1)

    def step(self, record: StepRecord) -> None:
        """Log the means of the last steps."""
        self._append({"kind": "step", **record._asdict()})
        self._board.add_scalar("Loss/total", record.loss, record.iteration)
        for name, value in record.terms.items():
            self._board.add_scalar(f"Loss/{name}", value, record.iteration)
        for index, rate in enumerate(record.learning_rates):
            self._board.add_scalar(f"Lr/pg_{index}", rate, record.iteration)

    def epoch(self, record: EpochRecord) -> None:
        """Log a finished epoch."""
        self._append({"kind": "epoch", **record._asdict()})
        for index, value in enumerate(record.ap or ()):
            self._board.add_scalar(f"Test/coco_eval_bbox_{index}", value, record.epoch)
        self._board.flush()

    def close(self) -> None:
        """Flush and close both files."""
        self._file.close()
        self._board.close()

    def _append(self, row: Mapping[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl, none without such a file; a line that a kill cut off is left out."""
    path = folder / METRICS_FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def draw_learning_curve(folder: Path) -> None:
    """Draw training loss and validation AP over the epochs of metrics.jsonl into learning_curve.png."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [row for row in read_records(folder) if row["kind"] == "epoch"]
    trained = [row for row in epochs if row["loss"] is not None]
    evaluated = [row for row in epochs if row["ap"] and row["ap"][0] >= 0]  # negative: no objects there
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=120)
    loss_axes, ap_axes = figure.subplots(1, 2)
    _plot(loss_axes, trained, [row["loss"] for row in trained], color=GREY)
    loss_axes.set(title="Training loss", xlabel="epoch", ylabel="sum of the weighted terms")
    for index, label, color in ((1, "AP50", ORANGE), (0, "AP50:95", BLUE)):
        _plot(ap_axes, evaluated, [row["ap"][index] for row in evaluated], color=color, label=label)
    title, top = "Validation AP", 1.0
    if evaluated:
        best = max(evaluated, key=lambda row: row["ap"][0])
        title += f", best {best['ap'][0]:.3f} in epoch {best['epoch']}"
        top = min(1.0, 1.15 * max(row["ap"][1] for row in evaluated)) or 1.0
        _plot(ap_axes, [best], [best["ap"][0]], color=BLUE, markersize=8, markerfacecolor="white")
        ap_axes.legend(frameon=False, loc="upper left")
    ap_axes.set(title=title, xlabel="epoch", ylim=(0, max(top, 0.01)))
    for axes in (loss_axes, ap_axes):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    write_atomically(
        folder / CURVE_FILE, lambda temporary: figure.savefig(temporary, format="png"), error=TrainingError
    )


def _plot(axes: Any, rows: Sequence[Mapping[str, Any]], values: list[float], **style: Any) -> None:
    style = {"marker": "o" if len(values) <= 30 else "", "markersize": 3.5, **style}
    if rows:  # lines without points would leave the layout without a size
        axes.plot([row["epoch"] for row in rows], values, clip_on=False, **style)


def _is_before(row: Mapping[str, Any], iteration: int, epoch: int) -> bool:
    return row["iteration"] <= iteration if row["kind"] == "step" else row["epoch"] <= epoch


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error=TrainingError)


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row) + "\n"
