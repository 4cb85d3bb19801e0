import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from rtdetr.categories import COCO80
from rtdetr.data.annotations import clamped_xyxy
from rtdetr.errors import ConfigError, DatasetError
from tests.coco_files import annotation, document, read_annotations


def read(tmp_path: Path, content: Any, **options: Any):
    file = tmp_path / "data.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(file, **options)


def test_columns_are_sorted_by_image_and_labels_by_category_id(tmp_path):
    columns = read(tmp_path, document())
    assert columns.categories.ids == [3, 7, 90]
    assert columns.image_ids.tolist() == [10, 20, 30]
    assert columns.file_names.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert columns.sizes_wh.tolist() == [[50, 50], [60, 40], [32, 48]]
    assert columns.starts.tolist() == [0, 0, 3, 4]  # image 10 is kept without objects
    assert columns.labels.tolist() == [0, 1, 0, 2]
    assert columns.iscrowd.tolist() == [False, False, True, False]
    assert columns.boxes_xywh.tolist() == [[1.5, 2, 10, 20], [30, 10, 1, 1], [0, 0, 60, 40], [20, 30, 20, 30]]
    assert columns.areas.tolist() == [200, 1, 2400, 600]


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 2, 3], [3, 7, 90], [-4, 100, 2**40]])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_any_category_ids_give_the_same_labels(tmp_path, ids, order):
    content = document()
    new_id = dict(zip([3, 7, 90], ids, strict=True))
    categories = [{**row, "id": new_id[row["id"]]} for row in content["categories"]]
    content["categories"] = [categories[i] for i in order]
    for row in content["annotations"]:
        row["category_id"] = new_id[row["category_id"]]
    columns = read(tmp_path, content)
    assert columns.labels.tolist() == [0, 1, 0, 2]
    assert columns.categories.ids == ids
    assert columns.categories.names == ["cat", "dog", "bird"]


def test_coco_ids_give_the_published_labels(tmp_path):
    content = document()
    content["categories"] = list(reversed(COCO80.to_json()))
    content["annotations"] = [annotation(i, 10, number, [1, 1, 2, 2]) for i, number in enumerate(COCO80.ids)]
    columns = read(tmp_path, content)
    assert columns.categories == COCO80
    published = {1: 0, 13: 11, 27: 24, 31: 26, 46: 40, 67: 60, 70: 61, 72: 62, 84: 73, 90: 79}
    label_of_id = dict(zip(COCO80.ids, columns.labels.tolist(), strict=True))
    assert {number: label_of_id[number] for number in published} == published


def test_area_and_crowd_marks_are_optional(tmp_path):
    content = document()
    for row in content["annotations"]:
        del row["area"], row["iscrowd"]
    columns = read(tmp_path, content)
    assert columns.areas.tolist() == [200, 1, 2400, 600]
    assert not columns.iscrowd.any()


def test_a_file_may_have_no_annotations_at_all(tmp_path):
    columns = read(tmp_path, {**document(), "annotations": []})
    assert columns.boxes_xywh.shape == (0, 4)
    assert columns.starts.tolist() == [0, 0, 0, 0]


def test_the_columns_hold_no_python_objects(tmp_path):
    columns = read(tmp_path, document())
    assert all(column.dtype != object for column in columns[1:9])


def test_boxes_are_clipped_at_the_border():
    boxes = clamped_xyxy(np.array([[-5, 2, 10, 100], [30, 10, 1, 1.0]]), np.array([60, 40]))
    assert boxes.tolist() == [[0, 2, 5, 40], [30, 10, 31, 11]]
    assert boxes.dtype == np.float32
    assert clamped_xyxy(np.empty((0, 4)), np.array([60, 40])).shape == (0, 4)


BAD_BOXES = [
    ([12, 30, 0, 5], "expected width and height > 0"),
    ([12, 30, 5, -1], "expected width and height > 0"),
    ([70, 10, 5, 5], "expected a box at least partly inside the image of 60x40 pixels"),
    ([-8, 10, 8, 5], "expected a box at least partly inside the image of 60x40 pixels"),
]


@pytest.mark.parametrize(("bbox", "problem"), BAD_BOXES)
def test_a_box_without_area_in_its_image_is_refused_or_dropped(tmp_path, bbox, problem):
    content = document()
    content["annotations"].insert(1, annotation(8812, 20, 7, bbox))
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'data.json'}: annotation 8812 (image 20) has bbox ")
    assert problem in message
    assert "on_bad_box='drop'" in message
    assert f"has bbox {bbox};" in message
    dropped, clean = read(tmp_path, content, on_bad_box="drop"), read(tmp_path, document())
    for left, right in zip(dropped[1:9], clean[1:9], strict=True):
        np.testing.assert_array_equal(left, right)


