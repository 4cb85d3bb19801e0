"""The demo's dataset: repeatable, within its promises, and readable as COCO."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from rtdetr.errors import InputError

SCRIPT = Path(__file__).parents[2] / "examples" / "demo" / "make_dataset.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # its processes import it by name
        yield importlib.import_module("make_dataset")


@pytest.fixture(scope="module")
def folder(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script.make_dataset(tmp_path_factory.mktemp("demo") / "data", num_train=40, num_val=3, seed=5)


def test_annotations_are_coco(folder: Path) -> None:
    content = json.loads((folder / "annotations" / "train.json").read_text())
    assert [c["id"] for c in content["categories"]] == [3, 7, 11, 18, 24, 42]
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    assert len(sizes) == 40
    for image in content["images"]:
        with Image.open(folder / "images" / "train" / image["file_name"]) as picture:
            assert picture.size == sizes[image["id"]]
    assert len(set(sizes.values())) > 2
    per_image = dict.fromkeys(sizes, 0)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        width, height = sizes[annotation["image_id"]]
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        assert 0.07 <= max(w, h) / min(width, height) <= 0.61
        assert 0 < annotation["area"] <= (w + 1) * (h + 1)
        per_image[annotation["image_id"]] += 1
    assert min(per_image.values()) == 0
    assert 10 < max(per_image.values()) <= 24


def test_a_box_encloses_its_shape_tightly(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        shape = script._shape(rng, side=240)
        rows, columns = np.nonzero(shape.alpha > 0.5)
        x0, y0, x1, y1 = shape.box_in_crop
        seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        # the point of a thin tip covers less than half of its pixels
        assert np.abs(seen - (x0, y0, x1, y1)).max() < 3.5, shape.name
        assert (seen[:2] > np.array((x0, y0)) - 1).all()
        assert (seen[2:] < np.array((x1, y1)) + 1).all()


def test_the_same_seed_gives_the_same_images(script: ModuleType, folder: Path, tmp_path: Path) -> None:
    again = script.make_dataset(tmp_path / "data", num_train=2, num_val=3, seed=5)
    for name in ("annotations/val.json", "images/val/000001.jpg", "images/train/000002.jpg"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert (folder / "images/val/000001.jpg").read_bytes() != (folder / "images/train/000001.jpg").read_bytes()


def test_a_finished_dataset_is_kept_until_the_parameters_change(script: ModuleType, tmp_path: Path) -> None:
    folder = script.make_dataset(tmp_path / "data", num_train=1, num_val=1)
    picture = folder / "images" / "train" / "000001.jpg"
    made = picture.stat().st_mtime_ns
    assert script.make_dataset(folder, num_train=1, num_val=1) == folder
    assert picture.stat().st_mtime_ns == made
    script.make_dataset(folder, num_train=2, num_val=1)
    assert picture.stat().st_mtime_ns != made
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_folder_with_other_content_is_not_changed(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="not a demo dataset"):
        script.make_dataset(tmp_path)
    assert (tmp_path / "mine.txt").exists()
