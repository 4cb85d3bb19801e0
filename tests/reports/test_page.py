"""report.html: complete, offline, without scripts, and with escaped names."""

import html.parser
import json
import urllib.parse

import pytest
from PIL import Image

from rtdetr.reports.metrics import row_of
from rtdetr.reports.page import _natural_order, build_page, write_page
from tests.training.records import epoch_record, step_record

EVIL = "<script>alert('x')</script>\"&"
VOID = {"meta", "img", "br", "link"}


class Reader(html.parser.HTMLParser):
    """Sees that every element is closed in order, and gathers what matters."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.sources, self.ids, self.texts = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "a":
            self.links.append(values["href"])
        if tag == "img":
            self.sources.append(values["src"])
            assert values["alt"]
        assert not [name for name in values if name.startswith("on")]
        if "id" in values:
            self.ids.append(values["id"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def full_folder(folder):
    records = [step_record(1), step_record(2)._replace(cuda_memory_gib=3.0), epoch_record(1), epoch_record(2, ap=None)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row_of(record)) + "\n" for record in records))
    classes = [
        {"name": "dog", "objects": 0, "ap": None, "ap50": None, "threshold": 0.5, "true_positives": 0},
        {"name": EVIL, "objects": 1234, "ap": 0.25, "ap50": 0.5, "threshold": 0.125, "true_positives": 3},
    ]
    values = {
        "config": {"model": EVIL, "data": [EVIL, "more"], "recipe": {"epochs": 2, "groups": []}},
        "environment": {"device": {"type": "cpu"}},
        "evaluation": {
            "metrics": {"ap": 0.25, "ap50": 0.5, "ap_small": None},
            "classes": classes,
            "errors": {"missed": {"count": 3, "ap50_cost": None}},
            "false_positives_per_empty_image": 0.125,
        },
        "label_statistics": {"train": {"images": 5, "objects": 7000}},
    }
    for name, content in values.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "plan.txt").write_text(EVIL)
    (folder / "a <file> & more.txt").write_text("")
    (folder / "images").mkdir()
    names = ["pr_curve", "confusion_matrix", "batch_epoch2_1", "batch_epoch10_1", "predictions_1_image_-7"]
    for name in ["../learning_curve", "../label_statistics", *(f"{name}" for name in names)]:
        Image.new("RGB", (30, 20)).save(folder / "images" / f"{name}.png")


def test_everything_is_on_the_page(tmp_path):
    full_folder(tmp_path)
    page = Reader(write_page(tmp_path).read_text(encoding="utf-8"))
    assert page.ids == [
        "learning",
        "accuracy",
        "plots",
        "predictions",
        "training-batches",
        "labels",
        "plan",
        "settings",
        "environment",
        "files",
    ]
    assert {link[1:] for link in page.links if link.startswith("#")} == set(page.ids)
    assert [source[:16] for source in page.sources].count("data:image/jpeg;") == 3
    assert [source[:15] for source in page.sources].count("data:image/png;") == 4
    for text in ("50.0 %", "best AP, epoch 1", "1,234", "0.12", "3.0 GiB", "Image -7", "recipe.epochs", "device.type"):
        assert text in page.texts
    assert page.texts.index("Epoch 2, batch 1") < page.texts.index("Epoch 10, batch 1")
    assert page.texts.index(EVIL, page.texts.index("true positives")) < page.texts.index("dog")


def test_the_page_is_self_contained_and_names_are_escaped(tmp_path):
    full_folder(tmp_path)
    text = build_page(tmp_path)
    page = Reader(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http" not in text.replace("http-equiv", "")
    assert all(source.startswith("data:image/") for source in page.sources)
    for link in page.links:
        assert link.startswith("#") or (tmp_path / urllib.parse.unquote(link)).exists()
    assert "prefers-color-scheme: dark" in text
    assert page.texts.count(EVIL) >= 2


def test_missing_and_damaged_parts_are_omitted(tmp_path):
    assert Reader(build_page(tmp_path)).ids == []
    for name in ("config.json", "environment.json", "evaluation.json"):
        (tmp_path / name).write_text("[1")
    (tmp_path / "label_statistics.json").write_text("[]")
    (tmp_path / "metrics.jsonl").write_text('{"kind": "st')
    (tmp_path / "learning_curve.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/worst_1_image_3.png").write_bytes(b"")
    assert Reader(build_page(tmp_path)).ids == ["files"]


@pytest.mark.parametrize("names", [["batch_epoch2_1", "batch_epoch10_1"], ["worst_2_image_9", "worst_10_image_1"]])
def test_numbers_in_names_are_sorted_as_numbers(tmp_path, names):
    paths = [tmp_path / f"{name}.png" for name in reversed(names)]
    assert [path.stem for path in sorted(paths, key=_natural_order)] == names
