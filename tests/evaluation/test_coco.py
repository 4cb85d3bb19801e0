import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rtdetr.categories import Categories, Category
from rtdetr.data import DetectionDataset
from rtdetr.errors import InputError
from rtdetr.evaluation import CocoEvaluator
from tests.coco_files import annotation, document, many_images


def make_dataset(folder, content):
    """A dataset whose image files are empty: evaluation of given detections reads none."""
    (folder / "images").mkdir()
    for image in content["images"]:
        (folder / "images" / image["file_name"]).touch()
    (folder / "data.json").write_text(json.dumps(content))
    return DetectionDataset(folder / "images", folder / "data.json")


def reference(dataset, rows):
    """The twelve numbers and AP by class of pycocotools for COCO result rows."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotations_file))
        evaluation = COCOeval(truth, truth.loadRes(rows) if rows else COCO(), "bbox")
        if not rows:
            evaluation.cocoDt.dataset = {"images": truth.dataset["images"], "annotations": []}
            evaluation.cocoDt.createIndex()
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = {}
    for position, number in enumerate(evaluation.params.catIds):
        values = precision[:, :, position][precision[:, :, position] > -1]
        by_class[truth.cats[number]["name"]] = values.mean() if values.size else -1
    return evaluation.stats, by_class


def crowded_document(seed):
    """30 images of 400x300 with objects of all sizes, crowds, and every fifth image empty."""
    rng = np.random.default_rng(seed)
    content = many_images(0)
    for image_id in range(1, 31):
        content["images"].append({"id": image_id, "file_name": f"{image_id}.jpg", "width": 400, "height": 300})
        for _ in range(0 if image_id % 5 == 0 else rng.integers(1, 12)):
            w, h = np.exp(rng.uniform(np.log(8), np.log(250), 2))
            box = [rng.uniform(0, 400 - w), rng.uniform(0, 300 - h), w, h]
            row = annotation(len(content["annotations"]) + 1, image_id, int(rng.choice([3, 7, 90])), box)
            row["area"] *= rng.uniform(0.4, 1)
            row["iscrowd"] = int(rng.random() < 0.1)
            content["annotations"].append(row)
    return content


def guesses(dataset, index, rng, *, scores, wrong):
    """Shifted copies of the ground truth, some with another label, and `wrong` boxes anywhere."""
    target = dataset.target(index)
    boxes = target["boxes_xyxy"].repeat(2, axis=0)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0, 0.08, boxes.shape) * sides
    labels = np.where(rng.random(len(boxes)) < 0.8, target["labels"].repeat(2), rng.integers(0, 3, len(boxes)))
    corner = rng.uniform(0, 300, (wrong, 2))
    boxes = np.concatenate([boxes, np.concatenate([corner, corner + rng.uniform(2, 90, (wrong, 2))], axis=1)])
    labels = np.concatenate([labels, rng.integers(0, 3, wrong)])
    return boxes.astype(np.float32), rng.choice(scores, len(boxes)).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scores", [np.linspace(0.001, 1, 997), np.array([0.25, 0.5, 0.75])], ids=["all", "ties"])
@pytest.mark.parametrize("wrong", [3, 400])  # an image counts 100 detections a class
def test_numbers_equal_pycocotools(tmp_path, seed, scores, wrong):
    dataset = make_dataset(tmp_path, crowded_document(seed))
    evaluator, rng = CocoEvaluator(dataset), np.random.default_rng(seed)
    for index in rng.permutation(len(dataset)).tolist():
        if index % 7:  # some images get no detections
            boxes, s, labels = guesses(dataset, index, rng, scores=scores, wrong=wrong)
            evaluator.add(int(dataset.image_ids[index]), boxes_xyxy=boxes, scores=s, labels=labels)
    metrics = evaluator.summarize()
    numbers, by_class = reference(dataset, list(evaluator.rows()))
    np.testing.assert_allclose(metrics.numbers, numbers, atol=1e-6, rtol=0)
    assert metrics.per_class.keys() == by_class.keys()
    np.testing.assert_allclose(list(metrics.per_class.values()), list(by_class.values()), atol=1e-6, rtol=0)
    assert 0 < metrics.ap < 0.9
    assert metrics.ap50 == pytest.approx(numbers[1])


@pytest.mark.parametrize("most", [1500, 13_000])  # of 15,000 detections: one class at a time, two shares
def test_classes_may_be_evaluated_a_few_at_a_time(tmp_path, monkeypatch, most):
    dataset, rng = make_dataset(tmp_path, crowded_document(0)), np.random.default_rng(0)
    evaluator = CocoEvaluator(dataset)
    for index in range(len(dataset)):
        boxes, s, labels = guesses(dataset, index, rng, scores=np.linspace(0.001, 1, 997), wrong=500)
        evaluator.add(int(dataset.image_ids[index]), boxes_xyxy=boxes, scores=s, labels=labels)
    at_once = evaluator.summarize()
    monkeypatch.setattr("rtdetr.evaluation.coco._MAX_AT_ONCE", most)
    assert evaluator.summarize() == at_once


@pytest.mark.parametrize("in_memory", [1, 10_000])  # bytes: no detections, those of some images
def test_detections_on_disk_are_those_in_memory(tmp_path, monkeypatch, in_memory):
    dataset, rng = make_dataset(tmp_path, crowded_document(0)), np.random.default_rng(0)
    found = [guesses(dataset, index, rng, scores=np.array([0.25, 0.5]), wrong=20) for index in range(len(dataset))]
    evaluators = []
    for order in (range(len(dataset)), rng.permutation(len(dataset)).tolist()):
        evaluators.append(CocoEvaluator(dataset))
        for index in order:
            boxes, scores, labels = found[index]
            evaluators[-1].add(int(dataset.image_ids[index]), boxes_xyxy=boxes, scores=scores, labels=labels)
        monkeypatch.setattr("rtdetr.evaluation.spool._IN_MEMORY", in_memory)
    memory, disk = evaluators
    assert disk.summarize() == memory.summarize()
    assert list(disk.rows()) == list(memory.rows())
    for ours, theirs in zip(disk.columns(), memory.columns(), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("again", [0, 3])
def test_an_image_may_be_replaced(tmp_path, again):
    dataset, rng = make_dataset(tmp_path, crowded_document(0)), np.random.default_rng(0)
    expected, replaced = CocoEvaluator(dataset), CocoEvaluator(dataset)
    for attempt in range(2):
        for index, image_id in enumerate(dataset.image_ids.tolist()):
            boxes, scores, labels = guesses(dataset, index, rng, scores=np.array([0.25, 0.5]), wrong=again)
            if attempt and not again:
                boxes, scores, labels = boxes[:0], scores[:0], labels[:0]
            replaced.add(image_id, boxes_xyxy=boxes, scores=scores, labels=labels, replace=True)
            if attempt:
                expected.add(image_id, boxes_xyxy=boxes, scores=scores, labels=labels)
    assert replaced.num_added == expected.num_added == 30
    assert replaced.summarize() == expected.summarize()
    assert list(replaced.rows()) == list(expected.rows())


def test_without_detections_everything_is_zero(tmp_path):
    dataset = make_dataset(tmp_path, crowded_document(0))
    metrics = CocoEvaluator(dataset).summarize()
    numbers, by_class = reference(dataset, [])
    assert metrics.numbers == tuple(numbers) == (0,) * 12
    assert metrics.per_class == by_class == {"cat": 0, "dog": 0, "bird": 0}


def test_without_objects_there_are_no_numbers(tmp_path):
    dataset = make_dataset(tmp_path, {**document(), "annotations": []})
    evaluator = CocoEvaluator(dataset)
    evaluator.add(20, boxes_xyxy=np.array([[1, 1, 9, 9.0]]), scores=np.array([0.5]), labels=np.array([0]))
    metrics = evaluator.summarize()
    assert metrics.numbers == (-1,) * 12
    assert metrics.per_class == {"cat": -1, "dog": -1, "bird": -1}


def perfect(dataset):
    evaluator = CocoEvaluator(dataset)
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        target = dataset.target(index)
        kept = ~target["iscrowd"]
        boxes, labels = target["boxes_xyxy"][kept], target["labels"][kept]
        evaluator.add(image_id, boxes_xyxy=boxes, scores=np.ones(len(labels), np.float32), labels=labels)
    return evaluator


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 2, 3], [3, 7, 90], [-4, 100, 2**40]])
def test_any_ids_give_the_same_numbers_and_are_returned(tmp_path, ids):
    content = crowded_document(0)
    new_id = dict(zip([3, 7, 90], ids, strict=True))
    for row in content["categories"]:
        row["id"] = new_id[row["id"]]
    for row in content["annotations"]:
        row["category_id"] = new_id[row["category_id"]]
        row["image_id"] = 2**40 - row["image_id"]
    for row in content["images"]:
        row["id"] = 2**40 - row["id"]
    evaluator = perfect(make_dataset(tmp_path, content))
    assert evaluator.summarize().ap == pytest.approx(1)
    rows = list(evaluator.rows())
    truth = [row for row in content["annotations"] if not row["iscrowd"]]
    key = lambda row: (row["image_id"], row["category_id"], round(row["bbox"][0], 2))  # noqa: E731
    for found, expected in zip(sorted(rows, key=key), sorted(truth, key=key), strict=True):
        assert (found["image_id"], found["category_id"]) == (expected["image_id"], expected["category_id"])
        np.testing.assert_allclose(found["bbox"], expected["bbox"], atol=1e-4)


def test_labels_of_a_model_in_another_order_give_the_files_ids(tmp_path):
    dataset = make_dataset(tmp_path, crowded_document(0))
    model = Categories([Category(0, "bird"), Category(1, "cat"), Category(2, "dog")])
    plain, relabeled = perfect(dataset), perfect(dataset.with_categories(model))
    assert relabeled.summarize().ap == pytest.approx(1)
    assert list(relabeled.rows()) == list(plain.rows())


def test_rows_are_plain_json(tmp_path):
    evaluator = CocoEvaluator(make_dataset(tmp_path, document()))
    evaluator.add(20, boxes_xyxy=np.array([[1, 2, 4, 8.0]]), scores=np.array([0.5]), labels=np.array([2]))
    evaluator.add(10, boxes_xyxy=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0, np.int64))
    assert json.dumps(list(evaluator.rows())) == (
        '[{"image_id": 20, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}]'
    )


def test_wrong_detections_are_refused(tmp_path):
    evaluator = CocoEvaluator(make_dataset(tmp_path, document()))
    box, score = np.array([[1, 2, 4, 8.0]]), np.array([0.5])
    with pytest.raises(InputError, match=r"expected an image id of .*data\.json, got 21"):
        evaluator.add(21, boxes_xyxy=box, scores=score, labels=np.array([0]))
    for label in (-1, 3):
        with pytest.raises(InputError, match=r"expected labels 0\.\.2"):
            evaluator.add(20, boxes_xyxy=box, scores=score, labels=np.array([label]))
    with pytest.raises(
        InputError, match=r"image 20: expected equal numbers of boxes, scores and labels, got 1, 2 and 1"
    ):
        evaluator.add(20, boxes_xyxy=box, scores=np.array([0.5, 0.4]), labels=np.array([0]))
    assert evaluator.num_added == 0
    evaluator.add(20, boxes_xyxy=box, scores=score, labels=np.array([0]))
    with pytest.raises(InputError, match="image 20 was already added"):
        evaluator.add(20, boxes_xyxy=box, scores=score, labels=np.array([0]))
