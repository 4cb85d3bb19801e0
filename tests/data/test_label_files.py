"""Labels in other places or with other names are used or reported; their images never count as background."""

import logging
import os
import re
import shutil
import unicodedata
from collections import Counter

import pytest
from PIL import Image

from rtdetr.data import check, index_cache, open_dataset, yolo_files
from rtdetr.data.doctor import fix
from rtdetr.data.label_files import LabelFiles, usual_label_file
from rtdetr.errors import DatasetError
from tests.data.doctor.test_formats import kinds, write_voc, write_yolo
from tests.data.doctor_files import picture

LABEL = "3 0.5 0.5 0.25 0.5\n"


def boxes(root, split="train"):
    """What matters of a split: file names, and for each image labels and boxes."""
    dataset = open_dataset(root, split=split)
    targets = [dataset.target(i) for i in range(len(dataset))]
    return [(target["labels"].tolist(), target["boxes_xyxy"].tolist()) for target in targets]


def labels_of(root):
    return sorted((root / "labels").rglob("*.txt"))


def beside(root):
    for file in labels_of(root):
        file.rename(str(file).replace("/labels/", "/images/"))


def upper_suffix(root):
    for file in labels_of(root):
        file.rename(file.with_suffix(".TXT"))


def upper_folder(root):
    (root / "labels").rename(root / "Labels")


def upper_folders(root):
    upper_folder(root)
    (root / "Labels/train").rename(root / "Labels/Train")


def upper_images(root):
    (root / "images").rename(root / "Images")
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("images/", "Images/"))


def whole_name(root):
    for file in labels_of(root):
        file.rename(file.with_suffix(".jpg.txt"))


def whole_name_beside(root):
    for file in labels_of(root):
        file.rename(str(file.with_suffix(".jpg.txt")).replace("/labels/", "/images/"))


def accented(form_of_images, form_of_labels):
    def rename(root):
        for folder, form in ((root / "images/train", form_of_images), (root / "labels/train", form_of_labels)):
            for file in list(folder.iterdir()):
                file.rename(folder / unicodedata.normalize(form, f"{file.stem}-é한{file.suffix}"))
            folder.rename(folder.parent / unicodedata.normalize(form, "été"))
        text = (
            (root / "data.yaml")
            .read_text()
            .replace("images/train", unicodedata.normalize(form_of_images, "images/été"))
        )
        (root / "data.yaml").write_text(text)

    return rename


def listed_in_the_other_form(root):
    accented("NFD", "NFC")(root)
    names = sorted((root / "images").glob("*t*/*-*.jpg"))
    lines = [unicodedata.normalize("NFC", str(name.relative_to(root))) for name in names]
    (root / "list.txt").write_text("\n".join(lines))
    text = unicodedata.normalize("NFC", (root / "data.yaml").read_text())
    (root / "data.yaml").write_text(text.replace("images/été", "list.txt"))


def images_twice_in_the_path(root):
    (root / "images/train").rename(root / "images/images")
    (root / "labels/train").rename(root / "labels/images")
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("images/train", "images/images"))


def a_mixture(root):
    (root / "labels/train/a.txt").rename(root / "images/train/a.TXT")
    (root / "labels/train/b.txt").rename(root / "labels/train/b.jpg.Txt")


