"""Classes given by a user: all accepted forms, and how they relate to the rows of a model."""

import json
from pathlib import Path

import pytest

from rtdetr.categories import COCO80, VOC20, Categories, Category
from rtdetr.class_lists import class_list
from rtdetr.errors import ConfigError

PETS = Categories([Category(1, "cat"), Category(2, "dog"), Category(4, "bird")])
FILES = {
    "coco.json": json.dumps({"images": [], "categories": PETS.to_json()}),
    "names.json": json.dumps({"1": "cat", "4": "bird", "2": "dog"}),
    "data.yaml": "names: {1: cat, 2: dog, 4: bird}\ntrain: images\n",
}


@pytest.mark.parametrize("name", FILES)
def test_files_with_ids(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name])
    found = class_list(tmp_path / name)
    assert found.categories == PETS
    assert class_list(f"ids:{tmp_path / name}").for_rows(None).names == ["id 0", "cat", "dog", "id 3", "bird"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "cat\nno\n1\n\n"),
        ("list.json", '["cat", "no", "1"]'),
        ("list.yml", "[cat, no, 1]"),
        ("data.yml", "names:\n- cat\n- no\n- 1\n"),
    ],
)
def test_files_with_names_alone(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    expected = Categories(Category(label, one) for label, one in enumerate(["cat", "no", "1"]))
    assert class_list(str(tmp_path / name)).categories == expected
    assert class_list(["cat", "no", "1"]).categories == class_list(("cat", "no", "1")).categories == expected


def test_rows_are_the_classes_or_their_ids() -> None:
    given = class_list(PETS)
    assert given.for_rows(3) == given.for_rows(None) == PETS
    assert given.for_rows(5).ids == [0, 1, 2, 3, 4]
    assert given.for_rows(5).names == ["id 0", "cat", "dog", "id 3", "bird"]
    assert class_list("coco").for_rows(80) == COCO80 and class_list("voc").for_rows(20) == VOC20
    rows = class_list("coco").for_rows(91)
    assert (rows[90].name, rows[12].name, rows[1].name, len(rows)) == ("toothbrush", "id 12", "person", 91)
    assert class_list("ids").for_rows(7) == Categories.of_ids(7)
    with pytest.raises(ConfigError, match=r"has 3 classes with ids up to 4, but the model has 6 rows; expected"):
        given.for_rows(6)
    assert class_list({1: "a", 2: "b"})._replace(by_id=True).for_rows(9).names[:3] == ["id 0", "a", "b"]
    with pytest.raises(ConfigError, match=r"category id 4 is outside 0\.\.3"):
        given._replace(by_id=True).for_rows(4)
    with pytest.raises(ConfigError, match="Give ids:FILE instead"):
        class_list("ids").for_rows(None)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "not valid JSON"),
        ("x.json", '{"categories": [{"id": 1}]}', 'category 0 must be like {"id": 1'),
        ("x.json", '{"images": []}', "expected class names"),
        ("x.json", "[1, 2]", "expected class names"),
        ("x.yml", "names: [a", "line 1: not valid YAML"),
        ("x.yml", "a: {b: c}", "expected class names"),
        ("x.txt", "", "expected class names"),
        ("x.txt", "a\n\nb\n", "expected class names"),
    ],
)
def test_files_without_names(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        class_list(tmp_path / name)
    assert name in str(caught.value) and message in str(caught.value)


def test_other_things() -> None:
    with pytest.raises(ConfigError, match=r"no such file of class names: coca\. Expected a file, coco, voc or ids"):
        class_list("coca")
    for wrong in ([], [1, 2], {"a": "b"}, 3):
        with pytest.raises(ConfigError, match="categories: expected class names as a list of texts"):
            class_list(wrong)
