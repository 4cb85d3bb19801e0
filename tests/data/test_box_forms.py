"""Boxes in another form than the format expects are reported with numbers and never converted."""

import json
import re

import numpy as np
import pytest

from rtdetr.data import check, open_dataset
from rtdetr.data.box_forms import CENTER, CORNERS, XYWH, other_form
from rtdetr.data.doctor import fix
from rtdetr.errors import DatasetError
from tests.coco_files import CATEGORIES, annotation
from tests.data.doctor_files import clean, write
from tests.data.formats import write_format

WH = (200, 100)


def corners(count, *, seed=0, border=False):
    """Boxes x1 y1 x2 y2 in an image of 200x100 pixels, of every size; with `border` half of them touch it."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (count, 2)) * WH
    high = low + rng.uniform(0.1, 1, (count, 2)) * (np.array(WH) - low)
    if border:
        high[::2] = WH
        low[::4] = 0
    return np.concatenate([low, high], axis=1).round(2)


def written(boxes, form):
    """The numbers of boxes x1 y1 x2 y2 in a form."""
    low, high = boxes[:, :2], boxes[:, 2:]
    first = (low + high) / 2 if form == CENTER else low
    return np.concatenate([first, high if form == CORNERS else high - low], axis=1)


def as_read(values, form):
    """Boxes x y w h of numbers that are taken for a form."""
    if form == XYWH:
        return values
    if form == CENTER:
        return np.concatenate([values[:, :2] - values[:, 2:] / 2, values[:, 2:]], axis=1)
    return np.concatenate([values[:, :2], values[:, 2:] - values[:, :2]], axis=1)


def sizes(count):
    return np.tile(WH, (count, 1))


@pytest.mark.parametrize(("side", "why"), [(60, "have no area or extend far beyond the image"), (640, "up to 1")])
def test_percent_is_recognized_in_small_and_large_images(side, why):
    percent = written(corners(40, border=True) / np.tile(WH, 2) * 100, XYWH)
    sizes_wh = np.tile((side, side), (40, 1))
    found = other_form(percent, sizes_wh, form=XYWH)
    assert found.startswith("look like percent of the image's sides: ") and why in found
    assert other_form(percent * side / 100, sizes_wh, form=XYWH) == ""
    assert other_form(percent[:10] * 0.8, np.tile((640, 640), (10, 1)), form=XYWH) == ""  # a few objects in a corner


def test_boxes_of_small_images_are_not_evidence_for_percent():
    sizes_wh = np.tile((60, 60), (40, 1))
    boxes = corners(40) / np.tile(WH, 2) * 60
    assert other_form(written(boxes, CORNERS), sizes_wh, form=XYWH).startswith("look like x1 y1 x2 y2: ")
    slips = written(boxes, XYWH)
    slips[:8, 2:] = 70 - slips[:8, :2]  # a fifth of the boxes reach over the border
    assert other_form(slips, sizes_wh, form=XYWH) == ""


@pytest.mark.parametrize("count", [12, 2000])
@pytest.mark.parametrize("read", [XYWH, CORNERS, CENTER])
@pytest.mark.parametrize("true", [XYWH, CORNERS, CENTER])
def test_every_form_read_as_every_other_is_recognized(true, read, count):
    boxes = as_read(written(corners(count), true), read)
    found = other_form(boxes, sizes(count), form=read)
    if true == read:
        assert found == ""
    else:
        assert found.startswith(f"look like {true}: read as {read}, ")
        assert (
            f"of {count:,} have no area or extend far beyond the image; read as {true}, {count:,} are inside" in found
        )


@pytest.mark.parametrize("form", [XYWH, CORNERS, CENTER])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 400])
def test_sound_boxes_are_not_suspected(form, count):
    for seed in range(20):
        boxes = written(corners(count, seed=seed, border=True), XYWH)
        assert other_form(boxes, sizes(count), form=form) == ""
        boxes[:, 2:] += 1.5  # a tool that counts otherwise
        assert other_form(boxes, sizes(count), form=form) == ""


def test_boxes_that_extend_beyond_the_image_are_not_suspected():
    rng = np.random.default_rng(0)
    low = rng.uniform(-0.3, 0.9, (300, 2)) * WH
    whole = np.concatenate([low, rng.uniform(0.1, 0.4, (300, 2)) * WH], axis=1)  # of which a part is outside
    assert other_form(whole, sizes(300), form=XYWH) == ""
    assert other_form(np.array([[0, 0, 1, 1.0]]), sizes(1), form=XYWH) == ""  # one pixel
    assert other_form(np.array([[0.2, 0.2, 0.5, 0.5]]), np.array([[1, 1]]), form=XYWH) == ""


@pytest.mark.parametrize("form", [XYWH, CORNERS])
def test_fractions_are_recognized(form):
    fractions = corners(30) / [*WH, *WH]
    found = other_form(written(fractions, XYWH), sizes(30), form=form)
    assert found.startswith("look like fractions of the image's sides: 30 of 30 are within the first pixel")
    assert other_form(written(fractions[:1], XYWH), sizes(1), form=form) != ""
    assert other_form(written(fractions, XYWH) * 200, sizes(30) * 200, form=CENTER) == ""  # YOLO has them


def set_of(root, kind, values):
    """A data set of a format with these numbers as they are, a box an image."""
    boxes = np.atleast_2d(values)
    images = [{"id": i, "file_name": f"{i}.png", "width": WH[0], "height": WH[1]} for i in range(len(boxes))]
    rows = {
        "images": images,
        "annotations": [annotation(i + 1, i, 3, box) for i, box in enumerate(boxes.tolist())],
        "categories": [dict(row) for row in CATEGORIES],
    }
    write_format(root, kind, rows, split="train")
    for i, box in enumerate(boxes.tolist()):
        if kind == "yolo":
            (root / f"labels/train/{i}.txt").write_text(" ".join(["0", *map(repr, box)]))
        if kind == "voc":
            names = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in names)
            file = root / f"Annotations/{i}.xml"
            file.write_text(re.sub("<bndbox>.*</bndbox>", f"<bndbox>{inner}</bndbox>", file.read_text()))
    return root


WRONG = {
    "corners in COCO": ("coco", corners(12), CORNERS),
    "center in COCO": ("coco", written(corners(12), CENTER), CENTER),
    "fractions in COCO": ("coco", written(corners(12), XYWH) / [*WH, *WH], "fractions"),
    "corners in YOLO": ("yolo", corners(12) / [*WH, *WH], CORNERS),
    "x y w h in YOLO": ("yolo", written(corners(12), XYWH) / [*WH, *WH], XYWH),
    "x y w h in VOC": ("voc", written(corners(12), XYWH), XYWH),
    "fractions in VOC": ("voc", corners(12) / [*WH, *WH], "fractions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_dataset_in_another_form_is_an_error_in_the_doctor_and_a_warning_in_training(tmp_path, case, caplog):
    kind, values, name = WRONG[case]
    root = set_of(tmp_path / "set", kind, values)
    report = check(root)
    [finding] = [finding for finding in report.findings if finding.kind == "other-box-form"]
    assert finding.severity == "error" and not report.sound
    assert f"has boxes that look like {name}" in finding.examples[0].detail
    assert "of 12" in finding.examples[0].detail
    with pytest.raises(
        DatasetError, match=rf"the boxes of 'train' look like {name}.*--allow-loss.*nothing was written"
    ):
        fix(report, tmp_path / "out")
    caplog.clear()
    dataset = open_dataset(root, split="train", on_bad_box="drop")
    assert sum(f"the boxes look like {name}" in message for message in caplog.messages) == 1
    assert len(dataset) == 12


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_the_same_dataset_in_the_right_form_is_sound(tmp_path, kind, caplog):
    form = {"coco": XYWH, "yolo": CENTER, "voc": CORNERS}[kind]
    scale = [*WH, *WH] if kind == "yolo" else 1
    root = set_of(tmp_path / "set", kind, written(corners(12, border=True), form) / scale)
    open_dataset(root, split="train")
    assert caplog.messages == []
    assert not {finding.kind for finding in check(root).findings} & {"other-box-form", "box-over-border"}
    fix(check(root), tmp_path / "out")


def test_the_error_about_a_box_without_area_says_what_the_boxes_look_like(tmp_path):
    root = set_of(tmp_path / "set", "voc", written(corners(12), XYWH))
    with pytest.raises(DatasetError, match=f"expected width and height > 0.*The boxes look like {XYWH}: read as"):
        open_dataset(root, split="train")


ROWS = {"0.5 0.5 0.25 0.5 1": "last", "0.5 0.5 0.25 0.5 7": "last", "0.1 0.1 0.5 0.1 0.3 0.9 2": "last"}
ROWS |= {"1 96 32 40 20": "fractions", "1 0.5 0.5 0.25 0.5": ""}


@pytest.mark.parametrize("row", ROWS)
def test_yolo_rows_in_another_form(tmp_path, row):
    root = set_of(tmp_path / "set", "yolo", np.full((3, 4), 0.5))
    for file in (root / "labels/train").iterdir():
        file.write_text(row)
    expected = {"last": "expected the class number first, but it seems to be last", "fractions": "expected fractions"}
    if not ROWS[row]:
        assert check(root).sound and len(open_dataset(root, split="train").annotations.labels) == 3
        return
    with pytest.raises(DatasetError, match=expected[ROWS[row]]):
        open_dataset(root, split="train")
    report = check(root)
    assert not report.sound and expected[ROWS[row]] in report.text()


def test_strongly_clipped_boxes_count_as_lost(tmp_path):
    splits = clean()
    rows = splits["train"]["annotations"]
    rows[0]["bbox"] = [60, 8, 60, 24]  # 40 % of it is outside
    root = write(tmp_path / "two", splits)
    with pytest.raises(DatasetError, match=r"0 of 6 boxes, and 1 box would be clipped by more than a quarter"):
        fix(check(root), tmp_path / "out")
    assert len(fix(check(root), tmp_path / "out", allow_loss=True)) == 1
    rows[0]["bbox"] = [60, 8, 40, 24]  # 10 %
    (root / "annotations/train.json").write_text(json.dumps(splits["train"]))
    fix(check(root), tmp_path / "a little")
