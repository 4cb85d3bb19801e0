"""What a person sees while a run goes on: a live bar on a terminal, a plain line now and then elsewhere."""

import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rtdetr.training.metrics import EpochRecord, StepRecord


class RunDisplay:
    """Shows a run on standard error."""

    def __init__(self, *, num_epochs: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._num_epochs = num_epochs
        self._total = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
        )
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", status="")

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self._console.print(text, markup=False)

    def start_bar(self, epoch: int, *, done: int, total: int) -> None:
        """Begin the bar of an epoch, counted from 1, of which `done` of `total` batches are made."""
        self._total = total
        name = f"epoch {epoch}/{self._num_epochs}"
        self._bar.reset(self._task, total=total, completed=done, description=name, status="")
        self._bar.start()

    def stop_bar(self) -> None:
        """Take the bar down, so that others can draw."""
        self._bar.stop()

    def advance(self) -> None:
        """Move the bar by one batch."""
        self._bar.advance(self._task)

    def step(self, record: StepRecord, *, batch: int, seconds_left: float) -> None:
        """Show the means of the last steps beside the bar, or on a line of their own."""
        status = (
            f"loss {record.loss:.2f}  {record.images_per_second:.1f} images/s  "
            f"waiting for data {record.data_wait:.0%}  left {_duration(seconds_left)}"
        )
        self._bar.update(self._task, status=status)
        if not self._console.is_terminal:
            self.say(f"epoch {record.epoch}/{self._num_epochs}  step {batch}/{self._total}  {status}")

    def end_epoch(self, record: EpochRecord, *, best: tuple[float, int] | None) -> None:
        """Print the line of a finished epoch; `best` is the highest AP so far and its epoch, counted from 1."""
        words = [f"epoch {record.epoch}/{self._num_epochs}"]
        if record.loss is not None:
            words.append(f"loss {record.loss:.2f}")
        if record.ap is not None:
            words += [f"AP {record.ap[0]:.3f}", f"AP50 {record.ap[1]:.3f}"]
        if best is not None:
            words.append(f"best AP {best[0]:.3f} in epoch {best[1]}")
        self.say("  ".join([*words, _duration(record.seconds)]))


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
