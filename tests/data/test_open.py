import json
import shutil

import pytest

from rtdetr.data import open_dataset
from rtdetr.errors import ConfigError, DatasetError
from tests.coco_files import document, write_dataset

LAYOUTS = [
    ("annotations/instances_val2017.json", "val2017"),
    ("annotations/instances_val2017.json", "images/val2017"),
    ("annotations/instances_val.json", "val"),
    ("annotations/val.json", "images/val"),
    ("annotations/val.json", "val"),
    ("annotations/valid.json", "images/valid"),
    ("annotations/val.json", "images"),
    ("val.json", "images/val"),
    ("val.json", "val"),
    ("val.json", "images"),
    ("val.json", "."),
    ("valid/_annotations.coco.json", "valid"),
    ("val/_annotations.coco.json", "val"),
]


def lay_out(root, annotations, images):
    """Put a dataset into the layout; returns its root."""
    images_dir, annotations_file = write_dataset(root.parent / "source")
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    shutil.copy(annotations_file, root / annotations)
    for image in images_dir.iterdir():
        shutil.copy(image, root / images)
    return root


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS)
def test_a_folder_is_searched_for_the_split(tmp_path, annotations, images):
    root = lay_out(tmp_path / "set", annotations, images)
    dataset = open_dataset(root, split="val")
    assert dataset.load(0)[0].size == (50, 50)
    assert dataset.annotations_file == root / annotations
    assert dataset.images_dir == root / images
    with pytest.raises(
        DatasetError,
        match=r"no annotations for 'train', only for 'val'; looked for annotations/instances_train2017\.json",
    ):
        open_dataset(root, split="train")


def test_a_split_with_errors_is_named_too(tmp_path):
    root = lay_out(tmp_path / "set", "annotations/instances_val1.json", "images")
    shutil.copy(root / "annotations/instances_val1.json", root / "annotations/instances_val2.json")
    with pytest.raises(DatasetError, match=r"instances_val1\.json"):
        open_dataset(root, split="val")
    with pytest.raises(DatasetError, match="no annotations for 'test', only for 'val'; looked for"):
        open_dataset(root, split="test")


@pytest.mark.parametrize(("annotations", "images"), LAYOUTS)
def test_the_annotation_file_finds_its_images(tmp_path, annotations, images):
    root = lay_out(tmp_path / "set", annotations, images)
    assert open_dataset(root / annotations, split="train").images_dir == root / images


def test_the_images_folder_can_be_given(tmp_path):
    root = lay_out(tmp_path / "set", "val.json", "../somewhere/else")
    with pytest.raises(DatasetError, match="give the right folder with --images"):
        open_dataset(root, split="val")
    assert len(open_dataset(root, split="val", images=tmp_path / "somewhere/else")) == 3
    with pytest.raises(DatasetError, match="expected a folder of images"):
        open_dataset(root, split="val", images=root / "nowhere")


def test_the_2017_files_are_preferred_to_other_years(tmp_path):
    root = lay_out(tmp_path / "set", "annotations/instances_train2014.json", "train2014")
    lay_out(root, "annotations/instances_train2017.json", "train2017")
    assert open_dataset(root, split="train").images_dir.name == "train2017"
    (root / "annotations/instances_train2017.json").unlink()
    assert open_dataset(root, split="train").images_dir.name == "train2014"
    lay_out(root, "annotations/instances_train2015.json", "train2015")
    with pytest.raises(DatasetError, match=r"several annotation files .*train2014\.json, .*train2015\.json"):
        open_dataset(root, split="train")


def test_options_reach_the_dataset(tmp_path):
    content = document()
    content["annotations"][1]["bbox"] = [5, 5, 0, 5]
    _, file = write_dataset(tmp_path, content)
    assert len(open_dataset(file, split="val", on_bad_box="drop").annotations.labels) == 3


def test_missing_datasets_are_explained(tmp_path):
    with pytest.raises(DatasetError, match=r"no dataset .*none: expected a folder, a COCO file NAME.json"):
        open_dataset(tmp_path / "none", split="val")
    with pytest.raises(ConfigError, match=r"got 'vall'\. Did you mean 'val'"):
        open_dataset(tmp_path, split="vall")
    (tmp_path / "text.json").write_text(json.dumps("text"))
    with pytest.raises(DatasetError, match="expected a COCO file"):
        open_dataset(tmp_path / "text.json", split="val")


@pytest.mark.parametrize("mark", ["dataset_dict.json", "data/train-00000-of-00001.parquet", "train/metadata.jsonl"])
def test_a_saved_huggingface_table_is_recognized(tmp_path, mark):
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).write_text("{}")
    with pytest.raises(DatasetError, match="table of Hugging Face datasets, which can be read from Python only"):
        open_dataset(tmp_path, split="train")
