import numpy as np
import pytest
import torch

import rtdetr
from rtdetr.categories import Categories
from rtdetr.data import DetectionDataset
from rtdetr.errors import ConfigError, DatasetError
from rtdetr.runtimes import Streams
from rtdetr.runtimes.torch_detector import TorchDetector
from tests.coco_files import many_images, write_dataset


@pytest.fixture
def dataset(tmp_path):
    return DetectionDataset(*write_dataset(tmp_path, many_images(6)))


def tiny(num_classes=3):
    torch.manual_seed(0)
    return rtdetr.build_model("test-tiny", num_classes=num_classes)


def boxes_of(report):
    return np.array([row["bbox"] for row in report.detections])


def test_a_network_is_evaluated_on_a_dataset_file(dataset):
    model = tiny().train()
    report = rtdetr.evaluate(model, dataset.annotations_file, batch_size=4, precision="float32")
    assert report.num_images == 6
    assert len(report.detections) == 6 * 3 * 30  # every query with every class, up to 300
    assert {row["category_id"] for row in report.detections} <= {3, 7, 90}
    assert {row["image_id"] for row in report.detections} == set(range(1, 7))
    assert model.training  # left as it was


def test_the_batch_size_changes_nothing_and_the_size_does(dataset):
    model = tiny()
    one = boxes_of(rtdetr.evaluate(model, dataset, batch_size=1, precision="float32"))
    six = boxes_of(rtdetr.evaluate(model, dataset, batch_size=6, precision="float32"))
    wide = boxes_of(rtdetr.evaluate(model, dataset, size_hw=(64, 128), precision="float32"))
    np.testing.assert_allclose(np.sort(one, axis=0), np.sort(six, axis=0), atol=1e-2)  # equal scores in any order
    assert np.abs(one - wide).max() > 1


def test_streams_get_enough_images_and_change_nothing(dataset, tmp_path, monkeypatch):
    file, counts = tmp_path / "tiny.pth", []
    rtdetr.weights.save_weights(tiny(), file, categories=dataset.categories)
    call = TorchDetector.__call__
    monkeypatch.setattr(
        TorchDetector,
        "__call__",
        lambda self, images, **given: counts.append(len(images)) or call(self, images, **given),
    )
    found = []
    for num_streams in (1, 2):
        streams = Streams(num_streams=num_streams, num_threads=1, batch_size=1)
        detector = rtdetr.load(file, device="cpu", precision="float32", tuned=streams)
        found.append(rtdetr.evaluate(detector, dataset, batch_size=2).detections)
    assert counts == [2, 2, 2, 4, 2]
    assert found[0] == found[1]


def test_a_detector_is_matched_by_class_names(dataset):
    order = [2, 0, 1]
    shuffled = Categories(dataset.categories[label] for label in order)
    plain = rtdetr.evaluate(TorchDetector(tiny(), dataset.categories, precision="float32"), dataset)
    other = rtdetr.evaluate(TorchDetector(tiny(), shuffled, precision="float32"), dataset)
    ids = dataset.categories.ids
    renamed = [ids[order[ids.index(row["category_id"])]] for row in plain.detections]
    assert renamed == [row["category_id"] for row in other.detections]


def test_other_classes_are_an_error(dataset):
    with pytest.raises(DatasetError, match="expected the 80 classes of the model, got 3"):
        rtdetr.evaluate(tiny(80), dataset)


def test_load_options_are_refused_for_a_loaded_detector(dataset):
    detector = TorchDetector(tiny(), dataset.categories)
    with pytest.raises(ConfigError, match="of a loaded detector cannot be changed"):
        rtdetr.evaluate(detector, dataset, device="cpu")


def test_the_dataset_is_checked_before_the_model_is_loaded(tmp_path):
    with pytest.raises(DatasetError, match="no dataset"):
        rtdetr.evaluate("rtdetrv2_r18vd", tmp_path / "none")