LAYOUTS = {
    "beside": beside,
    "suffix": upper_suffix,
    "Labels": upper_folder,
    "Labels/Train": upper_folders,
    "Images": upper_images,
    "whole name": whole_name,
    "whole name beside": whole_name_beside,
    "NFC, NFD": accented("NFC", "NFD"),
    "NFD, NFC": accented("NFD", "NFC"),
    "NFC in a list": listed_in_the_other_form,
    "images twice": images_twice_in_the_path,
    "mixture": a_mixture,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_in_every_usual_place_are_used(tmp_path, layout, caplog):
    expected = boxes(write_yolo(tmp_path / "tidy"))
    root = write_yolo(tmp_path / "set")
    LAYOUTS[layout](root)
    assert boxes(root) == expected
    assert all(labels for labels, _ in expected)
    assert kinds(root) == {}
    assert not caplog.records


def test_the_first_usual_place_wins(tmp_path):
    root = write_yolo(tmp_path / "set")
    expected = boxes(root)
    (root / "images/train/a.txt").write_text(LABEL)
    (root / "labels/train/a.jpg.txt").write_text(LABEL)
    (root / "labels/train/a.TXT").write_text(LABEL)
    assert boxes(root) == expected
    assert kinds(root) == {}


NEAR = {  # where a label lies that belongs to images/train/a.jpg
    "flat": "labels/a.txt",
    "another split": "labels/val/a.txt",
    "another word": "annotations/train/a.txt",
    "a folder in it": "images/train/labels/a.txt",
    "above": "a.txt",
    "case": "labels/train/A.txt",
    "whole name": "labels/a.jpg.txt",
}


@pytest.mark.parametrize("place", NEAR)
def test_a_misplaced_label_file_stops_the_run(tmp_path, place):
    root = write_yolo(tmp_path / "set")
    near = root / NEAR[place]
    near.parent.mkdir(parents=True, exist_ok=True)
    (root / "labels/train/a.txt").rename(near)
    image, usual = root / "images/train/a.jpg", root / "labels/train/a.txt"
    problem = f"{image} has no label file in a usual place, but {near} has its name. Move it to {usual}, or put"
    with pytest.raises(DatasetError, match=re.escape(problem)) as caught:
        open_dataset(root, split="train")
    assert "\n" not in str(caught.value)
    report = check(root)
    assert {finding.kind: finding.count for finding in report.findings} == {"misplaced-label": 1}
    assert report.findings[0].examples[0].line() == (
        f"train: a.jpg has no label file in a usual place, but {near} has its name"
    )
    changes = fix(report, tmp_path / "out", allow_loss=True)
    assert [(change.kind, change.text) for change in changes] == [("misplaced-label", "train/a.jpg")]
    assert len(open_dataset(tmp_path / "out", split="train")) == 2
    usual.touch()  # what the message names works
    assert [len(labels) for labels, _ in boxes(root)] == [0, 2, 2]


def test_all_labels_in_an_unusual_place_are_counted(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels").rename(root / "txt")
    with pytest.raises(DatasetError, match=r"images/train/a\.jpg has no label .*txt/train/a\.txt .* There are 2 more"):
        open_dataset(root, split="train")
    assert kinds(root) == {"misplaced-label": 5, "no-object": 2, "unused-class": 2}


NOT_NEAR = {
    "of another image": ("labels/other/a.txt", LABEL, "images/other/a.png"),
    "beside another image": ("other/a.txt", LABEL, "other/a.png"),
    "a caption": ("captions/a.txt", "a cat and a dog on a mat", None),
    "empty": ("labels/a.txt", "", None),
    "results": ("runs/predict/labels/a.txt", LABEL, None),
    "hidden": (".cache/a.txt", LABEL, None),
    "another name": ("labels/aa.txt", LABEL, None),
    "outside": ("../a.txt", LABEL, None),
}


@pytest.mark.parametrize("case", NOT_NEAR)
def test_other_files_are_not_misplaced_labels(tmp_path, case):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").unlink()
    place, text, image = NOT_NEAR[case]
    for name in filter(None, (place, image)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(text)
    if image:
        picture(1).save(root / image)
    assert [len(labels) for labels, _ in boxes(root)] == [0, 2, 2]


def test_many_images_without_a_label_give_a_warning(tmp_path, caplog):
    root = write_yolo(tmp_path / "set")
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 6 * number, 0)).save(root / f"images/train/x{number}.png")
        (root / f"labels/train/x{number}.txt").touch()
    for number in range(2):
        (root / f"labels/train/x{number}.txt").unlink()
    boxes(root)
    report = check(root)
    assert report.sound and not caplog.records  # two of 43
    assert next(finding for finding in report.findings if finding.kind == "empty-image").count == 40
    (root / "labels/train/x2.txt").unlink()
    boxes(root)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "3 of the 43 images of train have no label file and are used as background; the first is" in record.message
    assert "images/train/x0.png. If they have no objects, add empty files such" in record.message
    report = check(root)
    found = {finding.kind: finding.count for finding in report.findings}
    assert not report.sound
    assert (found["unlabeled-image"], found["empty-image"]) == (3, 37)
    changes = [
        change.text for change in fix(report, tmp_path / "out", allow_loss=True) if change.kind == "unlabeled-image"
    ]
    assert changes == ["train/x0.png", "train/x1.png", "train/x2.png"]


@pytest.mark.parametrize("make", [write_yolo, write_voc])
def test_a_split_without_objects_is_not_sound(tmp_path, make):
    root = make(tmp_path / "set")
    for name in "abc":
        if make is write_yolo:
            (root / f"labels/train/{name}.txt").write_text("")
        else:
            (root / f"Annotations/{name}.xml").write_text("<annotation/>")
    report = check(root)
    found = {finding.kind: finding.severity for finding in report.findings}
    assert found["no-object"] == "error" and not report.sound
    assert "The data is sound" not in report.text()


def test_every_folder_is_listed_once_without_queries_per_image(tmp_path, monkeypatch):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").unlink()
    images = [str(path) for path in sorted((root / "images/train").iterdir())] * 3
    asked = Counter()
    scan, stat = os.scandir, os.stat

    def scandir(folder):
        asked[os.path.normpath(folder)] += 1
        return scan(folder)

    def noted_stat(path, **options):
        asked["stat"] += 1
        return stat(path, **options)

    finder = LabelFiles()
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", scandir)
        patched.setattr(os, "stat", noted_stat)
        found = [finder.of(image) for image in images]
        near = finder.find_misplaced([images[0]], [str(root)])
    assert found == [None, *(str(root / f"labels/train/{name}.txt") for name in "bc")] * 3
    assert near == {}
    assert "stat" not in asked
    assert max(asked.values()) == 1
    assert len(asked) <= 8


def test_an_unlistable_folder_is_an_error(tmp_path, monkeypatch):
    root = write_yolo(tmp_path / "set")
    scan = os.scandir

    def failing(error):
        def scandir(folder):
            if os.fspath(folder).rstrip("/").endswith("labels/train"):
                raise error
            return scan(folder)

        return scandir

    monkeypatch.setattr(os, "scandir", failing(OSError(5, "Input/output error")))
    with pytest.raises(DatasetError, match=r"cannot list the folder .*labels/train: Input/output error"):
        open_dataset(root, split="train")
    monkeypatch.setattr(os, "scandir", failing(PermissionError(13, "Permission denied")))
    assert [len(labels) for labels, _ in boxes(root)] == [2, 2, 2]  # files can be opened all the same


def test_a_dangling_link_to_a_label_is_an_error(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").unlink()
    (root / "labels/train/a.txt").symlink_to(root / "gone.txt")
    with pytest.raises(DatasetError, match=r"cannot read the label file .*labels/train/a\.txt: No such file"):
        open_dataset(root, split="train")
    assert kinds(root) == {"unreadable-entry": 1, "empty-image": 1}


def test_labels_behind_a_link_to_a_folder_are_found(tmp_path):
    root = write_yolo(tmp_path / "set")
    expected = boxes(root)
    (root / "labels/train").rename(tmp_path / "elsewhere")
    (root / "labels/train").symlink_to(tmp_path / "elsewhere")
    assert boxes(root) == expected


@pytest.mark.parametrize(
    "place", ["labels/train/a.txt", "Labels/train/a.TXT", "images/train/a.jpg.txt", "labels/a.txt"]
)
def test_the_cached_index_notices_a_new_label(tmp_path, monkeypatch, place):
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rtdetr.data.index_cache._MIN_ROWS", 1)
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").unlink()
    assert boxes(root)[0][0] == []
    assert boxes(root)[0][0] == []
    assert len(list((tmp_path / "cache/datasets").iterdir())) == 1
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(LABEL)
    if place == "labels/a.txt":
        with pytest.raises(DatasetError, match="has its name"):
            boxes(root)
    else:
        assert boxes(root)[0] == ([0], [[36, 16, 60, 48]])


def test_the_first_usual_place_of_a_label():
    assert usual_label_file("/d/images/train/a.b.png") == "/d/labels/train/a.b.txt"
    assert usual_label_file("/d/images/Images/a.png") == "/d/images/labels/a.txt"
    assert usual_label_file("/d/photos/a.png") == "/d/photos/a.txt"


def test_voc_files_with_other_names_are_used(tmp_path):
    expected = boxes(write_voc(tmp_path / "tidy"))
    root = write_voc(tmp_path / "set")
    (root / "Annotations/a.xml").rename(root / "Annotations/a.XML")
    (root / "Annotations/b.xml").rename(root / "Annotations/b.jpg.xml")
    (root / "Annotations/c.xml").rename(root / "JPEGImages/c.xml")
    (root / "ImageSets/Main/train.txt").write_text("a  1\nb.jpg -1\nc.jpg\na\n")
    assert boxes(root) == expected
    assert kinds(root) == {}


@pytest.mark.parametrize(
    ("images", "files", "listed"), [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC"), ("NFC", "NFC", "NFD")]
)
def test_voc_names_in_another_unicode_form_are_found(tmp_path, images, files, listed):
    expected = boxes(write_voc(tmp_path / "tidy"))
    root = write_voc(tmp_path / "set")
    for folder, suffix, form in (("JPEGImages", ".jpg", images), ("Annotations", ".xml", files)):
        (root / folder / f"b{suffix}").rename(root / folder / unicodedata.normalize(form, f"bé x{suffix}"))
    (root / "ImageSets/Main/train.txt").write_text(unicodedata.normalize(listed, "a\nbé x\nc"))
    assert boxes(root) == expected
    assert kinds(root) == {}


@pytest.mark.parametrize("make", [write_yolo, write_voc])
def test_hidden_files_of_macos_are_ignored(tmp_path, make):
    root = make(tmp_path / "set")
    expected = boxes(root)
    for file in [path for path in root.rglob("*.*") if path.is_file()]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX/a.txt").write_text(LABEL)
    assert boxes(root) == expected
    assert kinds(root) == {}


def test_a_listed_voc_image_without_xml_is_reported(tmp_path):
    root = write_voc(tmp_path / "set")
    (root / "Annotations/b.xml").unlink()
    with pytest.raises(
        DatasetError, match=r"train\.txt: 1 of its 3 images has no XML file: .*b\.xml does not exist\. Put"
    ):
        open_dataset(root, split="train")
    assert kinds(root) == {"unreadable-entry": 1, "unlabeled-image": 1}


@pytest.mark.parametrize("place", ["Annotations/B.xml", "Annotations/train/b.xml", "xml/b.xml"])
def test_a_misplaced_voc_file_is_named(tmp_path, place):
    root = write_voc(tmp_path / "set")
    (root / place).parent.mkdir(exist_ok=True)
    (root / "Annotations/b.xml").rename(root / place)
    with pytest.raises(DatasetError, match=rf"Annotations/b\.xml does not exist, but .*{place} does\. Move it there"):
        open_dataset(root, split="train")
    report = check(root)
    assert {finding.kind for finding in report.findings} == {"misplaced-label", "unlabeled-image"}
    assert f"but {root / place} does" in report.text()


def test_voc_images_without_xml_are_a_finding_and_unlisted_xml_a_note(tmp_path):
    root = write_voc(tmp_path / "set")
    (root / "ImageSets/Main/train.txt").write_text("a\nb")  # a choice: the file of c exists
    assert kinds(root) == {"unlisted-file": 1}
    assert check(root).sound
    (root / "Annotations/c.xml").unlink()
    assert kinds(root) == {"unlabeled-image": 1}
    assert not check(root).sound


def test_voc_images_without_xml_are_reported(tmp_path, caplog):
    source, root = write_voc(tmp_path / "set"), tmp_path / "beside"
    (root / "train").mkdir(parents=True)
    for name in "ab":
        (source / f"Annotations/{name}.xml").rename(root / f"train/{name}.XML")
    for name in "abc":
        (source / f"JPEGImages/{name}.jpg").rename(root / f"train/{name}.jpg")
    (source / "labels.txt").rename(root / "labels.txt")
    dataset = open_dataset(root, split="train")
    assert [len(dataset.target(i)["labels"]) for i in range(len(dataset))] == [2, 2]
    assert "1 of the 3 images in" in caplog.text and "has no XML file and is not used" in caplog.text
    assert kinds(root) == {"unlabeled-image": 1}


def write_beside(root, images="abc"):
    """Two splits in the layout of Roboflow: images and their XML files in one folder."""
    source = write_voc(root.with_name(f"{root.name} source"))
    root.mkdir()
    (source / "labels.txt").rename(root / "labels.txt")
    for split in ("train", "valid"):
        (root / split).mkdir(parents=True)
        for name in images if split == "train" else "a":
            (root / split / f"{split}-{name}.jpg").write_bytes((source / f"JPEGImages/{name}.jpg").read_bytes())
            xml = (source / f"Annotations/{name}.xml").read_text().replace(f"{name}.jpg", f"{split}-{name}.jpg")
            (root / split / f"{split}-{name}.xml").write_text(xml)
    return root


USUAL = ("Annotations", "annotations", "Annotations/train", "train/Annotations", "train")


@pytest.mark.parametrize("place", USUAL)
@pytest.mark.parametrize("called", ["train-{}", "annotation_{}"])  # else by the <filename> in it
@pytest.mark.parametrize("moved", ["b", "abc"])
def test_voc_files_in_every_usual_place_are_used(tmp_path, place, called, moved, caplog):
    root = write_beside(tmp_path / "set")
    expected = boxes(root)
    assert set(kinds(root)) == {"leak"}
    (root / place).mkdir(parents=True, exist_ok=True)
    for name in moved:
        (root / f"train/train-{name}.xml").rename(root / place / f"{called.format(name)}.xml")
    caplog.clear()
    assert boxes(root) == expected and len(expected) == 3
    assert caplog.messages == []
    assert set(kinds(root)) == {"leak"}


@pytest.mark.parametrize("place", ["train/xml", "xml", "other/deep"])
def test_a_misplaced_voc_file_of_a_folder_stops_the_run(tmp_path, place):
    root = write_beside(tmp_path / "set")
    (root / place).mkdir(parents=True)
    (root / "train/train-b.xml").rename(root / place / "train-b.xml")
    with pytest.raises(
        DatasetError,
        match=rf"train/train-b\.xml does not exist, but .*{place}/train-b\.xml does\. Move it there",
    ):
        open_dataset(root, split="train")
    report = check(root)
    assert not report.sound and "misplaced-label" in kinds(root)
    assert f"but {root / place}/train-b.xml does" in report.text()
    with pytest.raises(DatasetError, match="images with a label file in an unusual place"):
        fix(report, tmp_path / "out")


def test_misplaced_voc_files_are_reported(tmp_path):
    root = write_beside(tmp_path / "set")
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split="test")
    assert "near" not in str(caught.value)
    (root / "train/xml").mkdir()
    for file in (root / "train").glob("*.xml"):
        file.rename(root / "train/xml" / file.name)
    with pytest.raises(
        DatasetError, match=r"in a usual place, but .*/xml/train-a\.xml has the name of .*train-a\.jpg\. Move"
    ):
        open_dataset(root, split="train")


def test_two_voc_files_for_one_image_are_not_used(tmp_path, caplog):
    root = write_beside(tmp_path / "set")
    (root / "Annotations").mkdir()
    text = (root / "train/train-b.xml").read_text()
    (root / "train/train-b.xml").unlink()
    for name in ("one", "two"):
        (root / f"Annotations/{name}.xml").write_text(text)
    assert len(boxes(root)) == 2
    assert "1 of the 3 images" in caplog.text and "train-b.jpg" in caplog.text


def test_one_voc_file_is_not_used_for_two_images(tmp_path):
    root = write_beside(tmp_path / "set")
    (root / "Annotations").mkdir()
    for split in ("train", "valid"):
        (root / split / f"{split}-a.jpg").rename(root / split / "a.jpg")
        (root / split / f"{split}-a.xml").rename(root / "Annotations/a.xml")
    (root / "valid/other.xml").write_text((root / "Annotations/a.xml").read_text().replace("valid-a", "none"))
    with pytest.raises(DatasetError, match=r"train/a\.xml does not exist, but .*Annotations/a\.xml does"):
        open_dataset(root, split="train")


def test_a_voc_file_is_only_used_for_the_image_that_it_names(tmp_path, caplog):
    root = write_beside(tmp_path / "set")
    expected = boxes(root)
    for number, name in enumerate("abc"):
        (root / f"train/train-{name}.xml").rename(root / f"train/{number}.xml")  # which has a <filename>
    assert boxes(root) == expected
    assert caplog.messages == []


def test_a_voc_file_without_objects_is_not_a_misplaced_label(tmp_path):
    root = write_beside(tmp_path / "set", images="abc")
    (root / "notes").mkdir()
    (root / "notes/train-b.xml").write_text("<project><name>x</name></project>")
    (root / "train/train-b.xml").unlink()
    assert len(open_dataset(root, split="train")) == 2


def test_a_label_in_another_case_is_named_with_the_remedy(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/b.txt").rename(root / "labels/train/B.txt")
    expected = (
        rf"b\.jpg has no label .* {root}/labels/train/B\.txt has its name\. Move it to {root}/labels/train/b\.txt"
    )
    with pytest.raises(DatasetError, match=expected):
        open_dataset(root, split="train")


def listed(root):
    """A list of images with paths of another machine."""
    lines = [f"D:\\data\\{path.name}" for path in sorted((root / "images/train").iterdir())]
    (root / "images/train.txt").write_text("\n".join(lines))
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("images/train", "images/train.txt"))
    return root


def test_listed_images_found_elsewhere_are_a_note_in_the_doctor(tmp_path, caplog):
    root = write_yolo(tmp_path / "set")
    expected = boxes(root)
    assert "other-path" not in kinds(root)
    listed(root)
    caplog.clear()
    assert boxes(root) == expected == boxes(root)
    said = [message for message in caplog.messages if "found elsewhere" in message]
    assert len(said) == 2 and "3 of its 3 images are not at the listed path" in said[0]
    report = check(root)
    [finding] = [finding for finding in report.findings if finding.kind == "other-path"]
    assert finding.count == 3 and finding.severity == "note" and report.sound
    assert "D:\\data\\a.jpg is read from a.jpg, found by the last part of the path" in finding.examples[0].line()


def test_labels_without_an_image_are_reported_each_time(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING, logger="rtdetr")
    root = write_yolo(tmp_path / "set")
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_MIN_ROWS", 0)
    (root / "images/train/b.jpg").unlink()
    (root / "labels/train/gone").mkdir()
    (root / "labels/train/gone/x.txt").write_text(LABEL)  # of a whole folder of images
    for name, text in {"classes.txt": "cat\ndog\n", "empty.txt": "", "._a.txt": LABEL}.items():
        (root / "labels/train" / name).write_text(text)
    told = (
        f"{root / 'data.yaml'}: 2 label files of train with objects have no image; the first is "
        f"{root / 'labels/train/b.txt'}. Add the images or delete the labels"
    )
    for _ in range(2):  # the second time from the cache
        assert len(boxes(root)) == 2
        assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, told)]
        caplog.clear()
    boxes(root, "val")
    assert not caplog.records
    (root / "labels/train/b.txt").unlink()
    boxes(root)
    assert f"1 label file of train with objects has no image; the first is {root}/labels/train/gone/x.t" in caplog.text


