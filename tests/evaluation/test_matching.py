"""The matching equals that of pycocotools and of a simple loop."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtdetr.evaluation import matching, overlaps
from rtdetr.evaluation.matching import IOU_THRESHOLDS
from rtdetr.evaluation.overlaps import Pairs, assign
from tests.evaluation.scenes import SQUARE, random_scene, scene_report, shifted


def reference_counts(report):
    """True positives and ignored detections of each IoU threshold by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(report.evaluator.dataset.annotations_file))
        evaluation = COCOeval(truth, truth.loadRes(report.detections), "bbox")
        evaluation.evaluate()
    images = [image for image in evaluation.evalImgs if image and image["aRng"][1] == 1e10 and image["aRng"][0] == 0]
    ignored = np.concatenate([image["dtIgnore"].astype(bool) for image in images], axis=1)
    matched = np.concatenate([image["dtMatches"] > 0 for image in images], axis=1)
    return (matched & ~ignored).sum(1), ignored.sum(1), matched.shape[1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowd", [0, 0.2])
def test_the_same_detections_are_right_as_in_pycocotools(tmp_path, seed, crowd):
    report = random_scene(tmp_path, seed=seed, crowd=crowd)
    right, ignored, count = reference_counts(report)
    matches = report.matches
    assert len(matches.scores) == count
    levels = range(len(IOU_THRESHOLDS))
    np.testing.assert_array_equal([matches.is_true(level).sum() for level in levels], right)
    np.testing.assert_array_equal([matches.is_ignored(level).sum() for level in levels], ignored)
    assert right[0] > right[-1] > 0
    assert bool(ignored.any()) == bool(crowd)


def test_memory_is_bounded_without_changing_anything(tmp_path, monkeypatch):
    whole = random_scene(tmp_path / "a", seed=0).matches
    monkeypatch.setattr(overlaps, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(matching, "_MAX_AT_ONCE", 50)  # detections of one or two images
    parts = random_scene(tmp_path / "b", seed=0).matches
    for name in ("detections", "objects", "iou"):
        np.testing.assert_array_equal(getattr(parts.pairs, name), getattr(whole.pairs, name))
    for name in ("images", "labels", "scores", "found", "kinds", "targets", "true_bits", "ignored_bits"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def one_after_the_other(pairs, num_detections, num_objects):
    result, taken = np.full(num_detections, -1), set()
    for detection in range(num_detections):
        own = [(iou, o) for d, o, iou in zip(pairs.detections, pairs.objects, pairs.iou, strict=True) if d == detection]
        free = [(iou, o) for iou, o in own if o not in taken]
        if free:
            result[detection] = max(free)[1]
            taken.add(max(free)[1])
    return result


@pytest.mark.parametrize("seed", range(5))
def test_rounds_equal_a_loop(seed):
    rng = np.random.default_rng(seed)
    detections, objects = np.divmod(rng.permutation(30 * 12)[:150], 12)
    pairs = Pairs(detections, objects, rng.choice([0.5, 0.6, 0.7], 150)).best_first()
    result = assign(pairs, num_detections=30, num_objects=12)
    np.testing.assert_array_equal(result, one_after_the_other(pairs, 30, 12))


def test_at_most_100_detections_per_image_and_class_count(tmp_path):
    weak = [("cat", (500, 400, 9, 9), 0.9)] * 100 + [("cat", SQUARE, 0.1), ("dog", SQUARE, 0.1)]
    report = scene_report(tmp_path, [[("cat", SQUARE)], []], [weak, [("cat", SQUARE, 0.05)]])
    assert np.bincount(report.matches.labels).tolist() == [101, 1]
    assert not report.matches.is_true().any()


def test_a_crowd_is_neither_right_nor_wrong(tmp_path):
    found = [("cat", (10, 10, 20, 20), 0.9), ("cat", SQUARE, 0.8), ("dog", SQUARE, 0.7)]
    report = scene_report(tmp_path, [[("cat", SQUARE, "crowd"), ("dog", shifted(SQUARE, 300))]], [found])
    assert report.matches.num_objects.tolist() == [0, 1, 0]
    assert report.matches.is_ignored().tolist() == [True, True, False]


def test_without_images_detections_or_objects_there_is_nothing(tmp_path):
    report = scene_report(tmp_path, [[], []], [[], []])
    assert len(report.matches.scores) == len(report.matches.pairs) == 0
    assert report.confusion.sum() == 0
    assert report.best_f1_thresholds == [0.5] * 3
