import numpy as np
import pytest

from rtdetr.categories import Categories, Category
from rtdetr.data import open_dataset
from rtdetr.errors import ConfigError, DatasetError
from rtdetr.evaluation import CocoEvaluator
from tests.coco_files import annotation, document, write_dataset


def source(folder, *, categories=None, shift=0):
    """The usual three images, with other class ids or image ids; returns the annotation file."""
    content = document()
    if categories is not None:
        new_id = dict(zip([3, 7, 90], [number for number, _ in categories], strict=True))
        content["categories"] = [{"id": number, "name": name} for number, name in categories]
        for row in content["annotations"]:
            row["category_id"] = new_id[row["category_id"]]
    for row in content["images"]:
        row["id"] += shift
    for row in content["annotations"]:
        row["image_id"] += shift
    return write_dataset(folder, content)[1]


def test_classes_of_the_same_name_get_one_label(tmp_path):
    first = source(tmp_path / "a")  # 3 cat, 7 dog, 90 bird
    second = source(tmp_path / "b", categories=[(1, "dog"), (7, "cow"), (8, "cat")])
    merged = open_dataset([first, second], split="train")
    assert merged.categories.names == ["cat", "dog", "bird", "cow"]
    assert merged.categories.ids == [3, 7, 90, 91]  # 7 is taken
    assert merged.target(1)["labels"].tolist() == [0, 1, 0]
    assert merged.target(4)["labels"].tolist() == [1, 3, 1]
    assert [part.categories.ids for part in merged.sources] == [[3, 7, 90], [1, 7, 8]]
    assert repr(merged).endswith("6 images, 8 boxes, 4 classes)")


def test_image_ids_are_kept_or_shifted_by_a_constant(tmp_path):
    first, same = source(tmp_path / "a"), source(tmp_path / "b")
    larger = source(tmp_path / "c", shift=1000)
    merged = open_dataset([first, same, larger], split="train")
    assert merged.image_ids.tolist() == [10, 20, 30, 31, 41, 51, 1010, 1020, 1030]
    assert [(part.first, part.id_offset) for part in merged.sources] == [(0, 0), (3, 21), (6, 0)]
    for index in range(9):
        part = merged.source_of(index)
        assert merged.path(index).parent == part.images == part.annotations_file.parent / "images"
        assert merged.target(index)["image_id"] - part.id_offset - (1000 if index > 5 else 0) in (10, 20, 30)
        image, target = merged.load(index)
        alone = open_dataset(part.annotations_file, split="train").load(index - part.first)
        np.testing.assert_array_equal(target["boxes_xyxy"], alone[1]["boxes_xyxy"])
        assert image.tobytes() == alone[0].tobytes()


def test_merging_merged_datasets_is_merging_all(tmp_path):
    files = [source(tmp_path / name) for name in "abc"]
    together = open_dataset(files, split="train")
    nested = open_dataset([files[0], open_dataset(files[1:], split="train")], split="train")
    assert nested.image_ids.tolist() == together.image_ids.tolist()
    assert nested.sources == together.sources
    assert nested.load(8)[0].tobytes() == together.load(8)[0].tobytes()


def test_an_error_names_the_source_and_its_own_id(tmp_path):
    merged = open_dataset([source(tmp_path / "a"), source(tmp_path / "b")], split="train")
    merged.path(4).write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"b/data\.json: image 20: .*b\.jpg is not an image"):
        merged.load(4)


def test_a_part_of_the_classes_fits_a_longer_list(tmp_path):
    dataset = open_dataset(source(tmp_path / "a"), split="val")
    model = Categories(
        Category(i, name) for i, name in enumerate(["cow", "bird", "dog", "cat", "eel", "fox", "gnu", "yak"])
    )
    relabeled = dataset.with_categories(model)
    assert relabeled.categories.names == model.names
    assert relabeled.categories.ids == [0, 90, 7, 3, 4, 5, 6, 91]  # 7 is taken
    assert relabeled.target(1)["labels"].tolist() == [3, 2, 3]
    same = dataset.with_categories(Categories([Category(0, "dog"), Category(1, "cat"), Category(2, "bird")]))
    assert same.target(1)["labels"].tolist() == [1, 0, 1]


def test_numbered_classes_are_merged_by_name(tmp_path):
    numbered = [(0, "class 0"), (1, "class 1"), (2, "class 2")]
    turned = [(0, "class 2"), (1, "class 0"), (2, "class 1")]
    files = [source(tmp_path / "a", categories=numbered), source(tmp_path / "b", categories=turned)]
    merged = open_dataset(files, split="train")
    assert merged.target(1)["labels"].tolist() == [0, 1, 0]
    assert merged.target(4)["labels"].tolist() == [2, 0, 2]


def test_datasets_that_cannot_be_merged(tmp_path):
    content = document()
    content["images"] = [{"id": 2**63 - 1, "file_name": "a.jpg", "width": 50, "height": 50}]
    content["annotations"] = [annotation(1, 2**63 - 1, 3, [1, 1, 5, 5])]
    huge = write_dataset(tmp_path / "huge", content)[1]
    assert open_dataset([source(tmp_path / "a"), huge], split="train").image_ids[-1] == 2**63 - 1
    with pytest.raises(DatasetError, match="too large to merge"):
        open_dataset([huge, source(tmp_path / "b")], split="train")
    with pytest.raises(ConfigError, match="an empty list"):
        open_dataset([], split="train")
    with pytest.raises(ConfigError, match="'images' applies to one dataset only"):
        open_dataset([huge, huge], split="train", images=tmp_path)
    with pytest.raises(ConfigError, match="expected a path, a dataset or a list of them, got int"):
        open_dataset(3, split="train")


def test_results_have_the_ids_of_each_source(tmp_path):
    files = [source(tmp_path / "a"), source(tmp_path / "b", categories=[(1, "dog"), (7, "cow"), (8, "cat")])]
    merged = open_dataset(files, split="train")
    evaluator = CocoEvaluator(merged)
    boxes = np.array([[1.0, 2.0, 5.0, 8.0]] * 2, dtype=np.float32)
    labels = np.array([merged.categories.names.index(name) for name in ("cat", "cow")])
    for image_id in merged.image_ids.tolist():
        evaluator.add(image_id, boxes_xyxy=boxes, scores=np.array([0.9, 0.8]), labels=labels)
    rows = list(evaluator.rows())
    alone = [open_dataset(file, split="train").image_ids.tolist() for file in files]
    for file, image_ids, classes in zip(files, alone, ([3], [8, 7]), strict=True):
        found = [(row["image_id"], row["category_id"]) for row in rows if row["source"] == str(file)]
        assert found == [(image_id, number) for image_id in image_ids for number in classes]
