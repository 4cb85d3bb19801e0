"""Selection in NumPy equals `models/postprocess.py`, and NMS equals that of torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from rtdetr.models import postprocess
from rtdetr.runtimes.selection import Found, best_pairs, first_of_each_box, suppress


def outputs(queries=40, classes=7, scale=3.0):
    rng = np.random.default_rng(queries)
    logits = rng.normal(scale=scale, size=(queries, classes)).astype(np.float32)
    return logits, rng.uniform(size=(queries, 4)).astype(np.float32)


@pytest.mark.parametrize("one_label", [False, True])
@pytest.mark.parametrize("most", [1, 30, 300])
def test_the_same_as_in_torch(one_label, most):
    logits, boxes = outputs()
    options = {"max_detections": most, "one_label": one_label}
    found = best_pairs(logits, boxes, size_wh=np.array([640, 480]), **options)
    labels, corners, scores = postprocess(
        torch.from_numpy(logits)[None], torch.from_numpy(boxes)[None], sizes_wh=torch.tensor([[640, 480]]), **options
    )
    assert np.array_equal(found.labels, labels[0])
    assert np.array_equal(found.boxes_xyxy, corners[0])
    np.testing.assert_allclose(found.scores, scores[0], atol=2e-7)
    assert (found.labels.dtype, found.boxes_xyxy.dtype, found.scores.dtype) == (np.int64, np.float32, np.float32)


@settings(max_examples=60, deadline=None)
@given(lowest=st.floats(0, 1), most=st.integers(1, 300), scale=st.sampled_from([0.1, 3, 30, 200]))
def test_omitting_low_scores_does_not_change_the_others(lowest, most, scale):
    logits, boxes = outputs(scale=scale)
    whole = best_pairs(logits, boxes, size_wh=np.array([9, 9]), max_detections=most)
    some = best_pairs(logits, boxes, size_wh=np.array([9, 9]), max_detections=most, lowest=lowest)
    high = np.float32(lowest)
    expected = whole.take(whole.scores > high)
    assert all(map(np.array_equal, some.take(some.scores > high), expected))


def test_suppression_is_that_of_torchvision():
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 60, size=(200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 40, size=(200, 2))], axis=1).astype(np.float32)
    found = Found(rng.integers(0, 3, 200), boxes, np.sort(rng.uniform(size=200).astype(np.float32))[::-1].copy())
    kept = suppress(found, iou=0.2)
    assert 10 < len(kept.scores) < 150
    for label in range(3):
        one = found.take(found.labels == label)
        index = nms(torch.from_numpy(one.boxes_xyxy), torch.from_numpy(one.scores), 0.2).numpy()
        assert np.array_equal(kept.take(kept.labels == label).boxes_xyxy, one.boxes_xyxy[np.sort(index)])


def test_suppression_of_nothing_and_of_boxes_without_area():
    none = Found(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert len(suppress(none, iou=0.5).scores) == 0
    points = Found(np.zeros(2, np.int64), np.full((2, 4), 5, np.float32), np.array([0.9, 0.8], np.float32))
    assert len(suppress(points, iou=0.0).scores) == 2


def test_the_best_class_of_each_box_is_kept():
    boxes = np.array([[0, 0, 1, 1], [2, 2, 3, 3], [0, 0, 1, 1]], np.float32)
    kept = first_of_each_box(Found(np.array([5, 6, 7]), boxes, np.array([0.9, 0.8, 0.7], np.float32)))
    assert kept.labels.tolist() == [5, 6]
