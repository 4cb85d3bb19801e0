"""The choice of the worst images, and the drawing of their errors."""

import numpy as np
import pytest
from PIL import Image

from rtdetr.categories import Categories
from rtdetr.errors import DatasetError, InputError
from rtdetr.evaluation import draw_comparison, save_worst_images, worst_images
from rtdetr.evaluation.worst_images import IGNORED, MISSED, RIGHT, WRONG
from tests.evaluation.scenes import APART, SQUARE, scene_report

LOW = (100, 350, 100, 100)


@pytest.fixture
def report(tmp_path):
    images = [[("cat", SQUARE)], [("cat", SQUARE), ("cat", APART)], [], [("dog", SQUARE)], [("cat", LOW, "crowd")]]
    found = [
        [("cat", SQUARE, 0.9)],
        [("cat", SQUARE, 0.8), ("cat", APART, 0.1)],
        [("cat", SQUARE, 0.3), ("cat", APART, 0.25), ("dog", LOW, 0.7)],
        [],
        [("cat", LOW, 0.95)],
    ]
    report = scene_report(tmp_path, images, found)
    for index in range(len(images)):
        Image.new("RGB", (640, 480), "white").save(report.evaluator.dataset.path(index))
    return report


def test_badness_adds_false_positives_and_misses(report):
    # thresholds: cats 0.55, dogs 0.5
    worst = worst_images(report, report.evaluator.dataset, 10)
    assert [image_id for image_id, _ in worst] == [4, 2, 3]
    assert [score for _, score in worst] == pytest.approx([1.0, 0.9, 0.7])
    assert worst_images(report, report.evaluator.dataset, 1) == worst[:1]


def has(picture, color):
    return bool((np.asarray(picture) == color).all(-1).any())


@pytest.mark.parametrize(
    ("image_id", "left", "right"),
    [(1, {RIGHT}, {RIGHT}), (2, {RIGHT, MISSED}, {RIGHT}), (3, set(), {WRONG}), (4, {MISSED}, set())],
)
def test_colors_tell_right_from_wrong(report, image_id, left, right):
    picture = draw_comparison(report, report.evaluator.dataset, image_id)
    assert picture.size == (2 * 640 + 8, 480)
    for half, expected in ((picture.crop((0, 0, 640, 480)), left), (picture.crop((648, 0, 1288, 480)), right)):
        assert {color for color in (RIGHT, WRONG, MISSED, IGNORED) if has(half, color)} == expected


def test_crowds_are_gray(report):
    picture = draw_comparison(report, report.evaluator.dataset, 5)
    assert has(picture.crop((0, 0, 640, 480)), IGNORED)
    assert has(picture.crop((648, 0, 1288, 480)), IGNORED)
    assert not has(picture, WRONG)


def test_the_datasets_own_order_of_classes_changes_nothing(report):
    dataset = report.evaluator.dataset
    shuffled = dataset.with_categories(Categories(dataset.categories[label] for label in (2, 0, 1)))
    for image_id in (2, 3):
        one, other = (np.asarray(draw_comparison(report, data, image_id)) for data in (dataset, shuffled))
        np.testing.assert_array_equal(one, other)


def test_images_are_named_by_rank(report, tmp_path):
    paths = save_worst_images(report, report.evaluator.dataset, tmp_path / "worst", n=2)
    assert [path.name for path in paths] == ["01_4.jpg", "02_2.jpg"]
    with Image.open(paths[0]) as picture:
        assert picture.size == (1288, 480)


def test_mistakes(report):
    dataset = report.evaluator.dataset
    with pytest.raises(InputError, match="expected an image id of the dataset, got 77"):
        draw_comparison(report, dataset, 77)
    dataset.path(0).write_bytes(b"no image")
    with pytest.raises(DatasetError, match="image 1"):
        draw_comparison(report, dataset, 1)
