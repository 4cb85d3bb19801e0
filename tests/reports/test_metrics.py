"""The metrics files of a run, and the failure of one of them."""

import csv
import json
import logging

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rtdetr.reports.metrics import AP_NAMES, StepRecord, flat, read_records, row_of
from rtdetr.reports.sinks import JsonlSink, MetricsWriter
from tests.training.records import epoch_record, step_record


def write(folder, *, iteration=0, epoch=0, records=()):
    writer = MetricsWriter(folder, iteration=iteration, epoch=epoch)
    for record in records:
        (writer.step if isinstance(record, StepRecord) else writer.epoch)(record)
    writer.close()


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_json_and_scalars_have_the_published_names(tmp_path):
    write(tmp_path, records=[step_record(1), epoch_record(1)])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"kind": "step", **step_record(1)._asdict()}, {"kind": "epoch", **epoch_record(1)._asdict()}]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    names = ["Loss/total", "Loss/loss_vfl", "Loss/loss_bbox", "Lr/pg_0", "Lr/pg_1"]
    names += ["Run/images_per_second", "Run/data_wait", "Run/memory_gib"]
    assert set(board.Tags()["scalars"]) == {*names, *(f"Test/coco_eval_bbox_{i}" for i in range(12))}
    assert [(event.step, event.value) for event in board.Scalars("Loss/total")] == [(1, 3.0)]
    assert board.Scalars("Lr/pg_1")[0].value == pytest.approx(1e-5)
    assert board.Scalars("Test/coco_eval_bbox_1")[0].value == pytest.approx(0.8)


def test_a_record_as_a_row_of_a_table():
    assert flat(row_of(step_record(7))) == {
        "iteration": 7,
        "epoch": 1,
        "loss": 3.0,
        "gradient_norm": None,
        "images_per_second": 12.0,
        "data_wait": 0.25,
        "memory_gib": 1.5,
        "cuda_memory_gib": None,
        "lr_0": 1e-4,
        "lr_1": 1e-5,
        "loss_vfl": 1.0,
        "loss_bbox": 2.0,
    }
    row = flat(row_of(epoch_record(2)))
    assert (row["ap"], row["ap50"], row["ar_large"], row["loss_vfl"]) == (0.5, 0.8, None, 1.0)
    assert [flat(row_of(epoch_record(2, ap=None)))[name] for name in AP_NAMES] == [None] * 12


def test_tables_for_a_spreadsheet(tmp_path):
    more = step_record(2)._replace(terms={"loss_vfl": 1.0, "loss_dn": 4.0})
    write(tmp_path, records=[step_record(1), more, step_record(3), epoch_record(1), epoch_record(2, ap=None)])
    steps, epochs = table(tmp_path / "steps.csv"), table(tmp_path / "epochs.csv")
    assert [(row["iteration"], row["loss_bbox"], row["loss_dn"]) for row in steps] == [
        ("1", "2.0", ""),
        ("2", "", "4.0"),
        ("3", "2.0", ""),
    ]
    assert [(row["epoch"], row["ap"], row["seconds"]) for row in epochs] == [("1", "0.5", "61.0"), ("2", "", "61.0")]


def test_resuming_drops_rows_after_the_checkpoint(tmp_path):
    write(tmp_path, records=[step_record(1), step_record(2), epoch_record(1), step_record(3, 2), step_record(4, 2)])
    for name in ("metrics.jsonl", "steps.csv"):
        with (tmp_path / name).open("a") as file:
            file.write('{"kind": "step", "iter')  # killed while writing
    write(tmp_path, iteration=3, epoch=1, records=[step_record(4, 2)])
    rows = read_records(tmp_path)
    assert [row["iteration"] for row in rows] == [1, 2, 2, 3, 4]
    assert [row["iteration"] for row in table(tmp_path / "steps.csv")] == ["1", "2", "3", "4"]
    assert [row["epoch"] for row in table(tmp_path / "epochs.csv")] == ["1"]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("Loss/total")] == [1, 2, 3, 4]


def test_a_run_without_rows_leaves_empty_tables(tmp_path):
    write(tmp_path)
    assert [(tmp_path / name).read_text() for name in ("metrics.jsonl", "steps.csv", "epochs.csv")] == ["", "", ""]
    assert not list(tmp_path.glob(".*"))


def test_a_failing_sink_is_dropped_and_the_others_continue(tmp_path, monkeypatch, caplog):
    def fail(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JsonlSink, "step", fail)
    with caplog.at_level(logging.WARNING, logger="rtdetr"):
        write(tmp_path, records=[step_record(n) for n in range(1, 6)])
    assert [row["iteration"] for row in table(tmp_path / "steps.csv")] == ["1", "2", "3", "4", "5"]
    assert [record.getMessage().partition(". ")[2] for record in caplog.records] == [
        "Training continues",
        "Training continues",
        "Training continues without Jsonl",
    ]
    assert "Could not log to Jsonl: OSError: [Errno 28] No space left on device" in caplog.text


def test_a_single_failure_does_not_drop_a_sink(tmp_path, monkeypatch, caplog):
    step = JsonlSink.step

    def fail_often(self, record):
        if record.iteration % 3:
            raise OSError("busy")
        step(self, record)

    monkeypatch.setattr(JsonlSink, "step", fail_often)
    write(tmp_path, records=[step_record(n) for n in range(1, 10)])
    assert [row["iteration"] for row in read_records(tmp_path)] == [3, 6, 9]
    assert "continues without" not in caplog.text