def test_the_option_for_bad_boxes_is_validated(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'drop'"):
        read(tmp_path, document(), on_bad_box="dropp")


def changed(kind: str, position: int, **values: Any) -> dict[str, Any]:
    """The document with some values of one row changed; None removes the key."""
    content = document()
    row = content[kind][position]
    row.update(values)
    content[kind][position] = {key: value for key, value in row.items() if value is not None}
    return content


def without_sizes(tmp_path, *, but: int | None = None) -> tuple[dict[str, Any], Path]:
    """The document without width and height of its images, one apart, and the folder of the images."""
    content = document()
    for position, row in enumerate(content["images"]):
        picture = Image.new("RGB", (row["width"], row["height"]))
        path = tmp_path / "images" / row["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if position != but:
            del row["width"], row["height"]
    return content, tmp_path / "images"


@pytest.mark.parametrize("but", [None, 1])
def test_sizes_that_a_file_does_not_state_are_read_from_the_images(tmp_path, but):
    content, images_dir = without_sizes(tmp_path, but=but)
    clean, columns = read(tmp_path, document()), read(tmp_path, content, images_dir=images_dir)
    for left, right in zip(columns[1:9], clean[1:9], strict=True):
        np.testing.assert_array_equal(left, right)
    assert any(f"read from the image files: {3 if but is None else 2}" in note for note in columns.notes)


def test_a_rotated_image_without_stated_size_counts_upright(tmp_path):
    content, images_dir = without_sizes(tmp_path)
    first = images_dir / content["images"][0]["file_name"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 60)).save(first, exif=exif)
    columns = read(tmp_path, content, images_dir=images_dir)
    assert columns.sizes_wh[columns.file_names.tolist().index(first.name)].tolist() == [60, 40]


def test_an_image_without_stated_size_that_cannot_be_read_is_refused_or_skipped(tmp_path):
    content, images_dir = without_sizes(tmp_path)
    broken = images_dir / content["images"][1]["file_name"]
    broken.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=rf"1 of 3 images cannot be read: .*{broken.name}"):
        read(tmp_path, content, images_dir=images_dir)
    columns = read(tmp_path, content, images_dir=images_dir, on_bad_image="skip")
    assert columns.boxes_xywh.tolist() == read(tmp_path, document()).boxes_xywh.tolist()
    broken.unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 images is missing"):
        read(tmp_path, content, images_dir=images_dir)


def test_annotations_of_unlisted_images_are_refused_or_dropped(tmp_path):
    content = document()
    content["annotations"].insert(1, annotation(77, 4711, 7, [1, 2, 3, 4]))
    content["annotations"].append({**annotation(78, 4712, 99, [0, 0, 0, 0]), "bbox": None})
    with pytest.raises(DatasetError, match=r"annotation 77 \(image 4711\) has image_id 4711, .*--bad-boxes drop"):
        read(tmp_path, content)
    columns, clean = read(tmp_path, content, on_bad_box="drop"), read(tmp_path, document())
    for left, right in zip(columns[1:9], clean[1:9], strict=True):
        np.testing.assert_array_equal(left, right)
    assert any("dropped annotations of images that are not listed: 2" in note for note in columns.notes)


def test_a_row_is_named_by_its_position_in_the_file(tmp_path):
    content = document()
    content["annotations"].insert(0, annotation(77, 4711, 7, [1, 2, 3, 4]))
    del content["annotations"][3]["id"]
    content["annotations"][3]["category_id"] = 99
    with pytest.raises(DatasetError, match=r"annotation number 4 of the list .* has category_id 99"):
        read(tmp_path, content, on_bad_box="drop")


def test_unused_classes_with_a_duplicate_name_are_omitted(tmp_path):
    content = document()
    content["categories"] = [{"id": number, "name": "fish"} for number in (0, 1, 2)]
    for row in content["annotations"]:
        row["category_id"] = 1
    columns = read(tmp_path, content)
    assert (columns.categories.ids, columns.categories.names) == ([1], ["fish"])
    assert any(
        "classes without objects omitted because another class has the same name: 2" in note for note in columns.notes
    )
    assert read(tmp_path, {**content, "annotations": []}).categories.ids == [2]
    content["annotations"][0]["category_id"] = 2
    with pytest.raises(DatasetError, match="category 2 has the name 'fish' of another"):
        read(tmp_path, content)


