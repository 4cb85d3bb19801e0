"""Detections: validated once, sorted, selectable, plain when asked."""

import json

import numpy as np
import pytest

from rtdetr.detections import Detection, Detections
from rtdetr.errors import InputError

NAMES = ("cat", "dog", "cup")


def make(scores=(0.9, 0.6, 0.3), labels=(0, 1, 0), boxes=None, size=(20, 10)):
    boxes = [[i, i, i + 5, i + 4] for i in range(len(scores))] if boxes is None else boxes
    return Detections(boxes, scores, labels, NAMES, size)


def test_types_are_normalized():
    found = make()
    assert (found.boxes_xyxy.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert found.class_names == ["cat", "dog", "cat"]
    assert found.counts() == {"cat": 2, "dog": 1}
    assert repr(found) == "Detections(2 cat, 1 dog; image 20x10)"


def test_rows_are_sorted_together():
    found = make(scores=(0.1, 0.8, 0.5), labels=(0, 1, 2))
    assert found.labels.tolist() == [1, 2, 0]
    assert found.boxes_xyxy[:, 0].tolist() == [1, 2, 0]


def test_iteration_and_index():
    rows = list(make())
    assert rows[1] == Detection((1.0, 1.0, 6.0, 5.0), pytest.approx(0.6), 1, "dog")
    assert make()[-1].name == "cat"
    with pytest.raises(IndexError):
        make()[3]


def test_selection_keeps_names_and_size():
    found = make()
    for picked in (found[found.labels == 0], found[[0, 2]], found[::2]):
        assert picked.labels.tolist() == [0, 0]
        assert (picked.names, picked.image_size_wh) == (NAMES, (20, 10))


def test_threshold_is_strict():
    assert len(make(scores=(0.75, 0.5, 0.25)).above(0.5)) == 1


def test_nothing_found():
    found = Detections([], [], [], NAMES, (1, 1))
    assert (len(found), list(found), found.boxes_xyxy.shape) == (0, [], (0, 4))
    assert "nothing" in repr(found)
    assert found.to_json() == {"image_size_wh": [1, 1], "detections": []}
    assert len(found.clipped()) == 0


def test_boxes_are_kept_as_they_are_until_clipped():
    found = make(boxes=[[-3, -2, 25, 11], [0, 0, 20, 10], [19, 9, 20, 10]])
    assert found.boxes_xyxy[0].tolist() == [-3, -2, 25, 11]
    assert found.clipped().boxes_xyxy.tolist() == [[0, 0, 20, 10], [0, 0, 20, 10], [19, 9, 20, 10]]


def test_json_is_plain_and_short():
    document = json.loads(json.dumps(make(boxes=[[1.23456, 2, 3, 4]] * 3).to_json()))
    assert document["image_size_wh"] == [20, 10]
    assert document["detections"][0] == {"box_xyxy": [1.235, 2, 3, 4], "score": 0.9, "label": 0, "name": "cat"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": [[0, 0, 1, 1]]}, r"boxes \(n, 4\)"),
        ({"labels": (0, 1)}, r"labels \(n,\)"),
        ({"scores": 0.5, "boxes": [[0, 0, 1, 1]]}, r"scores \(n,\)"),
        ({"labels": (0, 1, 3)}, r"labels must be in 0\.\.2, got 0\.\.3"),
        ({"labels": (0, -1, 2)}, r"got -1\.\.2"),
        ({"scores": (0.9, np.nan, 0.1)}, "finite"),
        ({"boxes": [[0, 0, np.inf, 1]] * 3}, "finite"),
        ({"size": (0, 5)}, "0x5"),
    ],
)
def test_bad_values_are_explained(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
