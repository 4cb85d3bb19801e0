import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.data import open_dataset
from rtdetr.errors import DatasetError
from tests.coco_files import document, write_dataset


class Values:
    """A feature, as `datasets` has for the values of a column."""

    def __init__(self, *, names=None, decode=None):
        if names is not None:
            self.names = names
        if decode is not None:
            self.decode = decode


class PictureFeature(Values):
    def __init__(self, decode=True):
        super().__init__(decode=decode)


class ListOf:
    def __init__(self, feature):
        self.feature = feature


class Table:
    """Rows with the part of the interface of `datasets.Dataset` that is used."""

    def __init__(self, rows, features):
        self.rows, self.features = rows, features

    @property
    def column_names(self):
        return list(self.features)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = dict(self.rows[index])
        if "image" in row and self.features["image"].decode:
            row["image"] = Image.open(io.BytesIO(row["image"]["bytes"]))
        return row

    def with_format(self, kind):
        assert kind is None
        return self

    def select_columns(self, names):
        return Table(
            [{name: row[name] for name in names} for row in self.rows], {name: self.features[name] for name in names}
        )

    def cast_column(self, name, feature):
        return Table(self.rows, {**self.features, name: feature})


def rows_of(content, folder):
    """The COCO document as rows, and its class names."""
    label = {row["id"]: i for i, row in enumerate(content["categories"])}
    rows = []
    for image in content["images"]:
        own = [row for row in content["annotations"] if row["image_id"] == image["id"]]
        objects = {
            "bbox": [row["bbox"] for row in own],
            "category": [label[row["category_id"]] for row in own],
            "area": [row["area"] for row in own],
            "iscrowd": [row.get("iscrowd", 0) for row in own],
        }
        picture = {"bytes": (folder / "images" / image["file_name"]).read_bytes(), "path": None}
        rows.append({"image_id": image["id"], "image": picture, "objects": objects})
    return rows, [row["name"] for row in content["categories"]]


FEATURES = {
    "list of mappings": lambda names: ListOf({"bbox": Values(), "category": Values(names=names)}),
    "mapping of lists": lambda names: {"bbox": ListOf(Values()), "category": ListOf(Values(names=names))},
    "plain list": lambda names: [{"bbox": Values(), "category": Values(names=names)}],
}


def table(tmp_path, *, change=None, features="list of mappings", **columns):
    write_dataset(tmp_path)
    rows, names = rows_of(document(), tmp_path)
    for row in rows:
        row.update(columns)
        if change:
            change(row)
    kinds = {name: Values() for name in rows[0]}
    return Table(rows, {**kinds, "image": PictureFeature(), "objects": FEATURES[features](names)})


def assert_same(dataset, expected):
    assert dataset.categories.names == expected.categories.names
    assert dataset.image_ids.tolist() == expected.image_ids.tolist()
    for index in range(len(expected)):
        image, target = dataset.load(index)
        for name, value in expected.target(index).items():
            np.testing.assert_array_equal(target[name], value)
        assert image.tobytes() == expected.load(index)[0].tobytes()


@pytest.mark.parametrize("features", FEATURES)
def test_a_table_equals_the_files_it_was_made_from(tmp_path, features):
    dataset = open_dataset(table(tmp_path, features=features), split="train")
    assert_same(dataset, open_dataset(tmp_path / "data.json", split="train"))
    assert dataset.categories.ids == [0, 1, 2]
    assert pickle.loads(pickle.dumps(dataset)).load(1)[0].size == (60, 40)


def test_a_table_with_splits_and_merged_tables(tmp_path):
    splits = {"train": table(tmp_path), "validation": table(tmp_path, change=lambda row: row.pop("image_id"))}
    assert open_dataset(splits, split="val").image_ids.tolist() == [0, 1, 2]
    with pytest.raises(DatasetError, match="expected a split 'test' in the table, got train, validation"):
        open_dataset(splits, split="test")
    mixed = open_dataset([tmp_path / "data.json", splits], split="train")
    assert len(mixed) == 6
    assert mixed.load(4)[0].tobytes() == mixed.load(1)[0].tobytes()


def test_rows_may_hold_a_list_of_objects(tmp_path):
    def change(row):
        columns = row["objects"]
        row["objects"] = [{key: columns[key][i] for key in columns} for i in range(len(columns["bbox"]))]

    dataset = open_dataset(table(tmp_path, change=change), split="train")
    assert_same(dataset, open_dataset(tmp_path / "data.json", split="train"))