BROKEN = {
    "not json": ("{", "not valid JSON"),
    "a list": ([], "'images' is missing"),
    "no annotations key": ({k: v for k, v in document().items() if k != "annotations"}, "'annotations' is missing"),
    "images is a dict": ({**document(), "images": {}}, "'images' is not such a list"),
    "rows are no objects": ({**document(), "images": [1]}, "'images' is not such a list"),
    "no images": ({**document(), "images": []}, "'images' is empty"),
    "no categories": ({**document(), "categories": []}, "'categories' is empty"),
    "NaN": (json.dumps(changed("annotations", 0, area=float("nan"))), "annotation 1 has the number NaN"),
    "infinite": (json.dumps(changed("annotations", 0, bbox=[1, 1, 1, float("inf")])), "the number Infinity"),
    "overflow": (json.dumps(document()).replace("600", "1e999"), "annotation 1 (image 30) has area inf"),
    "unknown category": (changed("annotations", 2, category_id=4), "annotation 3 (image 20) has category_id 4"),
    "unknown image": (changed("annotations", 2, image_id=4), "annotation 3 (image 4) has image_id 4"),
    "same image twice": (changed("images", 2, id=20), "image 20 has the same id as another"),
    "same annotation twice": (changed("annotations", 3, id=2), "annotation 2 (image 20) has the same id as another"),
    "same category twice": (changed("categories", 1, id=3), "category 3 has the same id as another"),
    "same name twice": (changed("categories", 1, name="cat"), "category 7 has the name 'cat' of another"),
    "no image id": (changed("images", 1, id=None), "image number 2 of the list has no 'id'"),
    "text id": (changed("images", 1, id="x"), "image 'x' has id 'x'; expected an integer"),
    "huge id": (changed("images", 1, id=2**70), "id 1180591620717411303424, which does not fit into 64 bits"),
    "no width": (changed("images", 1, width=None), "image 10 has no 'width'"),
    "zero width": (changed("images", 1, width=0), "image 10 has no pixels"),
    "long file name": (
        changed("images", 1, file_name="x" * 1025),
        "data.json: expected image file names of at most 1024",
    ),
    "huge area": (changed("annotations", 1, area=10**400), "annotation 2 (image 20) has area inf"),
    "no file name": (changed("images", 1, file_name=None), "image 10 has no 'file_name'"),
    "no bbox": (changed("annotations", 1, bbox=None), "annotation 2 (image 20) has neither 'bbox'"),
    "short bbox": (changed("annotations", 1, bbox=[1, 2, 3]), "has bbox [1, 2, 3]; expected 4 numbers"),
    "text in bbox": (changed("annotations", 1, bbox=[1, 2, 3, "x"]), "expected 4 numbers"),
    "true in bbox": (changed("annotations", 1, bbox=[1, 2, 3, True]), "expected 4 numbers"),
    "negative area": (changed("annotations", 1, area=-1), "has area -1"),
    "text area": (changed("annotations", 1, area="big"), "has area 'big'"),
    "text crowd": (changed("annotations", 1, iscrowd="no"), "has iscrowd 'no'"),
    "no category name": (changed("categories", 1, name=None), "category 7 has no 'name'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_one_line(tmp_path, name):
    content, problem = BROKEN[name]
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert problem in message
    assert "data.json" in message
    assert "\n" not in message


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot read the annotation file .*none\.json: No such file"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(DatasetError, match="cannot read the annotation file"):
        read_annotations(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_annotations(tmp_path / "binary.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_annotations(tmp_path / "deep.json")


def outcome_of(attempt):
    """What was read, or the message of the DatasetError; any other exception fails the test."""
    try:
        return attempt()
    except DatasetError as caught:
        message = str(caught)
    assert "\n" not in message
    return message


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_VALUES, seed=st.integers(0, 10**6))
def test_any_mutation_is_read_or_refused_in_one_line(tmp_path, value, seed):
    content = document()
    chance = random.Random(seed)
    place: Any = content
    while isinstance(place, dict | list) and place:  # down to a random depth, then put the value there
        key = chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if chance.random() < 0.3 or not isinstance(place[key], dict | list):
            place[key] = value
            break
        place = place[key]
    outcome = outcome_of(lambda: read(tmp_path, content))
    if not isinstance(outcome, str):
        assert len(outcome.labels) == len(outcome.boxes_xywh) == outcome.starts[-1]
        assert np.isfinite(outcome.boxes_xywh).all()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 800), length=st.integers(0, 40), junk=st.binary(max_size=6))
def test_damaged_bytes_are_read_or_refused(tmp_path, start, length, junk):
    content = json.dumps(document()).encode()
    file = tmp_path / "data.json"
    file.write_bytes(content[:start] + junk + content[start + length :])
    outcome_of(lambda: read_annotations(file))


def test_many_boxes_beyond_their_image_give_one_note(tmp_path):
    content = document()
    rows = [annotation(i, 20, 3, [i % 30, 5, 20, 20], iscrowd=0) for i in range(1, 101)]
    content["annotations"] = rows
    beyond = [[0, 0, 62, 20], [-2, 0, 9, 9], [0, -2, 9, 9], [9, 9, 9, 33], [50, 9, 50, 9]]
    for row, box in zip(rows[:5], beyond, strict=True):
        row["bbox"] = box
    rows[5]["bbox"] = [-1, -1, 62, 42]  # rounding
    assert read(tmp_path, content).notes == ()
    rows[6]["bbox"] = [30, 20, 45, 35]  # x1 y1 x2 y2
    [note] = read(tmp_path, content).notes
    assert "data.json: 6 of 100 boxes extend beyond their image" in note
    assert "in the form x y width height" in note
