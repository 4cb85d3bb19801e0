"""Score thresholds in a checkpoint: stored without touching the rest, read back, checked."""

import math

import pytest
import torch

from rtdetr.categories import Categories
from rtdetr.errors import WeightsError
from rtdetr.weights import convert, read_checkpoint, save_weights, store_thresholds
from tests.weights.small import small

CLASSES = Categories.from_json([{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}])


@pytest.fixture
def path(tmp_path):
    return save_weights(small(num_classes=2), tmp_path / "best.pth", categories=CLASSES)


def test_thresholds_are_read_back_and_nothing_else_changes(path):
    content = torch.load(path, weights_only=True) | {"progress": {"epoch": 3}}
    torch.save(content, path)
    before = read_checkpoint(path)
    assert before.thresholds is None
    assert store_thresholds(path, [0.25, 0.5]) == path
    after = read_checkpoint(path)
    assert after.thresholds == (0.25, 0.5)
    assert (after.config, after.categories) == (before.config, CLASSES)
    assert all(torch.equal(value, after.state[key]) for key, value in before.state.items())
    assert torch.load(path, weights_only=True)["progress"] == {"epoch": 3}
    store_thresholds(path, [0.0, 1.0])
    assert read_checkpoint(path).thresholds == (0.0, 1.0)
    assert [file.name for file in path.parent.iterdir()] == ["best.pth"]


@pytest.mark.parametrize("name", ["copy.pth", "copy.safetensors", "folder"])
def test_conversion_keeps_them(path, tmp_path, name):
    store_thresholds(path, [0.25, 0.5])
    convert(path, tmp_path / name)
    assert read_checkpoint(tmp_path / name).thresholds == (0.25, 0.5)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 3, [0.5, 1.5], [0.5, math.nan], [-0.1, 0.5]])
def test_wrong_thresholds_are_neither_written_nor_read(path, values):
    content = path.read_bytes()
    with pytest.raises(WeightsError, match="score threshold"):
        store_thresholds(path, values)
    assert path.read_bytes() == content
    document = torch.load(path, weights_only=True)
    document["rtdetr"]["thresholds"] = values
    torch.save(document, path)
    with pytest.raises(WeightsError, match=r"best\.pth: .*score threshold"):
        read_checkpoint(path)


@pytest.mark.parametrize("values", ["0.5", 0.5, [None, None], ["a", "b"], {0: 0.5, 1: 0.5}, [True, False]])
def test_thresholds_of_a_strange_type_are_refused(path, values):
    document = torch.load(path, weights_only=True)
    document["rtdetr"]["thresholds"] = values
    torch.save(document, path)
    with pytest.raises(WeightsError, match="score thresholds are damaged"):
        read_checkpoint(path)


def test_only_our_files_can_store_thresholds(path, tmp_path):
    convert(path, tmp_path / "official.pth", format="official")
    with pytest.raises(WeightsError, match=r"expected a \.pth file of this library.*rtdetr weights convert"):
        store_thresholds(tmp_path / "official.pth", [0.5, 0.5])
    with pytest.raises(WeightsError, match="no such file"):
        store_thresholds(tmp_path / "none.pth", [0.5, 0.5])
    (tmp_path / "half.pth").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        store_thresholds(tmp_path / "half.pth", [0.5, 0.5])
