"""The log of a run: records, estimated time left and learning curve from the measurements of the steps."""

import json
from types import SimpleNamespace

import pytest
import torch

from rtdetr.data import TrainLoader
from rtdetr.reports import run_log
from rtdetr.reports.metrics import read_records
from rtdetr.reports.progress import Progress
from rtdetr.reports.run_log import RunLog, SilentLog

BATCHES = [(torch.zeros(4, 3, 2, 2), []) for _ in range(3)]


class Batches(TrainLoader):
    """An epoch of three batches, from nowhere."""

    def __init__(self) -> None:
        pass

    def __iter__(self):
        return iter(BATCHES)


class Clock:
    """Moves only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_log, "time", SimpleNamespace(perf_counter=clock))
    return clock


@pytest.fixture
def ends(monkeypatch) -> list[str]:
    """What was drawn."""
    found: list[str] = []
    monkeypatch.setattr(run_log, "draw_learning_curve", lambda folder: found.append("curve"))
    return found


def train_epoch(log: RunLog, progress: Progress, clock: Clock) -> None:
    """Three steps of two seconds."""
    for number, _ in enumerate(log.batches(Batches()), start=1):
        clock.now += 2.0
        progress.batch, progress.iteration = number, progress.iteration + 1
        terms = {"loss_vfl": float(number), "loss_bbox": 1.0}
        log.step(terms, gradient_norm=0.5, learning_rates=[0.1], num_images=4)


def end_epoch(log: RunLog, progress: Progress) -> None:
    log.end_epoch([0.5] * 12)
    progress.epoch, progress.batch = progress.epoch + 1, 0


def test_rows_are_means_and_the_time_left_counts_the_evaluations(tmp_path, clock, ends, capsys):
    progress = Progress(batches_per_epoch=3)
    with RunLog(tmp_path, progress, num_epochs=3, every=2) as log:
        train_epoch(log, progress, clock)
        clock.now += 10.0  # of evaluating
        end_epoch(log, progress)
        train_epoch(log, progress, clock)
    rows = read_records(tmp_path)
    assert [(row["kind"], row["iteration"]) for row in rows] == [
        ("step", 2),
        ("step", 3),
        ("epoch", 3),
        ("step", 5),
        ("step", 6),
    ]
    assert (rows[0]["loss"], rows[0]["images_per_second"], rows[0]["data_wait"]) == (2.5, 2.0, 0.0)
    assert (rows[2]["loss"], rows[2]["seconds"]) == (3.0, 6.0)
    shown = capsys.readouterr().err
    # 7 steps of 2 s are left after step 2; after step 5 there are 4, and the evaluations of two epochs
    assert "step 2/3  left 0:00:14" in shown
    assert "step 2/3  left 0:00:28" in shown


def test_the_curve_is_not_drawn_too_often(tmp_path, clock, ends):
    progress = Progress(batches_per_epoch=3)
    with RunLog(tmp_path, progress, num_epochs=4, every=2) as log:
        for seconds in (20, 20, 20, 40):
            clock.now += seconds
            end_epoch(log, progress)
    assert ends == ["curve", "curve"]


def test_a_skipped_step_does_not_cost_the_row_of_the_steps_before_it(tmp_path, clock, ends):
    progress = Progress(batches_per_epoch=3)
    with RunLog(tmp_path, progress, num_epochs=1, every=2) as log:
        for number, _ in enumerate(log.batches(Batches()), start=1):
            progress.batch, progress.iteration = number, number
            terms = None if number in (2, 3) else {"loss": 2.0}
            clock.now += 1.0
            log.step(terms, gradient_norm=0.5 if terms else float("nan"), learning_rates=[0.1], num_images=4)
        end_epoch(log, progress)
    rows = read_records(tmp_path)
    assert [(row["kind"], row["iteration"], row["loss"]) for row in rows] == [("step", 2, 2.0), ("epoch", 3, 2.0)]
    assert rows[0]["gradient_norm"] == 0.5


def test_memory_and_speed_are_measured(tmp_path, ends):
    progress = Progress(batches_per_epoch=3)
    with RunLog(tmp_path, progress, num_epochs=1, every=1) as log:
        for _ in log.batches(Batches()):
            progress.batch, progress.iteration = progress.batch + 1, progress.iteration + 1
            log.step({"loss": 1.0}, gradient_norm=float("inf"), learning_rates=[0.1], num_images=4)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert row["memory_gib"] is None or 0.05 < row["memory_gib"] < 100
    assert (row["cuda_memory_gib"], row["gradient_norm"]) == (None, None)
    assert 0 <= row["data_wait"] <= 1


def test_the_other_processes_are_silent(capsys):
    with SilentLog() as log:
        log.say("nothing")
        assert list(log.batches(Batches())) == BATCHES
        log.step({}, gradient_norm=0.0, learning_rates=[], num_images=1)
        log.end_epoch(None)
    assert capsys.readouterr() == ("", "")
