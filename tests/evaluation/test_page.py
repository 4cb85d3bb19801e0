"""report.html of an evaluation has the numbers, plots and worst images that exist."""

import json

from PIL import Image

from rtdetr.evaluation import save_plots, save_worst_images
from rtdetr.evaluation.page import write_page
from tests.evaluation.scenes import SQUARE, scene_report
from tests.reports.test_page import Reader


def test_everything_is_on_the_page(tmp_path):
    report = scene_report(tmp_path / "data", [[("cat", SQUARE)], []], [[("dog", SQUARE, 0.9)], []])
    dataset, folder = report.evaluator.dataset, tmp_path / "out"
    for index in range(len(dataset)):
        Image.new("RGB", (640, 480), "white").save(dataset.path(index))
    save_plots(report, folder)
    save_worst_images(report, dataset, folder / "worst_images")
    (folder / "report.json").write_text(json.dumps({"model": "best.pth", "data": "<set>", **report.to_json()}))
    page = Reader(write_page(folder).read_text(encoding="utf-8"))
    assert page.ids == ["accuracy", "plots", "worst-images", "files"]
    assert len(page.sources) == 6 + 1
    for text in ("Evaluation of best.pth", "2 images of <set>", "cat", "wrong class", "Image 1"):
        assert text in page.texts


def test_without_plots_there_are_the_numbers(tmp_path):
    report = scene_report(tmp_path / "data", [[("cat", SQUARE)]], [[("cat", SQUARE, 0.9)]])
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    page = Reader(write_page(tmp_path).read_text(encoding="utf-8"))
    assert page.ids == ["accuracy", "files"] and page.sources == []
    assert page.texts.count("100.0 %") == 2
