"""What a run leaves to look at, on disk and on the screen."""

import io
import json

import pytest
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rtdetr.training.display import RunDisplay
from rtdetr.training.metrics import EpochRecord, MetricsWriter, StepRecord, draw_learning_curve, read_records


def step_record(iteration: int, epoch: int = 1) -> StepRecord:
    return StepRecord(
        iteration=iteration,
        epoch=epoch,
        loss=3.0,
        terms={"loss_vfl": 1.0, "loss_bbox": 2.0},
        learning_rates=[1e-4, 1e-5],
        gradient_norm=None,
        images_per_second=12.0,
        data_wait=0.25,
    )


def epoch_record(epoch: int, *, ap: float | None = 0.5, loss: float | None = 3.0) -> EpochRecord:
    numbers = None if ap is None else [ap, 0.8, *[-1.0] * 10]
    return EpochRecord(epoch=epoch, iteration=epoch * 2, loss=loss, terms={}, ap=numbers, seconds=61.0)


def write(folder, *, iteration=0, epoch=0, records=()):
    writer = MetricsWriter(folder, iteration=iteration, epoch=epoch)
    for record in records:
        (writer.step if isinstance(record, StepRecord) else writer.epoch)(record)
    writer.close()


def test_rows_are_json_and_scalars_have_the_published_names(tmp_path):
    write(tmp_path, records=[step_record(1), epoch_record(1)])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"kind": "step", **step_record(1)._asdict()}, {"kind": "epoch", **epoch_record(1)._asdict()}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    names = ["Loss/total", "Loss/loss_vfl", "Loss/loss_bbox", "Lr/pg_0", "Lr/pg_1"]
    assert set(board.Tags()["scalars"]) == {*names, *(f"Test/coco_eval_bbox_{i}" for i in range(12))}
    assert [(event.step, event.value) for event in board.Scalars("Loss/total")] == [(1, 3.0)]
    assert board.Scalars("Lr/pg_1")[0].value == pytest.approx(1e-5)
    assert board.Scalars("Test/coco_eval_bbox_1")[0].value == pytest.approx(0.8)


def test_resuming_drops_what_the_checkpoint_does_not_know(tmp_path):
    write(tmp_path, records=[step_record(1), step_record(2), epoch_record(1), step_record(3, 2), step_record(4, 2)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "iter')  # killed while writing
    write(tmp_path, iteration=3, epoch=1, records=[step_record(4, 2)])
    rows = read_records(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2, 2, 3, 4]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("Loss/total")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [epoch_record(1, ap=None)],
        [epoch_record(1, loss=None)],
        [epoch_record(1, ap=-1.0)],
        [epoch_record(n, ap=0.01 * n if n % 5 == 0 else None) for n in range(1, 41)],
    ],
)
def test_the_curve_is_drawn_whatever_there_is(tmp_path, records):
    write(tmp_path, records=records)
    draw_learning_curve(tmp_path)
    with Image.open(tmp_path / "learning_curve.png") as picture:
        assert picture.size == (1200, 480)
    assert not list(tmp_path.glob(".*"))


def test_plain_lines_where_there_is_no_terminal():
    file = io.StringIO()
    display = RunDisplay(num_epochs=3, console=Console(file=file, soft_wrap=True))
    display.start_bar(2, done=0, total=8)
    display.advance()
    display.step(step_record(9, 2), batch=1, seconds_left=3725.0)
    display.stop_bar()
    display.end_epoch(epoch_record(2), best=(0.5, 1))
    display.end_epoch(epoch_record(3, ap=None, loss=None), best=None)
    assert file.getvalue().splitlines() == [
        "epoch 2/3  step 1/8  loss 3.00  12.0 images/s  waiting for data 25%  left 1:02:05",
        "epoch 2/3  loss 3.00  AP 0.500  AP50 0.800  best AP 0.500 in epoch 1  0:01:01",
        "epoch 3/3  0:01:01",
    ]


def test_a_bar_on_a_terminal():
    file = io.StringIO()
    display = RunDisplay(num_epochs=3, console=Console(file=file, force_terminal=True, width=140))
    display.start_bar(2, done=3, total=8)
    display.advance()
    display.step(step_record(9, 2), batch=4, seconds_left=10.0)
    display._bar.refresh()
    display.stop_bar()
    shown = file.getvalue()
    for part in ("epoch 2/3", "4/8", "loss 3.00", "left 0:00:10"):
        assert part in shown
