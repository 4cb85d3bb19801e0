"""Detectors that are pickled, copied, or inherited by another process."""

import copy
import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rtdetr
from rtdetr.errors import WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.runtimes.base import BaseDetector
from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_onnx_detector import PICTURES
from tests.runtimes.test_openvino_detector import convert
from tests.runtimes.test_torch_detector import make_detector

KINDS = ("onnx", "openvino", "torch")


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseDetector]:
    folder = tmp_path_factory.mktemp("files")
    metadata = make_metadata()
    file = save_graph(folder / "graph.onnx", metadata)
    options = {"one_label": True, "nms_iou": 0.7, "num_threads": 1}
    return {
        "onnx": rtdetr.load(file, **options),
        "openvino": rtdetr.load(convert(file, metadata), precision="float32", **options),
        "torch": make_detector(one_label=True, nms_iou=0.7),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_detects_the_same(detectors, kind, again, tmp_path, monkeypatch):
    detector = detectors[kind]
    monkeypatch.chdir(tmp_path)
    other = again(detector)
    assert type(other) is type(detector)
    assert (other.one_label, other.nms_iou, other.num_threads) == (True, 0.7, detector.num_threads)
    for found, expected in zip(other(PICTURES, threshold=0.1), detector(PICTURES, threshold=0.1), strict=True):
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)


def test_a_relative_path_is_found_from_another_folder(tmp_path, monkeypatch):
    save_graph(tmp_path / "graph.onnx", make_metadata())
    monkeypatch.chdir(tmp_path)
    stored = pickle.dumps(rtdetr.load("graph.onnx"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(stored).names == ("bolt", "nut", "washer")
    (tmp_path / "graph.onnx").unlink()
    with pytest.raises(WeightsError, match=r"graph\.onnx"):
        pickle.loads(stored)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters' own
def test_forked_and_spawned_processes(tmp_path):
    files = {"model.onnx": "onnx", "model.xml": "openvino", "model.pt2": "torch"}
    for name, kind in files.items():
        export("rtdetrv2_r18vd:untrained", tmp_path / name, options=ExportOptions(format=kind, size_hw=(192, 192)))
    sources = [*(str(tmp_path / name) for name in files), "rtdetrv2_r18vd:untrained"]
    script = Path(__file__).with_name("other_processes.py")
    done = subprocess.run([sys.executable, script, *sources], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    methods = multiprocessing.get_all_start_methods()
    assert done.stdout.count("right in another process") == len(methods) * len(sources)
    assert done.stderr.count("it computes with one thread") == 2 * ("fork" in methods)  # the two that PyTorch runs
