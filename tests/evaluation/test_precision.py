"""Average precision equals COCO's, weights equal repeated images, and bootstrap intervals are plausible."""

import json

import numpy as np
import pytest

from rtdetr.data import DetectionDataset
from rtdetr.evaluation import CocoEvaluator
from tests.evaluation.scenes import SQUARE, random_scene, scene_report


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowd", [0, 0.2])
def test_average_precision_is_that_of_the_metrics(tmp_path, seed, crowd):
    report = random_scene(tmp_path, seed=seed, crowd=crowd)
    average = report.precision.average()
    metrics = report.metrics
    np.testing.assert_allclose(average.mean(1), list(metrics.per_class.values()), atol=1e-12)
    ap, ap50, ap75 = np.nanmean(average), np.nanmean(average[:, 0]), np.nanmean(average[:, 5])
    np.testing.assert_allclose([ap, ap50, ap75], metrics.numbers[:3], atol=1e-12)
    assert 0.05 < ap < 0.9


def test_a_class_without_objects_has_no_average(tmp_path):
    report = scene_report(tmp_path, [[("cat", SQUARE)]], [[("dog", SQUARE, 0.9)]])
    average = report.precision.average()
    assert average[0].tolist() == [0] * 10
    assert np.isnan(average[1:]).all()


def repeated(report, weights, folder):
    """COCO metrics of a dataset in which image i stands weights[i] times."""
    dataset = report.evaluator.dataset
    old = json.loads(dataset.annotations_file.read_text())
    content = {**old, "images": [], "annotations": []}
    folder.mkdir()
    copies = []
    for image, weight in zip(old["images"], weights.tolist(), strict=True):
        for _ in range(weight):
            image_id = len(content["images"]) + 1
            copies.append((image_id, image["id"]))
            content["images"].append({**image, "id": image_id})
            (folder / image["file_name"]).touch()
            for row in old["annotations"]:
                if row["image_id"] == image["id"]:
                    content["annotations"].append({**row, "id": len(content["annotations"]) + 1, "image_id": image_id})
    (folder / "data.json").write_text(json.dumps(content))
    evaluator = CocoEvaluator(DetectionDataset(folder, folder / "data.json"))
    columns = report.evaluator.columns()
    for image_id, old_id in copies:
        own = columns.images == np.searchsorted(dataset.image_ids, old_id)
        boxes, scores, labels = columns.boxes_xyxy[own], columns.scores[own], columns.labels[own]
        evaluator.add(image_id, boxes_xyxy=boxes, scores=scores, labels=labels)
    return evaluator.summarize()


@pytest.mark.parametrize("crowd", [0, 0.2])
def test_a_weight_counts_like_a_repeated_image(tmp_path, crowd):
    report = random_scene(tmp_path / "once", seed=1, crowd=crowd)
    weights = np.random.default_rng(0).integers(0, 4, 40)
    average = report.precision.average(weights)
    metrics = repeated(report, weights, tmp_path / "often")
    np.testing.assert_allclose(average.mean(1), list(metrics.per_class.values()), atol=1e-12)
    assert abs(metrics.ap - report.metrics.ap) > 1e-3


def test_intervals_contain_the_number_and_depend_on_the_seed(tmp_path):
    report = random_scene(tmp_path, seed=0)
    intervals = report.intervals(num_resamples=200, seed=3)
    assert intervals == report.intervals(num_resamples=200, seed=3)
    assert intervals != report.intervals(num_resamples=200, seed=4)
    assert 0 <= intervals["ap"].low < report.metrics.ap < intervals["ap"].high <= 1
    assert 0 <= intervals["ap50"].low < report.metrics.ap50 < intervals["ap50"].high <= 1


def test_intervals_shrink_with_the_number_of_images(tmp_path):
    few, many = (
        random_scene(tmp_path / str(count), seed=0, num_images=count).intervals(num_resamples=100)
        for count in (20, 320)
    )
    assert 2 < (few["ap"].high - few["ap"].low) / (many["ap"].high - many["ap"].low) < 8  # about the root of 16


def test_intervals_without_variation_are_the_number_itself(tmp_path):
    report = scene_report(tmp_path, [[("cat", SQUARE)]] * 3, [[("cat", SQUARE, 0.9)]] * 3)
    assert report.intervals(num_resamples=20) == {"ap": (1, 1), "ap50": (1, 1)}


def test_without_objects_there_are_no_intervals(tmp_path):
    assert scene_report(tmp_path, [[]], [[("cat", SQUARE, 0.9)]]).intervals(num_resamples=5) == {}
