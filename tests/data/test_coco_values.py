"""Nonstandard values in COCO files give the boxes of the standard file, in training, the doctor and its copy."""

import json
import logging
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.data import check, open_dataset
from rtdetr.data.coco import read_coco
from rtdetr.data.coco_values import box_of
from rtdetr.data.doctor import fix
from rtdetr.data.doctor.findings import KINDS
from rtdetr.errors import ConfigError, DatasetError
from tests.coco_files import document, many_images, read_annotations
from tests.data.doctor_files import clean, write
from tests.data.formats import write_format
from tests.data.test_coco import outcome_of


def texts(row: dict[str, Any], *keys: str) -> None:
    row.update({key: str(row[key]) for key in keys})


def _image_id_text(rows):
    for row in rows["annotations"]:
        texts(row, "image_id")


def _all_text(rows):
    for row in rows["images"]:
        texts(row, "id", "width", "height")
    for row in rows["categories"]:
        texts(row, "id")
    for row in rows["annotations"]:
        texts(row, "id", "image_id", "category_id", "area", "iscrowd")
        row["bbox"] = [f" {side}.0" for side in row["bbox"]]


def _floats(rows):
    for row in (*rows["images"], *rows["categories"], *rows["annotations"]):
        row.update({key: float(row[key]) for key in row if key not in ("file_name", "name", "bbox")})


def _box_in_one_text(rows):
    forms = ("[{}, {}, {}, {}]", "{},{},{},{}", "({} {} {} {})", "{},0 {},0 {},0 {},0")
    for row, form in zip(rows["annotations"], forms * 3, strict=False):
        row["bbox"] = form.format(*row["bbox"])


def _no_ids(rows):
    for row in rows["annotations"]:
        del row["id"]


def _some_ids(rows):
    rows["annotations"][1]["id"] = None


def _corners(row):
    x, y, width, height = row.pop("bbox")
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def _outlines(rows):
    for row in rows["annotations"]:
        row["segmentation"] = [_corners(row)]


def _outlines_of_all_forms(rows):
    first, second, third, *_ = rows["annotations"]
    first["segmentation"] = _corners(first)  # one polygon alone
    second["segmentation"] = [list(map(str, _corners(second)))]
    third |= {"segmentation": [(whole := _corners(third))[:6], whole[2:]], "bbox": []}  # an object in two pieces


def _runs(row, compressed):
    masks = pytest.importorskip("pycocotools.mask")
    x, y, width, height = row.pop("bbox")
    mask = np.zeros((64, 96), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    encoded = masks.encode(mask)["counts"].decode()
    if compressed:
        return {"size": [64, 96], "counts": encoded}
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [64, 96], "counts": np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()}


def _masks(rows):
    for number, row in enumerate(rows["annotations"]):
        row["segmentation"] = _runs(row, compressed=number % 2 == 0)


def _nulls(rows):
    for row in rows["annotations"]:
        row |= {"iscrowd": None, "area": None}


def _by_name(rows):
    names = {
        kind: {row["id"]: row[key] for row in rows[kind]}
        for kind, key in (("images", "file_name"), ("categories", "name"))
    }
    for row in rows["annotations"]:
        row["image_id"] = names["images"][row["image_id"]]
        row["category_id"] = names["categories"][row["category_id"]]


def _box_objects(rows):
    keys = [("x", "y", "width", "height"), ("X", "Y", "w", "h"), ("left", "top", "width", "height")]
    corners = [("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom")]
    for number, row in enumerate(rows["annotations"]):
        x, y, width, height = row["bbox"]
        form = (keys + corners)[number % 6]
        values = [x, y, x + width, y + height] if form in corners else [x, y, width, height]
        row["bbox"] = {key: str(value) if number % 2 else value for key, value in zip(form, values, strict=True)}


def _decimal_commas(rows):
    for row in rows["annotations"]:
        row["bbox"] = [f"{side},0" for side in row["bbox"]]
        row["area"] = f"{row['area']:.1f}".replace(".", ",")
    for row in rows["images"]:
        row["width"] = f"{row['width']},0"


