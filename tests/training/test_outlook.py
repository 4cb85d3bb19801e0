"""The outlook at the end of a run: what is measured, when it is written, and that nothing else changes."""

import dataclasses
import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rtdetr.data import open_dataset
from rtdetr.data.merge import merge
from rtdetr.errors import DatasetError
from rtdetr.evaluation import CocoEvaluator
from rtdetr.html import Html
from rtdetr.random_state import random_state
from rtdetr.reports.outlook import OUTLOOK_FILE
from rtdetr.reports.page import build_page
from rtdetr.training import outlook
from rtdetr.training import train as loop
from rtdetr.training.job import Job
from tests.training.small import only_the_loop, run_tiny, write_folder

ONE_STEP = {"batch_size": 12, "rehearsal": False}  # per epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _only_the_loop():
    with only_the_loop(outlook=True):
        yield


def with_aps(monkeypatch, *aps: float) -> None:
    """Let the evaluations of a run have these AP."""
    evaluate, values = Job.evaluate, iter(aps)

    def changed(job):
        report = evaluate(job)
        assert report is not None
        return dataclasses.replace(report, metrics=report.metrics._replace(ap=next(values)))

    monkeypatch.setattr(Job, "evaluate", changed)


def test_a_run_ends_with_its_outlook(data, tmp_path, monkeypatch, capsys):
    with_aps(monkeypatch, 0.2, 0.3, 0.36, 0.4)
    states = []

    def observed(job, **options):
        before = (job.folder / "last.pth").read_bytes(), (job.folder / "best.pth").read_bytes(), random_state()
        found = write(job, **options)
        after = (job.folder / "last.pth").read_bytes(), (job.folder / "best.pth").read_bytes(), random_state()
        states.append((before, after))
        return found

    write = loop.write_outlook
    monkeypatch.setattr(loop, "write_outlook", observed)
    folder = tmp_path / "my run"
    assert run_tiny(data, folder, epochs=4, **ONE_STEP).finished
    values = json.loads((folder / OUTLOOK_FILE).read_text())
    advice, images = values["advice"]
    assert images["text"].startswith("Larger images may help: ")
    assert advice["text"].startswith(
        "More epochs would help: with 8 epochs instead of 4, the AP of 40.0 would change by about +"
    )
    assert advice["command"] == (f"rtdetr train -c '{folder}/config.json' --epochs 8 --output '{folder}-8-epochs'")
    assert values["val_ap"] == 0.4 and 0 <= values["train_ap"] < 0.1 and values["forecast"]["gain"] > 0.01
    printed = capsys.readouterr().err
    assert advice["text"] in printed and advice["command"] in printed
    section = build_page(folder).partition('id="outlook"')[2].partition("</section>")[0]
    assert str(Html(advice["text"])) in section and "--epochs 8" in section
    assert len(states) == 1
    before, after = states[0]
    assert before[:2] == after[:2] and torch.equal(before[2]["torch"], after[2]["torch"])
    assert before[2]["numpy"] == after[2]["numpy"]


@pytest.fixture
def finished(data, tmp_path, tmp_path_factory) -> Path:
    """The folder of a run of one epoch."""
    source = tmp_path_factory.getbasetemp() / "one epoch of the outlook"
    if not source.exists():
        run_tiny(data, source, epochs=1, **ONE_STEP)
    return Path(shutil.copytree(source, tmp_path / "run"))


def test_an_interrupted_run_has_no_outlook(finished, monkeypatch):
    assert (finished / OUTLOOK_FILE).exists()
    monkeypatch.setattr(loop, "_train_epochs", lambda *_, **__: "SIGTERM")
    assert run_tiny(None, resume=finished, epochs=2).signal == "SIGTERM"
    assert not (finished / OUTLOOK_FILE).exists()


def test_a_finished_run_keeps_its_outlook(finished):
    (finished / OUTLOOK_FILE).write_text("kept")
    run_tiny(None, resume=finished)
    assert (finished / OUTLOOK_FILE).read_text() == "kept"


def test_a_finished_run_without_an_outlook_gets_one(finished):
    values = json.loads((finished / OUTLOOK_FILE).read_text())
    (finished / OUTLOOK_FILE).unlink()
    run_tiny(None, resume=finished)
    found = json.loads((finished / OUTLOOK_FILE).read_text())
    assert found["train_ap"] == values["train_ap"] and len(found["advice"]) == len(values["advice"]) == 1


