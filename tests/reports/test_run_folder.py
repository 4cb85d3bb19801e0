"""The files of a run folder, and that failures to write them do not end a run."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from rtdetr import zoo
from rtdetr.config import TrainConfig
from rtdetr.data import DetectionDataset, TrainLoader
from rtdetr.errors import DatasetError
from rtdetr.evaluation import CocoEvaluator, EvaluationReport
from rtdetr.reports import run_folder
from rtdetr.reports.run_folder import EvaluationPages, attempt, preview_epochs, spread, write_end, write_start
from tests.coco_files import document, many_images, write_dataset

RECIPE = zoo.recipe("test-tiny").replace(batch_size=4, epochs=2)
PICTURES = {"pr_curve", "p_curve", "r_curve", "f1_curve", "confusion_matrix", "class_ap"}


def dataset_of(folder, content=None):
    return DetectionDataset(*write_dataset(folder, content or many_images(12)))


def start(folder, data, *, font=None, **changes):
    config = TrainConfig(data="data", model="test-tiny", output_dir=str(folder), recipe=RECIPE, workers=0, font=font)
    values = {"train_data": data, "val_data": data, "loader": TrainLoader(data, RECIPE), **changes}
    write_start(folder, config=config, device=torch.device("cpu"), **values)


def evaluated(data, *, shift=0.0):
    """A report on detections that are the annotations themselves, moved to the right."""
    evaluator = CocoEvaluator(data)
    for index, image_id in enumerate(data.image_ids.tolist()):
        target = data.target(index)
        boxes = target["boxes_xyxy"] + np.array([shift, 0, shift, 0], np.float32)
        scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
        evaluator.add(image_id, boxes_xyxy=boxes, scores=scores, labels=target["labels"])
    return EvaluationReport.of(evaluator)


def end(folder, report):
    """What a run that found `report` leaves."""
    with EvaluationPages(folder) as pages:
        pages.write_best(report)


def test_the_start_of_a_run(tmp_path, caplog):
    data = dataset_of(tmp_path / "data")
    start(tmp_path / "run", data)
    files = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")}
    assert files == {
        "environment.json",
        "label_statistics.json",
        "label_statistics.png",
        "images",
        "images/batch_epoch1_1.png",
        "images/batch_epoch1_2.png",
        "images/batch_epoch2_1.png",
        "report.html",
    }
    assert caplog.text == ""


def test_the_font_setting_is_used_for_every_image(tmp_path, monkeypatch):
    used = []
    for name in ("write_statistics", "draw_batches", "save_plots"):
        monkeypatch.setattr(run_folder, name, lambda *_, font, name=name, **__: used.append((name, font)))
    monkeypatch.setattr(run_folder, "draw_comparison", lambda *_, font: used.append(("compared", font)) or picture)
    picture = Image.new("RGB", (8, 8))
    data = dataset_of(tmp_path / "data")
    start(tmp_path / "run", data, font="a.ttf")
    with EvaluationPages(tmp_path / "run", font="a.ttf") as pages:
        pages.write_best(evaluated(data, shift=9.0))
    assert set(used) == {(name, "a.ttf") for name in ("write_statistics", "draw_batches", "save_plots", "compared")}


def test_a_resumed_run_keeps_its_previews(tmp_path):
    data = dataset_of(tmp_path / "data")
    (tmp_path / "run/images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "run/images/batch_epoch1_1.png")
    start(tmp_path / "run", data, val_data=None)
    assert [path.name for path in (tmp_path / "run/images").iterdir()] == ["batch_epoch1_1.png"]
    assert list(json.loads((tmp_path / "run/label_statistics.json").read_text())) == ["train"]


@pytest.mark.parametrize("kind", [pytest.param("images", marks=pytest.mark.slow), "awkward", "empty"])
def test_the_end_of_a_run(tmp_path, caplog, kind):
    content = document() if kind == "awkward" else many_images(12)
    if kind == "empty":
        content["annotations"] = []
    data = dataset_of(tmp_path / "data", content)
    report = evaluated(data, shift=3.0)
    caplog.clear()  # of what opening the awkward boxes says
    end(tmp_path, report)
    assert caplog.text == ""
    found = {path.stem for path in (tmp_path / "images").iterdir()}
    assert found >= PICTURES
    compared = {name for name in found if name.startswith("predictions_")}
    assert len(compared) == min(8, len(data))
    assert ("worst_1" in {name[:7] for name in found}) == (kind != "empty")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == json.loads(json.dumps(report.to_json()))
    assert (tmp_path / "learning_curve.png").exists()
    assert "report.html" in {path.name for path in tmp_path.iterdir()}


@pytest.fixture
def _no_plots(monkeypatch):
    """Plots take their time, and are not what is looked at."""
    for name in ("save_plots", "draw_learning_curve", "write_statistics"):
        monkeypatch.setattr(run_folder, name, lambda *_, **__: None)


@pytest.mark.usefixtures("_no_plots")
def test_images_of_an_earlier_evaluation_are_removed(tmp_path):
    data = dataset_of(tmp_path / "data")
    write_end(tmp_path, report=evaluated(data, shift=8.0))
    assert list((tmp_path / "images").glob("worst_*.png"))
    write_end(tmp_path, report=evaluated(data))
    assert not list((tmp_path / "images").glob("worst_*.png"))
    write_end(tmp_path)
    assert len(list((tmp_path / "images").glob("predictions_*.png"))) == 8


@pytest.mark.usefixtures("_no_plots")
def test_a_failed_plot_is_reported_and_the_rest_is_written(tmp_path, monkeypatch, caplog):
    data = dataset_of(tmp_path / "data")
    monkeypatch.setattr(run_folder, "draw_batches", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(run_folder, "write_statistics", lambda *_, **__: [][1])
    monkeypatch.setattr(run_folder, "save_plots", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("two\nlines")))
    with caplog.at_level(logging.WARNING, logger="rtdetr"):
        start(tmp_path, data)
        end(tmp_path, evaluated(data))
    assert [record.getMessage() for record in caplog.records] == [
        "Could not write the label statistics: IndexError: list index out of range. Continuing without it.",
        "Could not write the batch previews: ZeroDivisionError: division by zero. Continuing without it.",
        "Could not write the plots of the evaluation: RuntimeError: two lines. Continuing without it.",
    ]
    assert (tmp_path / "evaluation.json").exists()
    assert (tmp_path / "report.html").exists()


def test_an_unwritable_folder_does_not_end_the_run(tmp_path, caplog):
    data = dataset_of(tmp_path / "data")
    (tmp_path / "run").write_text("a file")
    start(tmp_path / "run", data)
    end(tmp_path / "run", evaluated(data))
    assert len(caplog.records) == 9  # four at the start, five at the end
    assert (tmp_path / "run").read_text() == "a file"


def test_better_evaluations_are_drawn_at_intervals_and_at_the_end(tmp_path, monkeypatch):
    drawn: list[object] = []
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(run_folder, "write_end", lambda folder, *, report, font: drawn.append(report))
    monkeypatch.setattr(run_folder, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    data = dataset_of(tmp_path / "data")
    reports = [evaluated(data, shift=shift) for shift in (8.0, 4.0, 2.0, 0.0)]
    pages = EvaluationPages(tmp_path)
    for report, seconds in zip(reports, (10, 400, 600, 800), strict=True):
        clock.now = seconds
        pages.write_best(report)
        kept = json.loads((tmp_path / "evaluation.json").read_text())  # at once: the run may be killed
        assert kept["metrics"]["ap"] == pytest.approx(report.metrics.ap)
    assert [id(report) for report in drawn] == [id(reports[1]), id(reports[3])]
    pages.write()
    assert drawn[2:] == [None]


def test_an_interrupt_is_not_swallowed():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt("a picture", interrupt)


def test_errors_that_would_end_the_run_anyway_are_raised():
    def refuse():
        raise DatasetError("a.jpg is damaged")

    attempt("a preview", refuse)
    with pytest.raises(DatasetError):
        attempt("a preview", refuse, passing=(DatasetError,))


def test_which_batches_and_images_are_drawn(tmp_path):
    assert preview_epochs(RECIPE) == {0: 2, 1: 1}
    assert preview_epochs(RECIPE.replace(epochs=1)) == {0: 2}
    data = dataset_of(tmp_path / "many", many_images(30))
    objects = np.diff(data.annotations.starts)
    chosen = spread(data, 8)
    assert len(chosen) == 8
    assert (objects[chosen] == 0).sum() == 1
    assert max(chosen) > 20
    assert spread(dataset_of(tmp_path / "few"), 100) == sorted(spread(dataset_of(tmp_path / "few"), 100))
    content = many_images(5)
    content["annotations"] = []
    assert spread(dataset_of(tmp_path / "empty", content), 3) == [0, 1, 2]
