"""One dataset in three formats gives the same targets and accuracy."""

import numpy as np
import pytest

from rtdetr.data import open_dataset
from rtdetr.errors import DatasetError
from rtdetr.evaluation.coco import CocoEvaluator
from tests.coco_files import many_images
from tests.data.formats import FORMATS, write_format


def content():
    """Images of many sizes, with a crowded one, an empty one, a box over the border and one of a pixel."""
    document = many_images(12, seed=3)
    document["annotations"] = [row for row in document["annotations"] if row["image_id"] != 4]
    boxes = [
        [-3.25, 2, 20, 30.5],
        [5, 6, 1, 1],
        [0, 0, document["images"][0]["width"], document["images"][0]["height"]],
    ]
    for number, bbox in enumerate(boxes, 10_000):
        area = bbox[2] * bbox[3]
        document["annotations"].append({"id": number, "image_id": 1, "category_id": 90, "bbox": bbox, "area": area})
    return document


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    return {kind: write_format(root / kind, kind, content()) for kind in FORMATS}


def test_targets_are_identical(folders):
    coco, *others = (open_dataset(folders[kind], split="val") for kind in FORMATS)
    assert len(coco) == 12
    for other in others:
        assert other.categories.names == coco.categories.names
        assert other.image_ids.tolist() == coco.image_ids.tolist()
        for index in range(len(coco)):
            expected, target = coco.target(index), other.target(index)
            for name in ("boxes_xyxy", "labels", "iscrowd"):
                np.testing.assert_array_equal(target[name], expected[name])
                assert target[name].dtype == expected[name].dtype
            np.testing.assert_allclose(target["area"], expected["area"], rtol=1e-12)
            assert (target["size_wh"], target["image_id"]) == (expected["size_wh"], expected["image_id"])
            assert other.load(index)[0].tobytes() == coco.load(index)[0].tobytes()


def test_accuracy_is_identical(folders):
    numbers = []
    for kind in FORMATS:
        dataset = open_dataset(folders[kind], split="val")
        evaluator = CocoEvaluator(dataset)
        rng = np.random.default_rng(0)
        for index in range(len(dataset)):  # detections that are right, shifted or of another class, by chance
            target = dataset.target(index)
            boxes = target["boxes_xyxy"] + rng.normal(0, 2, target["boxes_xyxy"].shape)
            labels = np.where(rng.random(len(boxes)) < 0.8, target["labels"], rng.integers(0, 3, len(boxes)))
            evaluator.add(target["image_id"], boxes_xyxy=boxes, scores=rng.random(len(boxes)), labels=labels)
        numbers.append(evaluator.summarize().numbers)
    assert 0.1 < numbers[0][0] < 0.9
    assert numbers[0] == numbers[1] == numbers[2]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_split_says_what_was_looked_for(folders, kind):
    with pytest.raises(DatasetError) as caught:
        open_dataset(folders[kind], split="test")
    assert "'test'" in str(caught.value) or "test.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        DatasetError, match=r"COCO.*'names' \(YOLO\).*ImageSets/Main/val\.txt.*\(Pascal VOC\)"
    ) as caught:
        open_dataset(tmp_path, split="val")
    assert "\n" not in str(caught.value)


def test_formats_can_be_mixed(folders):
    mixed = open_dataset([folders[kind] for kind in FORMATS], split="val")
    single = open_dataset(folders["coco"], split="val")
    assert len(mixed) == 36
    assert mixed.categories == single.categories
    assert mixed.image_ids.tolist() == list(range(1, 37))
    for index in range(36):
        np.testing.assert_array_equal(mixed.target(index)["labels"], single.target(index % 12)["labels"])
        assert mixed.load(index)[0].size == single.load(index % 12)[0].size
