"""The progress display of a run."""

import io

from rich.console import Console

from rtdetr.reports.display import RunDisplay
from tests.training.records import epoch_record, step_record


def test_plain_lines_where_there_is_no_terminal():
    file = io.StringIO()
    display = RunDisplay(num_epochs=3, console=Console(file=file, soft_wrap=True))
    display.say("a line with [brackets]")
    display.start_bar(2, done=0, total=8)
    display.advance()
    display.step(step_record(9, 2), batch=1, seconds_left=3725.0)
    display.step(step_record(10, 2)._replace(memory_gib=None, cuda_memory_gib=10.25), batch=2, seconds_left=10.0)
    display.stop_bar()
    display.end_epoch(epoch_record(2), best=(0.5, 1))
    display.end_epoch(epoch_record(3, ap=None, loss=None), best=None)
    assert [line for line in file.getvalue().splitlines() if line] == [  # rich before 14.3 adds empty ones
        "a line with [brackets]",
        "epoch 2/3  step 1/8  left 1:02:05  loss 3.00  12.0 images/s  data wait 25%  process memory 1.5 GiB",
        "epoch 2/3  step 2/8  left 0:00:10  loss 3.00  12.0 images/s  data wait 25%  device memory 10.2 GiB",
        "epoch 2/3  loss 3.00  AP 50.0  AP50 80.0  best AP 50.0 in epoch 1  0:01:01",
        "epoch 3/3  0:01:01",
    ]


def test_a_bar_on_a_terminal():
    shown = bar(width=140)
    for part in (
        "epoch 2/3",
        "4/8",
        "left 0:00:10",
        "loss 3.00",
        "12.0 images/s",
        "data wait 25%",
        "process memory 1.5 GiB",
    ):
        assert part in shown


def test_a_narrow_terminal_gets_one_line_with_the_time_left():
    shown = bar(width=80)
    assert "left 0:00:10" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def bar(*, width: int) -> str:
    """What a terminal without colors shows last."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False)
    display = RunDisplay(num_epochs=3, console=console)
    display.start_bar(2, done=3, total=8)
    display.advance()
    display.step(step_record(9, 2), batch=4, seconds_left=10.0)
    display._bar.refresh()
    text = file.getvalue().rpartition("\x1b[2K")[2]
    display.stop_bar()
    return text
