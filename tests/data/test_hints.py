"""Hints for folders without a usual dataset layout; following the advice opens them."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rtdetr.data import open_dataset
from rtdetr.errors import MissingSplitError
from tests.data.formats import voc_object

XML = f"<annotation><size><width>60</width><height>40</height></size>{voc_object('dog', [1, 1, 9, 9])}</annotation>"
LABEL = "1 .5 .5 .2 .2\n"


def put(root: Path, *names: str) -> Path:
    """Files with the content that their suffix asks for."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (60, 40)).save(path)
        else:
            path.write_text(XML if path.suffix == ".xml" else "cat\ndog\n" if path.stem == "classes" else LABEL)
    return root


def told(root: Path, split: str = "train") -> str:
    with pytest.raises(MissingSplitError) as caught:
        open_dataset(root, split=split)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["images/a.png", "labels/a.txt", "classes.txt"], '{train: images, val: FOLDER, names: ["cat", "dog"]}'),
        (["a.png", "a.txt", "classes.txt"], '{train: ., val: FOLDER, names: ["cat", "dog"]}'),
        (
            ["images/train/a.png", "images/val/b.png", "labels/train/a.txt", "labels/train/classes.txt"],
            '{train: images/train, val: images/val, names: ["cat", "dog"]}',
        ),
        (
            ["train/images/a.png", "valid/images/b.png", "train/labels/a.txt", "classes.txt"],
            '{train: train/images, val: valid/images, names: ["cat", "dog"]}',
        ),
    ],
)
def test_yolo_without_a_yaml_file_gets_a_hint(tmp_path, names, text):
    message = told(put(tmp_path, *names))
    assert message.startswith(f"{tmp_path} has no annotations for 'train' in a usual place, but there are {tmp_path}/")
    assert message.endswith(f"write {tmp_path / 'data.yaml'} with the line {text}")
    (tmp_path / "data.yaml").write_text(text)
    dataset = open_dataset(tmp_path, split="train")
    assert (len(dataset), dataset.target(0)["labels"].tolist(), dataset.categories.names) == (1, [1], ["cat", "dog"])


def test_yolo_without_class_names_gets_a_hint(tmp_path):
    message = told(put(tmp_path, "images/train/a.png", "labels/train/a.txt"))
    assert f"but there are YOLO label files such as {tmp_path / 'labels/train/a.txt'}" in message
    assert message.endswith('{train: images/train, names: ["NAME OF CLASS 0", "..."]}')


@pytest.mark.parametrize("names", [["images/a.png", "annotations/a.xml"], ["a.png", "a.xml"]])
def test_voc_without_splits_gets_a_hint(tmp_path, names):
    message = told(put(tmp_path, *names))
    assert f"but there is 1 XML file, such as {tmp_path / names[1]} in Pascal VOC format. " in message
    line = re.search("one line such as '(.*)' per image", message)
    assert line is not None and f"in {tmp_path / 'train.txt'} and " in message
    (tmp_path / "train.txt").write_text(line[1])
    assert len(open_dataset(tmp_path, split="train").target(0)["labels"]) == 1


def test_a_dataset_in_a_subfolder_is_named(tmp_path):
    inner = put(tmp_path / "VOCdevkit" / "VOC2012", "JPEGImages/a.png", "Annotations/a.xml", "ImageSets/Main/train.txt")
    (inner / "ImageSets/Main/train.txt").write_text("a")
    for split in ("train", "val"):
        assert told(tmp_path, split).endswith(f", but {inner} is a dataset: give that folder")
    shutil.copytree(inner, inner.with_name("VOC2007"))
    assert told(tmp_path).endswith(f"but {inner.with_name('VOC2007')}, {inner} are datasets: give one or all")
    assert "has no list val.txt" in told(inner, "val")


def test_folders_without_annotations_get_no_hint(tmp_path):
    (put(tmp_path, "images/a.png", "classes.txt") / "notes.txt").write_text("photos of last week")
    assert "looked for" in told(tmp_path)
    assert "looked for" in told(tmp_path / "images")
    (tmp_path / "x.xml").write_text("<html/>")
    assert "looked for" in told(tmp_path)
