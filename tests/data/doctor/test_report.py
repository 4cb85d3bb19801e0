"""The report as text, JSON and a page with images."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from rtdetr.data import check
from rtdetr.errors import DatasetError
from tests.data.doctor_files import clean, picture, write

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Checks nesting and collects texts and images."""

    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.addresses, self.text, self.ids = [], [], [], "", []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.addresses += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(values["src"].partition(",")[2]))))
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read_page(report, tmp_path):
    page = Page()
    page.feed(report.save_html(tmp_path / "new" / "report.html").read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    assert all(re.match(r"#|data:image/jpeg;base64,", address) for address in page.addresses)  # nothing from elsewhere
    return page


def broken(root):
    splits = clean()
    train = splits["train"]["annotations"]
    train[0]["bbox"] = [300, 10, 20, 20]
    train[1]["bbox"] = [50, 10, 0, 20]
    train[2]["bbox"] = [30, 30, 1, 1]
    splits["train"]["categories"][0]["name"] = splits["val"]["categories"][0]["name"] = "<script>alert(1)</script>"
    write(root, splits)
    exif = Image.Exif()
    exif[0x112] = 6
    picture(ord("c")).save(root / "images/train/c.jpg", exif=exif)
    shutil.copy(root / "images/val/d.jpg", root / "images/val/e.jpg")
    (root / "images/val/d.jpg").write_bytes(b"")
    return root


def test_the_page(tmp_path):
    report = check(broken(tmp_path / "set"), size_hw=(320, 320))
    found = [finding.kind for finding in report.findings]
    assert found == ["corrupt-image", "degenerate-box", "box-outside", "exif-rotation", "tiny-box"]
    page = read_page(report, tmp_path)
    assert page.ids == ["splits", "findings", "classes", "details", *found]
    assert "<script>alert(1)</script>" in page.text  # as words, not as an element
    assert "a.jpg annotation 1" in page.text
    sizes = [image.size for image in page.pictures]
    assert sizes[-3:-1] == [(320, 213), (160, 240)]  # as annotated, and upright
    assert len(sizes) == 5
    assert all(width <= 320 and height <= 240 for width, height in sizes)


@pytest.mark.parametrize(("number", "place"), [(0, "outside"), (1, "line"), (2, "pixel")])
def test_the_box_of_the_finding_is_red(tmp_path, number, place):
    report = check(broken(tmp_path / "set"), size_hw=(320, 320))
    page = read_page(report, tmp_path)
    image = page.pictures[{"line": 0, "outside": 1, "pixel": 4}[place]].convert("RGB")
    pixels = [image.getpixel((x, y)) for x in range(image.width) for y in range(image.height)]
    assert any(r > 180 and g < 110 and b < 120 for r, g, b in pixels)


def test_the_page_of_sound_data(tmp_path):
    page = read_page(check(write(tmp_path / "set")), tmp_path)
    assert "The data is sound." in page.text
    assert page.pictures == []


def test_text_and_json(tmp_path):
    report = check(broken(tmp_path / "set"))
    text = report.text()
    assert "split  images  empty  objects  classes  format  from" in text
    assert (
        "ERROR    boxes without width or height: 1\n         train: a.jpg annotation 2 has width 0 and height 20\n"
        in text
    )
    assert text.endswith("Found 3 kinds of errors, 1 kind of warning.")
    document = json.loads(json.dumps(report.to_json()))
    assert document["sound"] is False
    assert document["splits"][0]["objects"] == 6
    assert document["classes"][1] == {
        "name": "dog",
        "objects": {"train": 3, "val": 2},
        "images": {"train": 3, "val": 2},
    }
    assert document["findings"][1]["examples"] == [
        {"split": "train", "file": "a.jpg", "annotation": "annotation 2", "detail": "has width 0 and height 20"}
    ]


def test_a_long_class_list_is_shortened_in_the_text_only(tmp_path):
    splits = clean()
    for split in splits.values():
        split["categories"] += [{"id": 100 + n, "name": f"class {n}"} for n in range(150)]
    report = check(write(tmp_path, splits))
    assert "... 52 more" in report.text()
    assert len(report.to_json()["classes"]) == 152


def test_a_page_replaces_only_pages(tmp_path):
    root = write(tmp_path / "set")
    report = check(root)
    file = root / "annotations/train.json"
    before = file.read_bytes()
    with pytest.raises(DatasetError, match="exists; choose another"):
        report.save_html(file)
    assert file.read_bytes() == before
    for _ in range(2):
        report.save_html(tmp_path / "page.html")


def test_a_page_that_cannot_be_written(tmp_path):
    report = check(write(tmp_path / "set"))
    with pytest.raises(DatasetError, match="cannot write"):
        report.save_html(tmp_path / "set")