def test_labels_next_to_images_but_without_their_image_are_reported(tmp_path, caplog):
    root = write_yolo(tmp_path / "set")
    beside(root)
    (root / "images/train/b.jpg").unlink()
    assert len(boxes(root)) == 2
    assert f"1 label file of train with objects has no image; the first is {root}/images/train/b.txt." in caplog.text


@pytest.mark.parametrize("labels", ["train/labels", "train/images", "train/other"])
def test_labels_of_a_missing_subfolder_of_a_split_are_reported(tmp_path, caplog, labels):
    root = write_yolo(tmp_path / "set")
    for kind in ("images", "labels"):
        (root / "train").mkdir(exist_ok=True)
        (root / kind / "train").rename(root / "train" / kind)
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("images/train", "train"))
    assert len(boxes(root)) == 3 and not caplog.records
    (root / labels / "gone").mkdir(parents=True)
    (root / labels / "gone/x.txt").write_text(LABEL)
    boxes(root)
    assert f"1 label file of train with objects has no image; the first is {root}/{labels}/gone/x.txt" in caplog.text
    assert "label-without-image" in kinds(root)


def test_labels_without_an_image_are_counted_up_to_a_limit(tmp_path, caplog, monkeypatch):
    root = write_yolo(tmp_path / "set")
    monkeypatch.setattr(yolo_files, "_MAX_STRAY", 150)
    for number in range(151):
        (root / f"labels/train/x{number:03d}.txt").write_text(LABEL)
    boxes(root)
    assert "more than 150 label files of train with objects have no image; the first is" in caplog.text


@pytest.mark.parametrize("count", [1, 200])
def test_labels_of_unused_images_and_other_splits_are_not_stray(tmp_path, caplog, count):
    root = write_yolo(tmp_path / "set")
    (root / "labels/Train").mkdir()  # one folder of labels for two of images
    shutil.copytree(root / "images/train", root / "Images/train")
    for number in range(count):
        picture(number).save(root / f"Images/train/x{number}.png")
        (root / f"labels/train/x{number}.txt").write_text(LABEL)
    boxes(root)
    (root / "list.txt").write_text("images/train/a.jpg\n")
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("images/train", "list.txt"))
    (root / "labels/train/gone.txt").write_text(LABEL)
    assert len(boxes(root)) == 1
    assert not caplog.records


def test_a_list_with_a_missing_image_is_an_error(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "list.txt").write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("images/train", "list.txt"))
    (root / "images/train/b.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 images is missing: .*b\.jpg"):
        boxes(root)
