import json
import os

import numpy as np
import pytest

from rtdetr.data import index_cache, open_dataset
from rtdetr.errors import DatasetError
from tests.coco_files import document, write_dataset
from tests.data.formats import FORMATS, write_format


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of cached indices, for datasets of any size."""
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_LEAST_ROWS", 0)
    return tmp_path / "cache" / "datasets"


def forbid_reading(monkeypatch):
    def read(*_):
        raise AssertionError("the files were read again")

    for room in ("coco", "yolo", "voc"):
        monkeypatch.setattr(f"rtdetr.data.{room}.arrange", read)


def assert_equal(left, right):
    assert left.categories == right.categories
    for name, column in left.annotations._asdict().items():
        if name != "categories":
            np.testing.assert_array_equal(column, getattr(right.annotations, name))
            assert column.dtype == getattr(right.annotations, name).dtype


@pytest.mark.parametrize("kind", FORMATS)
def test_a_second_time_comes_from_the_cache(tmp_path, cache, monkeypatch, kind):
    root = write_format(tmp_path / "set", kind, document())
    first = open_dataset(root, split="val")
    assert len(list(cache.iterdir())) == 1
    forbid_reading(monkeypatch)
    second = open_dataset(root, split="val")
    assert_equal(first, second)
    assert second.load(1)[0].tobytes() == first.load(1)[0].tobytes()


def test_a_changed_file_is_read_again_and_its_index_replaced(tmp_path, cache):
    content = document()
    _, file = write_dataset(tmp_path, content)
    open_dataset(file, split="train")
    stat = file.stat()
    content["annotations"][0]["bbox"][0] = 21  # same size
    file.write_text(json.dumps(content))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and same time of modification
    assert open_dataset(file, split="train").target(2)["boxes_xyxy"][0, 0] == 21
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_an_added_or_removed_file_is_seen(tmp_path, cache, kind):
    root = write_format(tmp_path / "set", kind, document())
    assert len(open_dataset(root, split="val").target(1)["labels"]) == 3
    if kind == "yolo":
        (root / "labels/val/b.txt").unlink()
        assert len(open_dataset(root, split="val").target(1)["labels"]) == 0
        (root / "images/val/a.jpg").unlink()
    else:
        (root / "ImageSets/Main/val.txt").write_text("b\nc\n")
    assert len(open_dataset(root, split="val")) == 2


def test_a_missing_image_is_found_though_the_index_is_kept(tmp_path, cache):
    images, file = write_dataset(tmp_path)
    open_dataset(file, split="train")
    (images / "b.jpg").unlink()
    with pytest.raises(DatasetError, match="1 of its 3 images are not in"):
        open_dataset(file, split="train")


def test_each_way_to_ask_has_its_own_index(tmp_path, cache):
    content = document()
    content["annotations"][1]["bbox"] = [5, 5, 0, 5]
    _, file = write_dataset(tmp_path, content)
    assert len(open_dataset(file, split="train", on_bad_box="drop").annotations.labels) == 3
    with pytest.raises(DatasetError, match="annotation 2"):
        open_dataset(file, split="train")


def test_a_damaged_index_is_ignored_and_written_anew(tmp_path, cache):
    _, file = write_dataset(tmp_path)
    expected = open_dataset(file, split="train")
    (index,) = cache.iterdir()
    whole = index.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(whole), 20)
    damaged = [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in places]
    damaged += [b"", b"junk", whole[: len(whole) // 2], whole[:64], whole + b"x"]
    for content in damaged:
        index.write_bytes(content)
        assert_equal(open_dataset(file, split="train"), expected)
        assert index.read_bytes() == whole


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, cache):
    _, file = write_dataset(tmp_path)
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert len(open_dataset(file, split="train")) == 3


def test_small_datasets_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    open_dataset(write_dataset(tmp_path)[1], split="train")
    assert not (tmp_path / "cache").exists()