def _no_sizes(rows):
    first, *others = rows["images"]
    first |= {"width": None, "height": None}
    for row in others:
        del row["width"], row["height"]


def _group_of_the_same_name(rows):
    rows["categories"].insert(0, {"id": 0, "name": rows["categories"][0]["name"], "supercategory": "none"})


FORMS = {
    "a group of classes as a class": _group_of_the_same_name,
    "no sizes of images": _no_sizes,
    "by name": _by_name,
    "box objects": _box_objects,
    "decimal commas": _decimal_commas,
    "image_id as text": _image_id_text,
    "all as text": _all_text,
    "whole numbers as floats": _floats,
    "boxes in one text": _box_in_one_text,
    "no annotation ids": _no_ids,
    "some annotation ids": _some_ids,
    "outlines": _outlines,
    "outlines of all forms": _outlines_of_all_forms,
    "masks": _masks,
    "nulls": _nulls,
}


def assert_same(one, other):
    for left, right in zip(one.annotations[1:9], other.annotations[1:9], strict=True):
        np.testing.assert_array_equal(left, right)
    assert list(one.categories) == list(other.categories)


@pytest.mark.parametrize("form", FORMS)
def test_nonstandard_forms_are_read_like_the_standard_one(tmp_path, caplog, form):
    tidy = write(tmp_path / "tidy")
    splits = clean()
    for rows in splits.values():
        rows["annotations"][0]["area"] = 720.0
    FORMS[form](splits["train"])
    root = write(tmp_path / "set")
    (root / "annotations/train.json").write_text(json.dumps(splits["train"]))
    with caplog.at_level(logging.INFO, logger="rtdetr"):
        read = open_dataset(root, split="train")
    assert sum("read from a nonstandard form" in message for message in caplog.messages) == 1
    expected = open_dataset(tidy, split="train")
    assert_same(read, expected)
    report = check(root)
    assert {finding.kind for finding in report.findings} == {"other-form"}
    assert report.sound
    changes = fix(report, tmp_path / "out")
    assert {change.kind for change in changes} == {"other-form"}
    outlined = sum("bbox" not in row or not row["bbox"] for row in splits["train"]["annotations"])
    assert sum("annotation" in change.text.split(".jpg")[-1] for change in changes if ".jpg" in change.text) == outlined
    copy = open_dataset(tmp_path / "out", split="train")
    assert_same(copy, expected)
    assert check(tmp_path / "out").findings == []