def test_classes_without_a_class_label(tmp_path):
    def text(row):
        row["objects"]["category"] = [["wolf", "ant", "fox"][label] for label in row["objects"]["category"]]

    def number(row):
        row["objects"]["category"] = [[30, 10, 20][label] for label in row["objects"]["category"]]

    named = table(tmp_path, change=text)
    named.features["objects"] = ListOf({"bbox": Values(), "category": Values()})
    assert open_dataset(named, split="train").categories.names == ["ant", "fox", "wolf"]
    numbered = table(tmp_path, change=number)
    numbered.features["objects"] = ListOf({"bbox": Values(), "category": Values()})
    dataset = open_dataset(numbered, split="train")
    assert (dataset.categories.names, dataset.categories.ids) == (["class 10", "class 20", "class 30"], [10, 20, 30])
    assert dataset.target(1)["labels"].tolist() == [2, 0, 2]


WRONG = {
    "class": (
        lambda row: row["objects"].update(category=[3] * len(row["objects"]["bbox"])),
        r"row 0: object 1 of class 3",
    ),
    "box": (lambda row: row["objects"].update(bbox=[[1, 2, 3]] * len(row["objects"]["bbox"])), r"has bbox \[1, 2, 3\]"),
    "no box": (lambda row: row["objects"].pop("bbox"), "row 0: expected 'bbox' and 'category' in 'objects'"),
    "count": (lambda row: row["objects"].update(category=[0] * 9), "but 9 categories; expected one per box"),
    "kind": (lambda row: row.update(objects=3), "expected 'objects' with a list for each key, got int"),
    "no image": (lambda row: row.update(image={"bytes": None, "path": None}), "row 0: the table has no image"),
    "damaged": (lambda row: row.update(image={"bytes": b"x", "path": None}), "row 0: the given image is not an image"),
    "area": (lambda row: row["objects"].update(area=["x"] * len(row["objects"]["bbox"])), "has area 'x'"),
    "width": (
        lambda row: row["objects"].update(bbox=[[1, 2, 0, 3]] * len(row["objects"]["bbox"])),
        "width and height > 0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_row_is_named(tmp_path, name):
    change, problem = WRONG[name]
    with pytest.raises(DatasetError, match=problem) as caught:
        open_dataset(table(tmp_path, change=change), split="train")
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["bbox", "category", "area"]), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, key=st.sampled_from([None, "bbox", "category", "area", "iscrowd"]), row=st.integers(0, 2))
def test_any_objects_are_read_or_refused(tmp_path, value, key, row):
    whole = table(tmp_path)
    if key is None:
        whole.rows[row]["objects"] = value
    else:
        whole.rows[row]["objects"][key] = value
    with contextlib.suppress(DatasetError):
        assert len(open_dataset(whole, split="train")) == 3


def test_missing_columns_and_rows_are_named(tmp_path):
    whole = table(tmp_path)
    with pytest.raises(DatasetError, match="expected columns 'image' and 'objects', got image_id, image"):
        open_dataset(whole.select_columns(["image_id", "image"]), split="train")
    with pytest.raises(DatasetError, match="at least one row"):
        open_dataset(Table([], whole.features), split="train")


def test_a_wrong_stated_size_is_found_when_the_image_is_read(tmp_path):
    dataset = open_dataset(table(tmp_path, width=61, height=70), split="train")
    with pytest.raises(DatasetError, match="table: image 20 is annotated as 61x70 pixels, but row 0 is 60x40"):
        dataset.load(1)


def test_the_real_package(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_dataset(tmp_path)
    rows, names = rows_of(document(), tmp_path)
    objects = {"bbox": [[datasets.Value("float64")]], "category": [datasets.ClassLabel(names=names)]}
    objects |= {"area": [datasets.Value("float64")], "iscrowd": [datasets.Value("int64")]}
    features = datasets.Features({"image_id": datasets.Value("int64"), "image": datasets.Image(), "objects": objects})
    real = datasets.Dataset.from_list(rows, features=features)
    expected = open_dataset(tmp_path / "data.json", split="train")
    assert_same(open_dataset(real, split="train"), expected)
    assert_same(open_dataset(datasets.DatasetDict(train=real.with_format("numpy")), split="train"), expected)


def test_an_image_that_cannot_be_read_can_be_skipped(tmp_path, caplog):
    whole = table(tmp_path)
    broken = table(tmp_path)
    broken.rows[0]["image"] = {"bytes": b"x", "path": None}
    expected = open_dataset(whole, split="train")
    with pytest.raises(DatasetError, match=r"1 of 3 images cannot be read: row 0: .*--bad-images skip"):
        open_dataset(broken, split="train")
    dataset = open_dataset(broken, split="train", on_bad_image="skip")
    assert dataset.image_ids.tolist() == expected.image_ids.tolist()
    assert dataset.annotations.labels.tolist() == expected.annotations.labels.tolist()
    assert dataset.skips_bad_images
    assert "1 of 3 images cannot be read and is skipped: row 0: the given image is not an image" in caplog.text
