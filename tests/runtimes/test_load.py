"""`rtdetr.load`: a file or name in, a detector out, or a sentence that says why not."""

import subprocess
import sys

import numpy as np
import pytest

import rtdetr
from rtdetr.categories import Categories
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.models import build_model
from rtdetr.weights import save_huggingface, save_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    categories = Categories.from_json([{"id": 4, "name": "bolt"}, {"id": 9, "name": "nut"}])
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    model = build_model("test-tiny", num_classes=2, eval_size_hw=(32, 96))
    save_weights(model, path, categories=categories)
    save_huggingface(model, path.parent / "folder", categories=categories)
    return path


@pytest.mark.parametrize("name", ["best.pth", "folder", "folder/model.safetensors"])
def test_load_and_detect(checkpoint, name):
    source = checkpoint.parent / name
    detector = rtdetr.load(source, device="cpu", precision="float32")
    assert detector.names == ("bolt", "nut")
    found = detector(np.zeros((20, 30, 3), np.uint8), threshold=0.0)
    assert found.image_size_wh == (30, 20)
    assert len(found) == 30 * 2
    if name == "best.pth":
        assert detector.categories.ids == [4, 9]
        assert detector.size_hw == (32, 96)
        same = rtdetr.load(str(source), device="cpu", precision="float32")(
            np.zeros((20, 30, 3), np.uint8), threshold=0.0
        )
        assert np.array_equal(same.scores, found.scores)


@pytest.mark.parametrize("suffix", ["onnx", "xml", "engine", "pt2", "ONNX"])
def test_exported_files_have_no_runtime_yet(tmp_path, suffix):
    with pytest.raises(InputError, match=r"cannot run .* files; load the \.pth"):
        rtdetr.load(tmp_path / f"model.{suffix}")


def test_wrong_names_and_words(checkpoint):
    with pytest.raises(WeightsError, match="rtdetrv2_r18vd"):
        rtdetr.load("rtdetrv2_r18")
    with pytest.raises(WeightsError, match="no such file"):
        rtdetr.load(checkpoint.parent / "none.pth")
    with pytest.raises(ConfigError, match=r"Did you mean 'float32'\?"):
        rtdetr.load(checkpoint, precision="float_32")
    with pytest.raises(ConfigError, match="unknown model"):
        rtdetr.load(checkpoint, model="tiny")
    with pytest.raises(WeightsError, match=r"test-tiny|expected weights"):
        rtdetr.load(checkpoint, model="rtdetrv2_r18vd")


def test_without_torch_the_extra_is_named(checkpoint):
    code = f"""
import sys
sys.modules["torch"] = None
import rtdetr
from rtdetr.runtimes import load
try:
    load({str(checkpoint)!r})
except rtdetr.RTDETRError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("MissingDependencyError")
    assert "pip install 'rtdetr[torch]'" in result.stdout
