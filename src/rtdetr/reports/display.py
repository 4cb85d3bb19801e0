"""Progress display of a run: a live progress bar in a terminal, otherwise plain lines."""

import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column

from rtdetr.evaluation.report import percent
from rtdetr.reports.metrics import EpochRecord, StepRecord


class RunDisplay:
    """Shows the progress of a run on standard error."""

    def __init__(self, *, num_epochs: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._num_epochs = num_epochs
        self._total = 0
        columns = (
            TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=24),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, ratio=1, overflow="ellipsis")),
        )
        self._bar = Progress(
            *columns, console=self._console, transient=True, disable=not self._console.is_terminal, expand=True
        )
        self._task = self._bar.add_task("", status="")

    @property
    def is_live(self) -> bool:
        """Whether `step` may be called at every step: a terminal updates its bar, otherwise each call prints a line."""
        return self._console.is_terminal

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self._console.print(text, markup=False)

    def start_bar(self, epoch: int, *, done: int, total: int) -> None:
        """Start the progress bar of an epoch, counted from 1, with `done` of `total` batches finished."""
        self._total = total
        name = f"epoch {epoch}/{self._num_epochs}"
        self._bar.reset(self._task, total=total, completed=done, description=name, status="[dim]waiting for data")
        self._bar.start()

    def stop_bar(self) -> None:
        """Remove the progress bar, so that others can print."""
        self._bar.stop()

    def advance(self) -> None:
        """Advance the progress bar by one batch."""
        self._bar.advance(self._task)

    def step(self, record: StepRecord, *, batch: int, seconds_left: float) -> None:
        """Show the means of the last steps next to the progress bar, or as a line."""
        if self.is_live:
            self._bar.update(self._task, status=_status(record, seconds_left, wait_style="yellow"))
        else:
            status = _status(record, seconds_left)
            self.say(f"epoch {record.epoch}/{self._num_epochs}  step {batch}/{self._total}  {status}")

    def end_epoch(self, record: EpochRecord, *, best: tuple[float, int] | None) -> None:
        """Print the summary of a finished epoch; `best` is the best AP so far and its epoch, counted from 1."""
        words = [f"epoch {record.epoch}/{self._num_epochs}"]
        if record.loss is not None:
            words.append(f"loss {record.loss:.2f}")
        if record.ap is not None:
            words += [f"AP {percent(record.ap[0])}", f"AP50 {percent(record.ap[1])}"]
        if best is not None:
            words.append(f"best AP {percent(best[0])} in epoch {best[1]}")
        self.say("  ".join([*words, _duration(record.seconds)]))


def _status(record: StepRecord, seconds_left: float, *, wait_style: str | None = None) -> str:
    """Status text, time left first because narrow terminals cut off the end. Long waits for data are highlighted."""
    wait = f"data wait {record.data_wait:.0%}"
    if wait_style and record.data_wait > 0.2:
        wait = f"[{wait_style}]{wait}[/]"
    parts = [
        f"left {_duration(seconds_left)}",
        f"loss {record.loss:.2f}",
        f"{record.images_per_second:.1f} images/s",
        wait,
    ]
    if record.memory_gib is not None:
        parts.append(f"process memory {record.memory_gib:.1f} GiB")
    if record.cuda_memory_gib is not None:
        parts.append(f"device memory {record.cuda_memory_gib:.1f} GiB")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
