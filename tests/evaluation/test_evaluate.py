import json

import numpy as np
import pytest

from rtdetr.data import DetectionDataset
from rtdetr.detections import Detections
from rtdetr.errors import DatasetError, InputError
from rtdetr.evaluation import evaluate_dataset
from tests.coco_files import many_images, write_dataset

NAMES = ("cat", "dog", "bird")


@pytest.fixture
def dataset(tmp_path):
    return DetectionDataset(*write_dataset(tmp_path, many_images(11)))


class Oracle:
    """Finds exactly the annotated objects, if it is shown the images in order; remembers the batches."""

    def __init__(self, dataset):
        self.dataset, self.batches, self.position = dataset, [], 0

    def __call__(self, images):
        self.batches.append(len(images))
        found = []
        for image in images:
            target = self.dataset.target(self.position)
            assert image.size == target["size_wh"]
            assert image.mode == "RGB"
            scores = np.full(len(target["labels"]), 0.9)
            found.append(Detections(target["boxes_xyxy"], scores, target["labels"], NAMES, image.size))
            self.position += 1
        return found


def test_a_perfect_detector_reaches_one(dataset):
    oracle = Oracle(dataset)
    report = evaluate_dataset(oracle, dataset, batch_size=4)
    assert oracle.batches == [4, 4, 3]
    assert report.metrics.ap == pytest.approx(1)
    assert report.metrics.ap_large == -1  # the images are too small
    assert report.num_images == 11
    assert {row["category_id"] for row in report.detections} == {3, 7, 90}
    assert len(report.detections) == len(dataset.annotations.labels)


def test_a_blind_detector_reaches_zero(dataset):
    def blind(images):
        empty = np.empty(0, np.int64)
        return [Detections(np.empty((0, 4)), np.empty(0), empty, NAMES, image.size) for image in images]

    report = evaluate_dataset(blind, dataset)
    assert report.metrics.ap == 0
    assert report.detections == []


def test_the_table_has_every_number_and_class(dataset):
    table = evaluate_dataset(Oracle(dataset), dataset).table()
    lines = table.splitlines()
    assert lines[0].split() == ["AP", "100.0", "IoU", "0.50:0.95"]
    assert lines[5].split()[:3] == ["AP", "large", "-"]
    assert lines[13:15] == ["AP by class", "cat  100.0   dog  100.0   bird 100.0"]
    assert lines[-1].startswith("11 images in ")


def test_nothing_is_printed_outside_a_terminal(dataset, capfd):
    evaluate_dataset(Oracle(dataset), dataset)
    assert capfd.readouterr() == ("", "")


def test_a_broken_image_is_named(dataset):
    dataset.path(9).write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"image 10: .*10\.png is not an image"):
        evaluate_dataset(Oracle(dataset), dataset, batch_size=2)


def test_detections_are_saved_as_coco_results(dataset, tmp_path):
    report = evaluate_dataset(Oracle(dataset), dataset)
    file = report.save_detections(tmp_path / "found.json")
    assert json.loads(file.read_text()) == report.detections
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(InputError, match="cannot write"):
        report.save_detections(file / "found.json")
