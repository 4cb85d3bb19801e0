import json

import numpy as np
import pytest

from rtdetr.data import DetectionDataset
from rtdetr.detections import Detections
from rtdetr.errors import DatasetError, InputError
from rtdetr.evaluation import CocoEvaluator, EvaluationReport, detect_dataset, evaluate_dataset
from rtdetr.wording import width_of
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


def test_a_perfect_detector_has_ap_1(dataset):
    oracle = Oracle(dataset)
    report = evaluate_dataset(oracle, dataset, batch_size=4)
    assert oracle.batches == [4, 4, 3]
    assert report.metrics.ap == pytest.approx(1)
    assert report.metrics.ap_large == -1  # the images are too small
    assert report.num_images == 11
    assert {row["category_id"] for row in report.detections} == {3, 7, 90}
    assert len(report.detections) == len(dataset.annotations.labels)


def test_objects_of_an_image_that_cannot_be_read_are_missed(dataset, caplog):
    dataset.path(0).write_bytes(b"")
    with pytest.raises(DatasetError):
        evaluate_dataset(Oracle(dataset), dataset)

    class Blind(Oracle):
        def __call__(self, images):
            found = super().__call__(images)
            gray = [image.getextrema() == ((128, 128),) * 3 for image in images]
            return [one.above(1.0 if is_gray else 0.0) for one, is_gray in zip(found, gray, strict=True)]

    report = evaluate_dataset(Blind(dataset), dataset.skipping_bad_images())
    assert report.num_images == 11 and 0 < report.metrics.ap < 1
    assert "its objects count as missed" in caplog.text


def test_the_table_is_aligned_for_names_in_wide_letters(tmp_path):
    content = many_images(11)
    for row, name in zip(content["categories"], ("自転車", "dog", "ไทย"), strict=True):
        row["name"] = name
    dataset = DetectionDataset(*write_dataset(tmp_path, content))
    lines = evaluate_dataset(Oracle(dataset), dataset).table().splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert len({width_of(line) for line in lines[head : head + 4]}) == 1


def test_a_detector_without_detections_has_ap_0(dataset):
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
    assert lines[13].split() == ["class", "objects", "AP", "AP50", "P", "R", "F1", "threshold", "TP", "FP"]
    objects = np.bincount(dataset.annotations.labels).tolist()
    for line, name, count in zip(lines[14:17], NAMES, objects, strict=True):
        assert line.split() == [name, str(count), *["100.0"] * 5, "0.450", str(count), "0"]
    assert any(line.split() == ["missed", "0", "0.0"] for line in lines)
    assert "0.000 false positives per image without objects" in lines
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


def test_two_processes_give_the_numbers_of_one(dataset):
    whole = evaluate_dataset(Oracle(dataset), dataset)
    states = []
    for rank in range(2):
        indices = [i % len(dataset) for i in range(rank, 12, 2)]  # 11 images padded to 12: the first comes twice
        shown = Oracle(dataset)
        shown.dataset = [dataset.target(i) for i in indices]
        shown.dataset = type("Shown", (), {"target": staticmethod(shown.dataset.__getitem__)})
        states.append(detect_dataset(shown, dataset, indices=indices, batch_size=4).state())
    assert [len(state["images"]) for state in states] == [6, 6]
    for order in (states, states[::-1]):
        report = EvaluationReport.of(CocoEvaluator.merged(dataset, order))
        assert report.detections == whole.detections
        assert report.metrics == whole.metrics
        assert report.classes == whole.classes


def test_processes_join_their_detections_a_few_images_at_a_time(dataset, monkeypatch):
    monkeypatch.setattr("rtdetr.evaluation.coco._IMAGES_SENT", 4)
    whole = detect_dataset(Oracle(dataset), dataset)
    main, other = CocoEvaluator(dataset), CocoEvaluator(dataset)
    columns = whole.columns()
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        own = columns.images == index
        boxes, scores, labels = columns.boxes_xyxy[own], columns.scores[own], columns.labels[own]
        (other if index % 3 else main).add(image_id, boxes_xyxy=boxes, scores=scores, labels=labels)
    sent = []
    assert other.gathered(lambda state: sent.append(state) or []).num_added == 0
    assert [state["images"].tolist() for state in sent] == [[1, 2], [4, 5, 7], [8, 10]]
    later = iter(sent)
    joined = main.gathered(lambda state: [state, next(later)])
    assert joined.num_added == len(dataset)
    assert list(joined.rows()) == list(whole.rows())


def test_states_are_plain_arrays_and_may_be_empty(dataset):
    empty = CocoEvaluator(dataset).state()
    assert {name: len(array) for name, array in empty.items()} == {
        "images": 0, "counts": 0, "boxes_xyxy": 0, "scores": 0, "labels": 0
    }  # fmt: skip
    evaluator = CocoEvaluator(dataset)
    evaluator.add(1, boxes_xyxy=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0, np.int64))
    evaluator.add(3, boxes_xyxy=np.ones((2, 4)), scores=np.array([0.5, 0.25]), labels=np.array([1, 2]))
    state = evaluator.state()
    assert (state["images"].tolist(), state["counts"].tolist()) == ([0, 2], [0, 2])
    merged = CocoEvaluator.merged(dataset, [empty, state])
    assert list(merged.rows()) == list(evaluator.rows())
    with pytest.raises(InputError, match="image 1 was already added"):
        merged.add(1, boxes_xyxy=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0, np.int64))
