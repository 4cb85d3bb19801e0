"""Text files of a dataset written by other programs give the same boxes and classes, or a clear error."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtdetr.data import check, open_dataset
from rtdetr.data.label_rows import Row, has_objects, numbers_of, objects_of
from rtdetr.errors import DatasetError
from tests.data.doctor.test_formats import kinds, write_voc, write_yolo
from tests.data.doctor_files import write
from tests.test_text_files import encoded

NAMES = ["猫 cat", "Hündin"]
ENCODINGS = ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "no mark, utf-16-le", "no mark, utf-16-be"]


def in_encoding(text, encoding):
    return text.encode(encoding.removeprefix("no mark, ")) if "," in encoding else encoded(text, encoding)


def write_coco(root):
    return write(root)


def write_listed_voc(root):
    """VOC with list files that name image and XML file."""
    write_voc(root)
    for split in ("train", "val"):
        stems = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        (root / f"{split}.txt").write_text("\n".join(f"JPEGImages/{stem}.jpg Annotations/{stem}.xml" for stem in stems))
        (root / f"ImageSets/Main/{split}.txt").unlink()
    (root / "ImageSets/Main").rmdir()
    return root


def write_listed_yolo(root):
    """YOLO with a list of images."""
    write_yolo(root)
    names = sorted(path.name for path in (root / "images/train").iterdir())
    (root / "train.txt").write_text("\n".join(f"images/train/{name}" for name in names))
    (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("train: images/train", "train: train.txt"))
    return root


FORMATS = {
    "coco": write_coco,
    "yolo": write_yolo,
    "yolo list": write_listed_yolo,
    "voc": write_voc,
    "voc list": write_listed_voc,
}


def renamed(root, change):
    """Rewrite every text file of a dataset, with class names that are not ASCII."""
    for file in root.rglob("*.*"):
        if file.suffix in (".txt", ".yaml", ".xml", ".json"):
            text = file.read_text(encoding="utf-8")
            for old, new in zip(("cat", "dog"), NAMES, strict=True):
                text = re.sub(rf"\b{old}\b", new, text)
            if file.suffix == ".json":
                text = json.dumps(json.loads(text), ensure_ascii=False)
            file.write_bytes(change(text, file))
    return root


def content_of(root):
    dataset = open_dataset(root, split="train")
    columns = dataset.annotations
    return dataset.categories.names, columns.labels.tolist(), columns.boxes_xywh, columns.file_names.tolist()


def assert_same(root, expected):
    names, labels, boxes, files = content_of(root)
    assert (names, labels, files) == (NAMES, expected[1], expected[3])
    assert np.array_equal(boxes, expected[2])
    assert kinds(root) == {}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", FORMATS)
def test_every_text_file_of_every_format(tmp_path, kind, encoding):
    expected = content_of(FORMATS[kind](tmp_path / "tidy"))
    root = renamed(FORMATS[kind](tmp_path / "set"), lambda text, _: in_encoding(text, encoding))
    assert_same(root, expected)


@pytest.mark.parametrize("end", ["\r\n", "\r"])
@pytest.mark.parametrize("kind", FORMATS)
def test_line_ends_of_other_systems(tmp_path, kind, end):
    expected = content_of(FORMATS[kind](tmp_path / "tidy"))
    root = renamed(FORMATS[kind](tmp_path / "set"), lambda text, _: text.replace("\n", end).encode())
    assert_same(root, expected)


DECLARED = {  # what an XML file says of its encoding, and the one that it has
    "utf-8": "utf-8",
    "UTF-8": "utf-16-le",
    "utf-16": "utf-8",  # written so by many programs for Windows
    "UTF-16": "utf-16-be",
    "ISO-8859-1": "latin-1",
    "windows-1252": "cp1252",
    "gb18030": "gb18030",
}


@pytest.mark.parametrize("declared", DECLARED)
def test_the_encoding_that_xml_declares(tmp_path, declared):
    encoding = DECLARED[declared]
    expected = content_of(write_voc(tmp_path / "tidy"))
    names = NAMES if encoding not in ("latin-1", "cp1252") else ["chaton né", "Hündin"]

    def change(text, file):
        if file.suffix != ".xml":
            return text.replace(NAMES[0], names[0]).encode()
        text = text.replace(NAMES[0], names[0])
        text = f'<?xml version="1.0" encoding="{declared}"?>\n{text}'
        return encoded(text, encoding) if encoding.startswith("utf-16") else text.encode(encoding)

    root = renamed(write_voc(tmp_path / "set"), change)
    assert content_of(root)[0] == names
    assert content_of(root)[1] == expected[1] and np.array_equal(content_of(root)[2], expected[2])
    assert kinds(root) == {}


@pytest.mark.parametrize("declared", ["idna", "utf-7", "unicode_escape", "rot13", "undefined"])
def test_unusual_encodings_are_refused(tmp_path, declared):
    root = write_voc(tmp_path / "set")
    file = root / "Annotations/a.xml"
    file.write_text(f'<?xml version="1.0" encoding="{declared}"?>{file.read_text()}')
    with pytest.raises(DatasetError, match=r"a\.xml: expected a VOC annotation, but it is not valid XML: "):
        open_dataset(root, split="train")


def what_the_doctor_says(root):
    try:
        return check(root).text()
    except DatasetError as error:
        return str(error)


FILES = {
    "yolo": ["data.yaml", "labels/train/a.txt"],
    "yolo list": ["train.txt"],
    "voc": ["Annotations/a.xml", "ImageSets/Main/train.txt", "labels.txt"],
    "coco": ["annotations/train.json"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in FILES for name in FILES[kind]])
def test_another_encoding_is_named_with_its_file(tmp_path, kind, name):
    root = FORMATS[kind](tmp_path / "set")
    file = root / name
    file.write_bytes(file.read_bytes() + "\nété".encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split="train")
    line = len(file.read_bytes().splitlines())
    message = str(caught.value)
    assert f"{file}: expected text in UTF-8" in message and "tried UTF-8, but byte " in message
    assert f"in line {line} is invalid. Save the file as UTF-8" in message and "\n" not in message
    told = what_the_doctor_says(root)
    assert "tried UTF-8, but byte" in told and "sound" not in told


ROWS = {
    "0 0,5 0,25 0,125 1": [0, 0.5, 0.25, 0.125, 1],
    "0 0,5 0.25 1,0e-1 1,000": [0, 0.5, 0.25, 0.1, 1],
    "-1\t+0,5\t-0,5": [-1, 0.5, -0.5],
    "0,0.5,0.25,0.1,0.2": [0, 0.5, 0.25, 0.1, 0.2],
    "0, 0.5, 0.25, 0.1, 1": [0, 0.5, 0.25, 0.1, 1],
    "0, 1, 0, 1, 0": [0, 1, 0, 1, 0],
    "0 , 0.5 ,0.25 , 0.1,1": [0, 0.5, 0.25, 0.1, 1],
    "0 0.5": [0, 0.5],
    " \t": [],
}
AMBIGUOUS = [
    "0,1,0,1,0",
    "0,0,5,0,5,0,1,0,1",
    "0 0.1,0.2 0.3,0.4",
    "0 0,5 0,5 0,1 0,1,",
    "0,0.5,0.25,0.1,",
    ",",
    "0 ,5 1 1 1",
]
WRONG = ["0;0.5;0.5;1;1", "a,b", "0 0,a 1 1 1", "0, a, 1, 1, 1", "1'000"]


@pytest.mark.parametrize("row", ROWS)
def test_unambiguous_commas_are_read(row):
    assert numbers_of(row) == ROWS[row]


@pytest.mark.parametrize("row", [*AMBIGUOUS, *WRONG])
def test_ambiguous_commas_are_refused(tmp_path, row):
    with pytest.raises(ValueError, match=r"could not convert|commas may be"):
        numbers_of(row)
    root = write_yolo(tmp_path / "set")
    file = root / "labels/train/a.txt"
    file.write_text(f"{file.read_text()}\n{row}")
    with pytest.raises(DatasetError, match=r"a\.txt:3: expected 'class cx cy w h' .* and with decimal points, got"):
        open_dataset(root, split="train")
    assert kinds(root) == {"unreadable-entry": 1}


@pytest.mark.parametrize("written", ["decimal", "separated", "spaced"])
def test_numbers_with_commas_give_the_same_boxes(tmp_path, written):
    expected = content_of(write_yolo(tmp_path / "tidy"))
    root = write_yolo(tmp_path / "set")
    for file in (root / "labels").rglob("*.txt"):
        text = file.read_text()
        text = (
            text.replace(".", ",")
            if written == "decimal"
            else text.replace(" ", "," if written == "separated" else ", ")
        )
        file.write_text(text)
    names, labels, boxes, files = content_of(root)
    assert (names, labels, files) == (expected[0], expected[1], expected[3])
    assert np.array_equal(boxes, expected[2])
    assert kinds(root) == {}


def test_decimal_commas_in_xml(tmp_path):
    root = write_voc(tmp_path / "set")
    file = root / "Annotations/a.xml"
    text = file.read_text()
    first = re.search(r"<xmin>([\d.]+)</xmin>", text) or [""]
    file.write_text(text.replace(first[0], "<xmin>12,5</xmin>", 1))
    assert content_of(root)[2][0][0] == 11.5
    assert kinds(root) == {}
    file.write_text(text.replace(first[0], "<xmin>0,125</xmin>", 1))
    assert kinds(root) == {}
    for doubtful in ("1,250", "1,2,5", "1.250,5"):
        file.write_text(text.replace(first[0], f"<xmin>{doubtful}</xmin>", 1))
        with pytest.raises(DatasetError, match=rf"a\.xml: .*xmin: expected a number, got '{re.escape(doubtful)}'"):
            open_dataset(root, split="train")
        assert kinds(root) == {"unreadable-entry": 1}


@settings(max_examples=200, deadline=None)
@given(row=st.text("0123456789.,-+e \t;", max_size=24) | st.text(max_size=12))
def test_any_row_is_read_or_refused(row):
    try:
        numbers = numbers_of(row)
    except ValueError:
        return
    assert len(numbers) <= len(re.split(r"[\s,]+", row))
    if "," not in row:
        assert numbers == list(map(float, row.split())) or any(number != number for number in numbers)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=40) | st.text("01.,- \n\r\t\ufeff", max_size=40).map(lambda text: text.encode("utf-16"))
)
def test_any_label_file_is_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzz.txt"
    file.write_bytes(content)
    assert has_objects(str(file)) in (True, False)
    for points in (0, 6):
        try:
            found = list(objects_of(str(file), points))
        except DatasetError as caught:
            message, found = str(caught), []
        else:
            message = str(file)
        assert str(file) in message and "\n" not in message
        assert all(-0.6 <= corner <= 1.6 for row in found if isinstance(row, Row) for corner in row.corners)
        assert not any("\n" in row.problem for row in found if not isinstance(row, Row))