REFUSED = {
    "words": ({"image_id": "first"}, "has image_id 'first'; expected an integer"),
    "a fraction": ({"image_id": 1.5}, "has image_id 1.5; expected an integer"),
    "a bool": ({"category_id": True}, "has category_id True; expected an integer"),
    "underscores": ({"image_id": "1_0"}, "has image_id '1_0'"),
    "other digits": ({"image_id": "\uff11\uff10"}, "expected an integer"),
    "a comma before thousands": ({"area": "1,250"}, "has area '1,250'"),
    "a comma before thousands in a box": ({"bbox": ["1,250", "2", "3", "4"]}, "expected 4 numbers"),
    "no such class": (
        {"category_id": "fox"},
        "has category_id 'fox'; expected an integer, or a name that only one entry",
    ),
    "a box of other keys": ({"bbox": {"x": 1, "y": 2, "right": 3, "bottom": 4}}, "expected 4 numbers"),
    "a box with a key twice": ({"bbox": {"x": 1, "X": 2, "y": 2, "width": 3, "height": 4}}, "expected 4 numbers"),
    "a box of words": ({"bbox": {"x": "a", "y": 2, "width": 3, "height": 4}}, "expected 4 numbers"),
    "eight numbers": ({"bbox": "1,5,2,5,3,5,4,5"}, "has bbox '1,5,2,5,3,5,4,5'; expected 4 numbers"),
    "three numbers": ({"bbox": "[1, 2, 3]"}, "expected 4 numbers"),
    "infinite": ({"bbox": "1 2 3 1e999"}, "expected 4 numbers"),
    "no box": ({"bbox": None}, "has neither 'bbox' nor 'segmentation'"),
    "two points": ({"bbox": None, "segmentation": [[1, 2, 3, 4]]}, "expected polygons"),
    "odd outline": ({"bbox": None, "segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "expected polygons"),
    "empty outline": ({"bbox": None, "segmentation": [[]]}, "expected polygons"),
    "outline of words": ({"bbox": None, "segmentation": [["a"] * 6]}, "expected polygons"),
    "mask without runs": ({"bbox": None, "segmentation": {"size": [40, 60]}}, "an invalid mask"),
    "other mask": (
        {"bbox": None, "segmentation": {"size": [2, 2], "counts": [1, 3]}},
        "a mask of 2x2 pixels; expected the size of the image, 60x40",
    ),
    "short mask": ({"bbox": None, "segmentation": {"size": [40, 60], "counts": [1, 3]}}, "with runs of 4 pixels"),
    "negative run": ({"bbox": None, "segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "an invalid mask"),
    "broken text": ({"bbox": None, "segmentation": {"size": [40, 60], "counts": "\x7fnope"}}, "an invalid mask"),
    "endless text": ({"bbox": None, "segmentation": {"size": [40, 60], "counts": "o" * 50}}, "an invalid mask"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_ambiguous_values_are_refused_by_name(tmp_path, form):
    change, problem = REFUSED[form]
    content = document()
    content["annotations"][2] |= change
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="annotation 3 ") as caught:
        read_annotations(file)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert errors_of(read_coco(file, tmp_path))


def test_ambiguous_names_are_not_used_as_ids(tmp_path):
    content = document()
    content["categories"][1]["name"] = "90"  # the id of another class
    content["annotations"][2]["category_id"] = "90"
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    assert read_annotations(file).categories.names[-1] == "bird"
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    content["annotations"][2]["image_id"] = content["images"][0]["file_name"]
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="a name that only one entry has"):
        read_annotations(file)


def test_an_empty_mask_is_a_box_without_area(tmp_path):
    content = document()
    content["annotations"][2] |= {"bbox": None, "segmentation": {"size": [40, 60], "counts": [2400]}}
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"annotation 3 \(image 20\) has bbox \[0, 0, 0, 0\]"):
        read_annotations(file)
    assert len(read_annotations(file, on_bad_box="drop").labels) == 3


@pytest.mark.parametrize("seed", range(8))
def test_boxes_of_masks_are_those_of_pycocotools(seed):
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 70, 2).tolist()
    mask = np.asfortranarray(rng.random((height, width)) < rng.choice([0.02, 0.5, 1.0]), dtype=np.uint8)
    mask[rng.integers(height), rng.integers(width)] = 1
    encoded = masks.encode(mask)
    segmentation = {"size": [height, width], "counts": encoded["counts"].decode()}
    assert box_of({"segmentation": segmentation}, (width, height)).xywh == masks.toBbox(encoded).tolist()


def errors_of(part) -> list[str]:
    """What the doctor calls an error of a split by its entries and boxes."""
    found = [problem.kind for problem in part.problems if KINDS[problem.kind].severity == "error" and problem.is_shown]
    for image, (x, y, width, height) in zip(part.box_images, part.boxes_xywh, strict=True):
        right, bottom = part.images[image].size_wh or (0, 0)
        if min(width, height) <= 0 or x >= right or y >= bottom or x + width <= 0 or y + height <= 0:
            found.append("bad box")
    return found + ["empty"] * (not part.images or not part.categories)


def rows_of_doctor(part):
    images, names = part.images, [category.name for category in part.categories]
    columns = zip(part.box_images, part.labels, part.boxes_xywh.tolist(), part.areas, part.iscrowd, strict=True)
    rows = [(images[image].image_id, names[label], *box, area, crowd) for image, label, box, area, crowd in columns]
    rows = [(*row[:6], row[4] * row[5] if np.isnan(row[6]) else row[6], row[7]) for row in rows]
    return sorted((image.image_id, image.file_name, *image.size_wh) for image in images), sorted(rows)


def rows_of_training(columns):
    counts = np.diff(columns.starts)
    ids = np.repeat(columns.image_ids, counts).tolist()
    names = [columns.categories.names[label] for label in columns.labels]
    boxes, areas = columns.boxes_xywh.tolist(), columns.areas.tolist()
    rows = zip(ids, names, boxes, areas, columns.iscrowd.tolist(), strict=True)
    images = zip(columns.image_ids.tolist(), columns.file_names.tolist(), columns.sizes_wh.tolist(), strict=True)
    return (
        sorted((number, name, *size) for number, name, size in images),
        sorted((number, name, *box, area, crowd) for number, name, box, area, crowd in rows),
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.floats()
    | st.text(max_size=4)
    # what programs write
    | st.sampled_from(["1", "20", "30.0", "7.", " 3", "1e1", "true", "[1, 2, 3, 4]", "1 2 3 4", 20.0, 1e300, 2**70])
    | st.sampled_from(["dog", "b.png", "1,5", "20,0", "1,000", {"x": 1, "y": 2, "w": "3", "h": 4}]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=7,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(VALUES, min_size=1, max_size=3), seed=st.integers(0, 10**6))
def test_training_and_doctor_agree_on_any_mutation(tmp_path, values, seed):
    content = document()
    chance = random.Random(seed)
    for value in values:
        rows = content[chance.choice(["images", "annotations", "annotations", "categories"])]
        row = chance.choice(rows)
        if isinstance(row, dict):
            key = chance.choice([*row, "segmentation"])
            row[key] = value
            if chance.random() < 0.3:
                row.pop(chance.choice(["bbox", "id", key]), None)
        else:
            rows[chance.randrange(len(rows))] = value
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    part = outcome_of(lambda: read_coco(file, tmp_path))
    columns = outcome_of(lambda: read_annotations(file))
    if isinstance(columns, str):
        assert isinstance(part, str) or errors_of(part), columns
    else:
        assert not errors_of(part)
        assert rows_of_doctor(part) == rows_of_training(columns)


def lossy(root, *, wrong):
    """A set of 40 boxes in its training split, of which some are of no class."""
    splits = clean()
    [one, *_] = splits["train"]["annotations"]
    splits["train"]["annotations"] = [
        {**one, "id": number, "bbox": [number, 8, 30, 24], "category_id": 99 if number <= wrong else 3}
        for number in range(1, 41)
    ]
    for number in range(3):
        splits["train"]["annotations"][-number - 1]["image_id"] = 10 + number
    return write(root, splits)


def test_a_copy_that_loses_much_is_refused(tmp_path):
    with pytest.raises(
        DatasetError,
        match=r"'train' would lose 0 of 3 images and 3 of 40 boxes \(boxes of classes .*: 3\)\. .*--allow-loss",
    ):
        fix(check(lossy(tmp_path / "three", wrong=3)), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["three"]
    changes = fix(check(tmp_path / "three"), tmp_path / "out", allow_loss=True)
    assert [change.kind for change in changes] == ["unknown-class"] * 3
    fix(check(lossy(tmp_path / "two", wrong=2)), tmp_path / "two out")
    assert len(open_dataset(tmp_path / "two out", split="train").annotations.labels) == 38


def test_copies_are_no_loss(tmp_path):
    splits = clean()
    rows = splits["train"]["annotations"]
    splits["train"]["annotations"] += [{**row, "id": 100 + row["id"]} for row in rows]  # all boxes twice
    root = write(tmp_path / "set", splits)
    (root / "images/train/b.jpg").write_bytes((root / "images/train/a.jpg").read_bytes())
    (root / "images/train/c.jpg").write_bytes((root / "images/val/d.jpg").read_bytes())
    fix(check(root), tmp_path / "out")
    assert open_dataset(tmp_path / "out", split="train").annotations.starts.tolist() == [0, 2]


def labeled_yolo(root):
    """12 images, and their label files that have objects; the others have empty ones."""
    write_format(root, "yolo", many_images(12), split="train")
    labeled = sorted((root / "labels/train").iterdir())
    for number in range(1, 13):
        (root / f"labels/train/{number}.txt").touch()
    return root, labeled


def test_labels_without_images_are_a_loss(tmp_path):
    root, labeled = labeled_yolo(tmp_path / "set")
    for file in labeled[:6]:
        (root / "images/train" / f"{file.stem}.png").unlink()
    with pytest.raises(
        DatasetError, match=r"objects of 6 label files with missing images; 6 images are present.*--allow-loss"
    ):
        fix(check(root), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    changes = fix(check(root), tmp_path / "out", allow_loss=True)
    assert [change.text for change in changes if change.kind == "label-without-image"] == list(map(str, labeled[:6]))


def test_a_label_file_that_cannot_be_read_is_one_change(tmp_path):
    root, [file, *_] = labeled_yolo(tmp_path / "set")
    file.write_bytes(b"\xff\xfe\x00")
    changes = fix(check(root), tmp_path / "out", allow_loss=True)
    assert [change.kind for change in changes if f"{file.stem}.png" in change.text.split()] == ["unreadable-entry"]
    assert not (tmp_path / "out/images/train" / f"{file.stem}.png").exists()


def test_the_command_line_refuses_and_allows_the_loss(tmp_path):
    root = write(tmp_path / "set")
    document = json.loads((root / "annotations/train.json").read_text())
    for row in document["annotations"]:
        row["image_id"] = "none"
    (root / "annotations/train.json").write_text(json.dumps(document))

    def invoke(*more):
        return CliRunner().invoke(app, ["data", "check", str(root), *more])

    out = str(tmp_path / "out")
    refused = invoke("--fix", out)
    assert refused.exit_code == 2, refused.output
    assert "'train' would lose 0 of 3 images and 6 of 6 boxes" in refused.output + (refused.stderr or "")
    assert not (tmp_path / "out").exists()
    allowed = invoke("--fix", out, "--allow-loss")
    assert allowed.exit_code == 1  # a split without objects is not sound
    assert "splits without an object" not in allowed.output.partition("Result for the copy")[2]
    assert "The data is sound" not in allowed.output
    assert len((tmp_path / "out/changes.txt").read_text().splitlines()) == 6
    assert invoke("--allow-loss").exit_code == 2


def test_text_numbers_on_the_command_line(tmp_path):
    root = write(tmp_path / "set")
    document = json.loads((root / "annotations/train.json").read_text())
    _all_text(document)
    (root / "annotations/train.json").write_text(json.dumps(document))
    result = CliRunner().invoke(app, ["data", "check", str(root), "--fix", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "train.json has numbers in a nonstandard form, such as text: " in result.output
    assert_same(open_dataset(tmp_path / "out", split="train"), open_dataset(write(tmp_path / "tidy"), split="train"))


def test_files_with_the_same_id_are_both_listed_with_their_boxes(tmp_path):
    splits = clean()
    splits["train"]["images"][1]["id"] = 10  # a.jpg and b.jpg
    root = write(tmp_path / "set", splits)
    fix(check(root), tmp_path / "out", allow_loss=True)
    lines = (tmp_path / "out/changes.txt").read_text().splitlines()
    assert {line for line in lines if line.startswith("duplicate-id")} == {
        "duplicate-id: train: b.jpg image 10",
        "duplicate-id: train: a.jpg image 10",
        *(f"duplicate-id: train: train.json annotation {number}" for number in (1, 2)),
    }


def test_an_unused_non_finite_number_is_reported_by_both(tmp_path):
    content = document()
    content["images"][0]["note"] = float("nan")
    file = tmp_path / "data.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="image 20 has the number NaN"):
        read_annotations(file)
    assert [defect.kind for defect in read_coco(file, tmp_path).problems] == ["wrong-value"]


def test_allow_loss_requires_fix():
    from rtdetr.cli.data import check as command

    with pytest.raises(ConfigError, match="--allow-loss needs --fix"):
        command([], allow_loss=True)
