"""YOLO and Pascal VOC: the same defects are found, and their copies equal the corresponding COCO dataset."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdetr.data import check, open_dataset
from rtdetr.data.doctor import fix
from rtdetr.errors import DatasetError
from tests.data.doctor_files import clean, contents, write


def write_yolo(root):
    """The sound data set in YOLO form."""
    splits = clean()
    write(root, splits)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: {3: cat, 7: dog}\n")
    for split, document in splits.items():
        (root / "labels" / split).mkdir(parents=True)
        (root / "annotations" / f"{split}.json").unlink()
        for image in document["images"]:
            rows = [row for row in document["annotations"] if row["image_id"] == image["id"]]
            lines = []
            for row in rows:
                x, y, w, h = row["bbox"]
                numbers = ((x + w / 2) / 96, (y + h / 2) / 64, w / 96, h / 64)
                lines.append(" ".join(map(str, [row["category_id"], *numbers])))
            (root / "labels" / split / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))
    (root / "annotations").rmdir()
    return root


def write_voc(root):
    """The sound data set in VOC form."""
    splits = clean()
    write(root / "source", splits)
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "labels.txt").write_text("cat\ndog\n")
    names = {3: "cat", 7: "dog"}
    for split, document in splits.items():
        for image in document["images"]:
            (root / "source/images" / split / image["file_name"]).rename(root / "JPEGImages" / image["file_name"])
            objects = ""
            for row in document["annotations"]:
                if row["image_id"] == image["id"]:
                    x, y, w, h = row["bbox"]
                    corners = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
                    objects += f"<object><name>{names[row['category_id']]}</name><bndbox>{corners}</bndbox></object>"
            size = "<size><width>96</width><height>64</height></size>"
            xml = f"<annotation><filename>{image['file_name']}</filename>{size}{objects}</annotation>"
            (root / "Annotations" / image["file_name"]).with_suffix(".xml").write_text(xml)
        listed = "\n".join(image["file_name"].removesuffix(".jpg") for image in document["images"])
        (root / f"ImageSets/Main/{split}.txt").write_text(listed)
    return root


def kinds(root):
    return {finding.kind: finding.count for finding in check(root).findings}


@pytest.mark.parametrize("make", [write_yolo, write_voc])
def test_sound_data_in_every_format(tmp_path, make):
    root = make(tmp_path / "set")
    before = contents(root)
    report = check(root)
    assert report.findings == []
    assert [(row.images, row.objects) for row in report.splits] == [(3, 6), (2, 4)]
    fix(report, tmp_path / "out")
    assert contents(root) == before
    coco = open_dataset(write(tmp_path / "coco"), split="train")
    copy, original = (open_dataset(folder, split="train") for folder in (tmp_path / "out", root))
    for dataset in (copy, original):
        assert dataset.categories.names == coco.categories.names
        assert np.array_equal(dataset.annotations.labels, coco.annotations.labels)
        assert np.allclose(dataset.annotations.boxes_xywh, coco.annotations.boxes_xywh, atol=1e-9)
    assert copy.image_ids.tolist() == original.image_ids.tolist()


YOLO_DEFECTS = {
    "words": ("cat 0.5 0.5 0.1 0.1", "unreadable-entry"),
    "short": ("3 0.5 0.5 0.1", "unreadable-entry"),
    "NaN": ("3 nan 0.5 0.1 0.1", "unreadable-entry"),
    "pixels": ("3 48 32 10 10", "not-fraction"),
    "class": ("4 0.5 0.5 0.1 0.1", "unknown-class"),
    "no width": ("3 0.5 0.5 0 0.1", "degenerate-box"),
    "over the border": ("3 0.95 0.5 0.2 0.2", "box-over-border"),
    "repeated": ("3 0.5 0.5 0.2 0.2\n3 0.5 0.5 0.2 0.2", "repeated-box"),
    "none": ("", "empty-image"),
}


@pytest.mark.parametrize("defect", YOLO_DEFECTS)
def test_yolo(tmp_path, defect):
    root = write_yolo(tmp_path / "set")
    text, kind = YOLO_DEFECTS[defect]
    file = root / "labels/train/a.txt"
    file.write_text(text if kind == "empty-image" else f"{file.read_text()}\n{text}")
    report = check(root)
    assert {finding.kind: finding.count for finding in report.findings} == {kind: 1}
    if kind != "empty-image":
        line = 4 if kind == "repeated-box" else 3
        assert report.findings[0].examples[0].annotation == f"a.txt line {line}"
    fix(report, tmp_path / "out", allow_loss=True)
    assert len(open_dataset(tmp_path / "out", split="train")) == 3


def test_a_yolo_label_without_an_image(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/gone.txt").write_text("3 0.5 0.5 0.2 0.2\n")
    (root / "labels/train/empty.txt").write_text("")
    (root / "labels/train/classes.txt").write_text("cat\ndog\n")
    report = check(root)
    [finding] = report.findings
    assert (finding.kind, finding.count) == ("label-without-image", 1)
    assert finding.examples[0].file == str(root / "labels/train/gone.txt")
    changes = fix(report, tmp_path / "out", allow_loss=True)
    assert [change.kind for change in changes] == ["label-without-image"]
    assert check(tmp_path / "out").sound


def test_the_folder_named_by_a_yolo_file_is_not_changed(tmp_path):
    root = write_yolo(tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    text = (root / "data.yaml").read_text()
    (tmp_path / "elsewhere/data.yaml").write_text(f"path: {root}\n" + text)
    report = check(tmp_path / "elsewhere/data.yaml")
    for target in (root / "out", root / "images/out", tmp_path / "elsewhere/out"):
        with pytest.raises(DatasetError, match="is inside"):
            fix(report, target)
    fix(report, tmp_path / "out", allow_loss=True)


def test_a_missing_test_folder_is_a_note(tmp_path):
    root = write_yolo(tmp_path / "set")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(f"{text}test: images/test\n")
    report = check(root)
    assert report.sound and [finding.kind for finding in report.findings] == ["missing-test"]
    fix(report, tmp_path / "out")
    (root / "data.yaml").write_text(text.replace("val: images/val", "val: images/nowhere"))
    assert kinds(root)["unreadable-split"] == 1


def test_a_yolo_image_that_cannot_be_read(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "images/train/b.jpg").write_bytes(b"text")
    with pytest.raises(DatasetError):
        open_dataset(root, split="train")
    assert kinds(root) == {"corrupt-image": 1}
    (root / "labels/train/a.txt").write_bytes(b"\xff\xfe3 0.5")
    assert kinds(root) == {"corrupt-image": 1, "unreadable-entry": 1, "empty-image": 1}
    fix(check(root), tmp_path / "out", allow_loss=True)
    assert [image.name for image in (tmp_path / "out/images/train").iterdir()] == ["c.jpg"]  # a.jpg is no background


VOC_DEFECTS = {
    "no XML": ("text", {"unreadable-entry": 1, "unlisted-file": 1}),
    "no name": ("<annotation><object/></annotation>", {"unreadable-entry": 1, "empty-image": 1}),
    "size": ("<annotation><size><width>x</width></size></annotation>", {"wrong-value": 1, "empty-image": 1}),
    "unused list": ("<annotation/>", {"empty-image": 1}),
}


@pytest.mark.parametrize("defect", VOC_DEFECTS)
def test_voc(tmp_path, defect):
    root = write_voc(tmp_path / "set")
    text, found = VOC_DEFECTS[defect]
    (root / "Annotations/a.xml").write_text(text)
    assert kinds(root) == found
    fix(check(root), tmp_path / "out", allow_loss=True)
    open_dataset(tmp_path / "out", split="train")


def test_voc_class_lists(tmp_path):
    root = write_voc(tmp_path / "set")
    (root / "labels.txt").write_text("dog\ndog\n")
    assert kinds(root) == {"unknown-class": 5, "same-class-name": 2}
    (root / "Annotations/b.xml").unlink()
    assert kinds(root) == {"unknown-class": 4, "same-class-name": 2, "unreadable-entry": 1, "unlabeled-image": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_value_in_a_coco_file_is_reported_or_refused(tmp_path_factory, data):
    root = write(tmp_path_factory.mktemp("fuzz") / "set")
    file = root / "annotations/train.json"
    document = json.loads(file.read_text())
    kind = data.draw(st.sampled_from(["images", "annotations", "categories"]))
    row = data.draw(st.integers(0, len(document[kind]) - 1))
    key = data.draw(st.sampled_from([None, *document[kind][row]]))
    value = data.draw(JSON)
    if key is None:
        document[kind][row] = value
    else:
        document[kind][row][key] = value
    file.write_text(json.dumps(document))
    report = check(file)
    report.text()
    json.dumps(report.to_json())
    try:
        open_dataset(file, split="train")
    except DatasetError:
        assert any(finding.severity == "error" for finding in report.findings)
    if any(facts.usable for facts in report.survey.facts[0]):
        fix(report, root.parent / "out", allow_loss=True)
        open_dataset(root.parent / "out", split="train")


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60), extra=st.lists(st.floats(), max_size=8))
def test_any_label_file_is_read(tmp_path_factory, text, extra):
    root = write_yolo(tmp_path_factory.mktemp("fuzz") / "set")
    line = "3 " + " ".join(map(str, extra))
    (root / "labels/train/a.txt").write_text(f"{text}\n{line}", encoding="utf-8", errors="replace")
    (root / "labels/train/b.txt").write_bytes(text.encode("utf-16", errors="replace"))
    report = check(root)
    try:
        open_dataset(root, split="train")
    except DatasetError:
        assert any(finding.severity == "error" for finding in report.findings)
