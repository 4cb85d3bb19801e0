import hashlib
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from rtdetr.data import index_cache, open_dataset
from rtdetr.errors import DatasetError
from tests.coco_files import document, write_dataset
from tests.data.formats import FORMATS, write_format


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of cached indices, for datasets of any size."""
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_MIN_ROWS", 0)
    return tmp_path / "cache" / "datasets"


def forbid_reading(monkeypatch):
    def read(*_):
        raise AssertionError("the files were read again")

    monkeypatch.setattr("rtdetr.data.records.arrange", read)


def assert_equal(left, right):
    assert left.categories == right.categories
    assert left.annotations.notes == right.annotations.notes
    assert left.annotations.implied == right.annotations.implied
    for name, column in left.annotations._asdict().items():
        if isinstance(column, np.ndarray):
            np.testing.assert_array_equal(column, getattr(right.annotations, name))
            assert column.dtype == getattr(right.annotations, name).dtype


@pytest.mark.parametrize("kind", FORMATS)
def test_the_second_read_uses_the_cache(tmp_path, cache, monkeypatch, kind):
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
def test_added_and_removed_files_are_noticed(tmp_path, cache, kind):
    root = write_format(tmp_path / "set", kind, document())
    assert len(open_dataset(root, split="val").target(1)["labels"]) == 3
    if kind == "yolo":
        (root / "labels/val/b.txt").unlink()
        assert len(open_dataset(root, split="val").target(1)["labels"]) == 0
        (root / "images/val/a.jpg").unlink()
    else:
        (root / "ImageSets/Main/val.txt").write_text("b\nc\n")
    assert len(open_dataset(root, split="val")) == 2


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco"])
def test_a_changed_image_size_is_noticed_if_not_stated_elsewhere(tmp_path, cache, kind):
    root = write_format(tmp_path / "set", kind, document())
    for file in root.glob("annotations/*.json"):
        file.write_text(re.sub('"(width|height)": [0-9]+', r'"\1": null', file.read_text()))
    for file in root.glob("Annotations/*.xml"):
        file.write_text(re.sub("<size>.*</size>", "", file.read_text()))
    before = open_dataset(root, split="val")
    width, height = before.target(0)["size_wh"]
    Image.new("RGB", (width * 2, height * 2)).save(before.path(0))
    after = open_dataset(root, split="val")
    assert after.target(0)["size_wh"] == after.load(0)[0].size == (width * 2, height * 2)


def test_each_split_of_a_file_has_its_own_cache(tmp_path, cache, monkeypatch):
    root = write_format(tmp_path / "set", "yolo", document())
    for name, images in (("train", ["a", "b"]), ("val", ["a", "c"])):
        paths = [next(path for path in root.rglob(f"{image}.*") if path.suffix != ".txt") for image in images]
        (root / f"{name}.txt").write_text("\n".join(map(str, paths)))
    text = (root / "data.yaml").read_text().replace("val: images/val", "train: train.txt\nval: val.txt")
    (root / "data.yaml").write_text(text)
    first = [open_dataset(root, split=split) for split in ("train", "val")]
    assert len(list(cache.iterdir())) == 2
    forbid_reading(monkeypatch)
    for dataset, split in zip(first, ("train", "val"), strict=True):
        assert_equal(dataset, open_dataset(root, split=split))


def test_a_missing_image_is_found_despite_the_cache(tmp_path, cache):
    images, file = write_dataset(tmp_path)
    open_dataset(file, split="train")
    (images / "b.jpg").unlink()
    with pytest.raises(DatasetError, match="1 of its 3 images is not in"):
        open_dataset(file, split="train")


def test_each_combination_of_options_has_its_own_cache(tmp_path, cache):
    content = document()
    content["annotations"][1]["bbox"] = [5, 5, 0, 5]
    _, file = write_dataset(tmp_path, content)
    assert len(open_dataset(file, split="train", on_bad_box="drop").annotations.labels) == 3
    with pytest.raises(DatasetError, match="annotation 2"):
        open_dataset(file, split="train")


def test_a_damaged_cache_is_ignored_and_rewritten(tmp_path, cache):
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


def malformed(columns, whole_texts):
    """Index contents, after the checksum and fingerprint, that no writer of this version makes."""

    def saved(**changed):
        stream = io.BytesIO()
        for column in (columns | changed).values():
            np.save(stream, column)
        return stream.getvalue()

    whole = saved()
    text = np.frombuffer(b'{"categories": [{"id": 1}], "notes": []}', dtype=np.uint8)
    notes = np.frombuffer(whole_texts.replace(b"[]", b"5"), dtype=np.uint8)
    yield from (b"", b"junk", whole[:200], whole[: len(whole) // 2], whole[:-1])
    yield from (
        saved(texts=text),
        saved(texts=text[:4]),
        saved(texts=text[:0]),
        saved(texts=text[15:27]),
        saved(texts=notes),
    )
    yield from (saved(labels=columns["labels"] + 100), saved(labels=columns["labels"] - 100))
    yield from (saved(labels=columns["labels"][1:]), saved(areas=columns["areas"].astype(np.float32)))
    yield from (saved(starts=columns["starts"][::-1].copy()), saved(starts=columns["starts"] + 1))
    yield from (saved(file_names=columns["file_names"][:-1]), saved(boxes_xywh=columns["boxes_xywh"][:, :2].copy()))


def test_a_malformed_cache_with_a_valid_checksum_is_ignored(tmp_path, cache):
    _, file = write_dataset(tmp_path)
    expected = open_dataset(file, split="train")
    (index,) = cache.iterdir()
    whole = index.read_bytes()
    texts = json.dumps({"categories": expected.categories.to_json(), "notes": []}).encode()
    columns = {"texts": np.frombuffer(texts, dtype=np.uint8)} | expected.annotations._asdict()
    del columns["categories"], columns["notes"]
    for content in malformed(columns, texts):
        payload = whole[32:64] + content
        index.write_bytes(hashlib.sha256(payload).digest() + payload)
        assert_equal(open_dataset(file, split="train"), expected)
        assert index.read_bytes() == whole


def test_an_unwritable_cache_is_not_an_error(tmp_path, cache):
    _, file = write_dataset(tmp_path)
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert len(open_dataset(file, split="train")) == 3


def test_small_datasets_are_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    open_dataset(write_dataset(tmp_path)[1], split="train")
    assert not (tmp_path / "cache").exists()


def test_notes_are_repeated_when_reading_from_the_cache(tmp_path, cache, monkeypatch, caplog):
    content = document()
    content["annotations"][0]["bbox"] = "[20, 30, 20, 30]"
    _, file = write_dataset(tmp_path, content)
    open_dataset(file, split="train")
    forbid_reading(monkeypatch)
    open_dataset(file, split="train")
    forms = [message for message in caplog.messages if "boxes written as text: 1" in message]
    cut = [message for message in caplog.messages if "extend beyond" in message]
    assert len(forms) == len(cut) == 2
