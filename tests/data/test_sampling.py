import numpy as np

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset
from rtdetr.data.sampling import epoch_length, epoch_order, repeat_factors
from tests.coco_files import annotation, many_images, write_dataset


def factors_of(tmp_path, rows, *, count=40):
    content = many_images(count)
    content["annotations"] = [
        annotation(i, image, category, [2, 2, 9, 9], **more) for i, (image, category, more) in enumerate(rows)
    ]
    return repeat_factors(DetectionDataset(*write_dataset(tmp_path, content)).annotations)


def test_an_image_is_repeated_by_the_factor_of_its_rarest_class(tmp_path):
    # shares: cat 20 of 40 images, dog 10, bird 2; the median is the dog's
    rows = [(i, 3, {}) for i in range(1, 21)] + [(i, 7, {}) for i in range(11, 21)] + [(i, 90, {}) for i in (1, 30)]
    factors = factors_of(tmp_path, [*rows, (1, 90, {}), (40, 90, {"iscrowd": 1})])
    expected = np.ones(40)
    expected[[0, 29]] = np.sqrt(0.25 / 0.05)
    np.testing.assert_allclose(factors, expected)


def test_equally_frequent_classes_and_no_objects_change_nothing(tmp_path):
    assert factors_of(tmp_path / "a", [(i, (3, 7, 90)[i % 3], {}) for i in range(1, 31)]).tolist() == [1] * 40
    assert factors_of(tmp_path / "b", []).tolist() == [1] * 40


def test_every_epoch_has_the_same_length_and_shows_every_image():
    factors = np.array([1.0] * 30 + [2.5] * 4 + [1.3])
    shown = np.zeros(35)
    for seed in range(200):
        order = epoch_order(np.random.default_rng(seed), factors, num_images=35)
        assert len(order) == epoch_length(factors, num_images=35) == 41
        counts = np.bincount(order, minlength=35)
        assert (counts <= np.ceil(factors)).all()
        shown += counts
    np.testing.assert_allclose(shown / 200, factors, atol=0.12)


def test_without_factors_an_epoch_is_a_permutation():
    order = epoch_order(np.random.default_rng(0), None, num_images=20)
    assert sorted(order.tolist()) == list(range(20)) != order.tolist()
    assert epoch_length(None, num_images=20) == 20


def test_whole_factors_are_met_exactly():
    order = epoch_order(np.random.default_rng(3), np.array([1.0, 3.0, 2.0]), num_images=3)
    assert np.bincount(order).tolist() == [1, 3, 2]


def test_unused_classes_do_not_count_in_the_median(tmp_path):
    content = many_images(10)
    content["annotations"] = [annotation(i, i, 3, [2, 2, 9, 9]) for i in range(1, 9)]
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    assert repeat_factors(dataset.annotations).tolist() == [1] * 10
    wider = Categories([*dataset.categories, Category(100, "fish")])
    assert repeat_factors(dataset.annotations._replace(categories=wider)).tolist() == [1] * 10