def test_an_early_stop_is_the_reason(data, tmp_path, monkeypatch):
    with_aps(monkeypatch, 0.5, 0.4)
    run_tiny(data, tmp_path, epochs=9, early_stopping=1, **ONE_STEP)
    values = json.loads((tmp_path / OUTLOOK_FILE).read_text())
    assert values["forecast"] is None
    assert values["advice"][0]["text"] == (
        "More epochs would not help: no improvement in the last 1 evaluation, at a best AP of 50.0."
    )


def test_runs_without_an_ap_have_no_outlook(data, tmp_path, monkeypatch):
    run_tiny(data, tmp_path / "a", epochs=1, evaluate_every=0, **ONE_STEP)
    with_aps(monkeypatch, -1.0)
    run_tiny(data, tmp_path / "b", epochs=1, **ONE_STEP)
    assert not list(tmp_path.glob(f"*/{OUTLOOK_FILE}"))


def test_a_failure_does_not_end_the_run(data, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise DatasetError("a.jpg is damaged")

    monkeypatch.setattr(outlook, "sample_images", fail)
    with caplog.at_level(logging.WARNING):
        assert run_tiny(data, tmp_path, epochs=1, **ONE_STEP).finished
    assert re.search("Could not write the outlook: .*a.jpg is damaged", caplog.text)


def test_only_the_images_of_the_sample_count(data):
    dataset = open_dataset(data, split="train")
    objects = np.diff(dataset.annotations.starts)
    chosen = np.array([*np.flatnonzero(objects)[:3], np.flatnonzero(objects == 0)[0]])
    sampled = outlook.with_objects_of(dataset, chosen)
    assert (
        len(sampled) == len(dataset)
        and np.diff(sampled.annotations.starts)[chosen].tolist() == objects[chosen].tolist()
    )
    assert len(sampled.annotations.labels) == objects[chosen].sum()
    evaluator, half = CocoEvaluator(sampled), CocoEvaluator(sampled)
    for index in chosen.tolist():
        target = dataset.target(index)
        found = {"boxes_xyxy": target["boxes_xyxy"], "labels": target["labels"], "scores": np.ones(objects[index])}
        evaluator.add(target["image_id"], **found)
        if index != chosen[0]:
            half.add(target["image_id"], **found)
    assert evaluator.summarize().ap == pytest.approx(1)
    assert half.summarize().ap < 0.99


def test_the_sample_depends_on_the_seed_only(data):
    dataset = open_dataset(data, split="train")
    first = outlook.sample_images(len(dataset), 5, seed=0).tolist()
    assert first == sorted(set(first)) and len(first) == 5
    assert outlook.sample_images(len(dataset), 5, seed=0).tolist() == first
    assert outlook.sample_images(len(dataset), 5, seed=1).tolist() != first
    assert outlook.sample_images(len(dataset), 99, seed=0).tolist() == list(range(len(dataset)))


def test_validation_images_that_are_training_images_are_found(data):
    train, val = (open_dataset(data, split=split) for split in ("train", "val"))
    files = outlook._files
    assert len(files(train)) == 12 and not files(train) & files(val)
    assert files(merge([train, val])) == files(train) | files(val)
    assert files(merge([train, val])) & files(val) == files(val)


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "rtdetr train 'my data' --model rtdetrv2_r34vd --output runs/x-rtdetrv2_r34vd"),
        (
            {"model": "rtdetr_r50vd_m", "weights": "rtdetr_r50vd_m"},
            "rtdetr train 'my data' --weights rtdetr_r50vd --output runs/x-rtdetr_r50vd",
        ),
        ({"model": "rtdetrv2_r101vd"}, None),
        ({"model": "demo"}, None),
        ({"data": "(opened in Python)"}, None),
        ({"teacher": "rtdetrv2_r50vd"}, None),
    ],
)
def test_the_next_larger_model(changes, command, tmp_path, monkeypatch):
    from rtdetr.config import TrainConfig
    from rtdetr.zoo import entry

    monkeypatch.chdir(tmp_path)
    (tmp_path / "my data").mkdir()
    settings = {"data": "my data", "model": "rtdetrv2_r18vd", "output_dir": "runs/x", **changes}
    config = TrainConfig(recipe=entry("test-tiny").recipe, **settings)
    assert outlook._larger_model(config) == command
