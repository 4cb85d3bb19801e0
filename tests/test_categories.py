"""Class tables: ids, labels, names and their plain form."""

import pytest

from rtdetr.categories import COCO80, VOC20, Categories, Category
from rtdetr.errors import InputError


def test_coco_labels_and_ids_are_the_published_ones():
    assert len(COCO80) == 80
    known = {0: 1, 11: 13, 23: 25, 24: 27, 26: 31, 40: 46, 60: 67, 61: 70, 62: 72, 73: 84, 79: 90}
    assert {label: COCO80.ids[label] for label in known} == known
    assert {COCO80.label_of_id[number] for number in known.values()} == set(known)
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & set(COCO80.ids)


def test_coco_names_stand_at_their_ids():
    name_of_id = dict(zip(COCO80.ids, COCO80.names, strict=True))
    known = {
        1: "person",
        13: "stop sign",
        18: "dog",
        44: "bottle",
        46: "wine glass",
        67: "dining table",
        90: "toothbrush",
    }
    assert {number: name_of_id[number] for number in known} == known
    assert len(set(COCO80.names)) == 80


def test_voc_is_alphabetical():
    assert len(VOC20) == 20
    assert VOC20.names == sorted(VOC20.names)
    assert VOC20.ids == list(range(20))


def test_sequence_behavior():
    assert COCO80[0] == Category(1, "person")
    assert COCO80[-1].name == "toothbrush"
    assert COCO80[:2] == Categories([Category(1, "person"), Category(2, "bicycle")])
    assert [category.id for category in COCO80][:3] == [1, 2, 3]
    assert "Categories(80: person" in repr(COCO80)
    assert COCO80 != VOC20
    assert hash(COCO80[:]) == hash(COCO80)
    assert len(Categories([])) == 0


def test_json_round_trip_keeps_the_order():
    rows = [{"id": 7, "name": "b"}, {"id": 0, "name": "a", "supercategory": "ignored"}]
    categories = Categories.from_json(rows)
    assert categories.label_of_id == {7: 0, 0: 1}
    assert Categories.from_json(categories.to_json()) == categories


def test_numbered():
    assert Categories.numbered(2).to_json() == [{"id": 0, "name": "class 0"}, {"id": 1, "name": "class 1"}]


@pytest.mark.parametrize("row", [{"id": "1", "name": "a"}, {"id": 1}, {"name": "a"}, {"id": True, "name": "a"}, 3])
def test_bad_row_is_named(row):
    with pytest.raises(InputError, match=r"category 1 must be like .*got"):
        Categories.from_json([{"id": 5, "name": "good"}, row])


def test_repeated_id_is_an_error():
    with pytest.raises(InputError, match="got 4 more than once"):
        Categories([Category(4, "a"), Category(4, "b")])
