"""Precision, recall, F1, thresholds and confusion matrix of scenes that can be checked by hand."""

import json

import numpy as np
import pytest

from tests.evaluation.scenes import APART, SQUARE, random_scene, scene_report, shifted

FAR = (0, 300, 100, 100)


@pytest.fixture
def report(tmp_path):
    """Three cats and two dogs, nothing in the last two images."""
    images = [[("cat", SQUARE), ("cat", APART)], [("dog", SQUARE), ("dog", APART), ("cat", FAR)], [], []]
    found = [
        [("cat", SQUARE, 0.9), ("cat", shifted(APART, 25), 0.7), ("cat", shifted(SQUARE, 50), 0.6)],
        [("cat", SQUARE, 0.8), ("dog", APART, 0.5), ("cat", FAR, 0.2)],
        [("cat", SQUARE, 0.4), ("dog", SQUARE, 0.3)],
        [("dog", SQUARE, 0.45)],
    ]
    return scene_report(tmp_path, images, found)


def test_classes_at_their_best_threshold(report):
    cat, dog, bird = report.classes
    # cats by score: right 0.9, wrong 0.8, right 0.7, wrong 0.6, wrong 0.4, right 0.2; F1 is best after two: 2*2/(3+3)
    assert cat.threshold == pytest.approx(0.65)
    assert (cat.objects, cat.true_positives, cat.false_positives) == (3, 2, 1)
    assert (cat.precision, cat.recall, cat.f1) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    # dogs: right 0.5, wrong 0.45, wrong 0.3; one of two found
    assert dog.threshold == pytest.approx(0.475)
    assert (dog.precision, dog.recall, dog.f1) == pytest.approx((1, 0.5, 2 / 3))
    assert dog.ap50 == pytest.approx(51 / 101)  # precision 1 up to a recall of 0.5
    assert (bird.objects, bird.ap, bird.precision, bird.recall, bird.f1) == (0, None, None, None, None)
    assert report.best_f1_thresholds == [cat.threshold, dog.threshold, 0.5]


def test_curves_over_the_score(report):
    curves = report.curves
    at = {score: int(np.searchsorted(curves.scores, score)) for score in (0.0, 0.65, 0.901)}
    assert curves.precision[0][at[0.0]] == pytest.approx(3 / 6)
    assert curves.recall[0][at[0.0]] == 1
    assert curves.f1[0][at[0.65]] == pytest.approx(2 / 3)
    assert np.isnan(curves.precision[0][at[0.901]])  # nothing is that sure
    assert (curves.recall[0][at[0.901]], curves.f1[0][at[0.901]]) == (0, 0)
    assert np.isnan(curves.precision[2]).all() and np.isnan(curves.recall[2]).all() and np.isnan(curves.f1[2]).all()


def test_a_score_on_the_threshold_does_not_count(tmp_path):
    curves = scene_report(tmp_path, [[("cat", SQUARE)]], [[("cat", SQUARE, 0.5)]]).curves
    assert curves.scores[500] == 0.5
    assert curves.recall[0][[499, 500]].tolist() == [1, 0]


def test_confusion(report):
    # above 0.65 and 0.475: two cats found, a dog taken for a cat, a dog found, a cat missed
    assert report.confusion.tolist() == [
        [2, 0, 0, 1],
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


def test_confusion_of_background_and_duplicate_detections(tmp_path):
    images = [[("cat", SQUARE), ("dog", shifted(SQUARE, 20))], [("bird", SQUARE)]]
    found = [
        [("cat", SQUARE, 0.9), ("cat", SQUARE, 0.95), ("cat", APART, 0.99), ("bird", shifted(SQUARE, 20), 0.8)],
        [("bird", SQUARE, 0.7)],
    ]
    report = scene_report(tmp_path, images, found)
    # the better cat is right; the other one lies best on the dog that is left (IoU 2/3) and comes before the bird
    assert report.best_f1_thresholds == pytest.approx([0.925, 0.5, 0.35])
    dog = report.classes[1]
    assert (dog.objects, dog.f1, dog.threshold) == (1, 0.0, None)  # no threshold is the best one
    assert next(line for line in report.table().splitlines() if line.startswith("dog")).split()[-3:] == ["-", "0", "0"]
    assert report.confusion.tolist() == [
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 0],
    ]


def test_false_positives_in_empty_images(report, tmp_path):
    assert report.false_positives_per_empty_image == 0
    images = [[("cat", SQUARE), ("dog", APART)], [], []]
    found = [[("cat", SQUARE, 0.5)], [("cat", SQUARE, 0.4), ("cat", APART, 0.9), ("dog", APART, 0.6)], []]
    other = scene_report(tmp_path / "other", images, found)
    # cats: wrong 0.9, right 0.5, wrong 0.4: threshold 0.45; dogs are never right, so 0.5: one of each in two images
    assert other.best_f1_thresholds == pytest.approx([0.45, 0.5, 0.5])
    assert other.false_positives_per_empty_image == 1
    full = scene_report(tmp_path / "full", [[("cat", SQUARE)]], [[]])
    assert full.false_positives_per_empty_image is None


def test_equal_scores_stay_together(tmp_path):
    images = [[("cat", SQUARE)], []]
    report = scene_report(tmp_path, images, [[("cat", SQUARE, 0.5)], [("cat", SQUARE, 0.5), ("cat", APART, 0.25)]])
    assert report.best_f1_thresholds[0] == pytest.approx(0.375)
    assert (report.classes[0].true_positives, report.classes[0].false_positives) == (1, 1)


def test_nearly_equal_scores_are_distinguished(tmp_path):
    high = np.float32(0.5)
    low = np.nextafter(high, np.float32(0))
    report = scene_report(tmp_path, [[("cat", SQUARE)], []], [[("cat", SQUARE, high)], [("cat", SQUARE, low)]])
    assert (report.classes[0].true_positives, report.classes[0].false_positives) == (1, 0)


def test_crowds_do_not_count(tmp_path):
    images = [[("cat", SQUARE, "crowd"), ("cat", APART)]]
    report = scene_report(tmp_path, images, [[("cat", SQUARE, 0.9), ("cat", APART, 0.8)]])
    assert (report.classes[0].objects, report.classes[0].precision, report.classes[0].recall) == (1, 1, 1)
    assert report.confusion.sum() == 1
    assert report.false_positives_per_empty_image is None  # an image with a crowd is not empty


@pytest.mark.parametrize("seed", range(3))
def test_everything_adds_up(tmp_path, seed):
    report = random_scene(tmp_path, seed=seed, crowd=0.1)
    confusion, matches = report.confusion, report.matches
    np.testing.assert_array_equal(confusion[:-1].sum(1), matches.num_objects)
    for label, row in enumerate(report.classes):
        assert confusion[label, label] == row.true_positives
        assert confusion[:, label].sum() == row.true_positives + row.false_positives
        best = np.nanmax(report.curves.f1[label])
        assert best <= row.f1 + 1e-12
        assert best == pytest.approx(row.f1, abs=0.02)
    assert confusion[-1, -1] == 0


def test_the_report_is_plain_json(report):
    document = json.loads(json.dumps(report.to_json(intervals=report.intervals(num_resamples=5))))
    assert document["metrics"]["ap"] == pytest.approx(report.metrics.ap)
    assert document["metrics"]["ap_small"] is None
    assert document["classes"][2]["ap"] is None
    assert document["confusion"]["names"] == ["cat", "dog", "bird", "background"]
    assert document["errors"]["class"]["count"] == 1
    assert len(document["confidence_95"]["ap"]) == 2
