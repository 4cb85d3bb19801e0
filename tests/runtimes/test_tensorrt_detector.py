"""The TensorRT detector with a fake TensorRT; engines for another machine are refused."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtdetr
from rtdetr.errors import ConfigError, InputError, MissingDependencyError, WeightsError
from rtdetr.runtimes.engine_file import MAGIC, EngineHeader, check_machine, read_engine, write_engine
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.options import LoadOptions
from tests.runtimes import fake_gpu
from tests.runtimes.graphs import CLASSES, QUERIES, make_metadata, save_graph
from tests.runtimes.test_onnx_detector import PICTURES

HEADER = EngineHeader(make_metadata(postprocess="raw", dynamic_batch=True), fake_gpu.VERSION, fake_gpu.GPU, "8.6")


@pytest.fixture
def cuda(monkeypatch):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, QUERIES, CLASSES), scale=4), rng.normal(size=(3, QUERIES, 4), scale=2)
    return fake_gpu.install(monkeypatch, weights)


def test_the_same_as_onnx(cuda, tmp_path):
    detector = rtdetr.load(write_engine(tmp_path / "model.engine", b"engine", header=HEADER))
    assert detector.description == "mean-color (3 classes) in float32 on NVIDIA Fake (TensorRT 10.3.0) at 64x64"
    assert detector.batch_sizes == (1, 4)
    other = OnnxDetector(save_graph(tmp_path / "model.onnx", HEADER.metadata), LoadOptions(num_threads=1))
    for batch_size in (1, 3, 8):
        results = detector(PICTURES, threshold=0.01, batch_size=batch_size)
        for found, pixels in zip(results, PICTURES, strict=True):
            expected = other(pixels, threshold=0.01)
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
            np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    assert cuda.launches == 5 + 2 + 2
    assert len(cuda.memory) == 6  # buffers of earlier shapes were given back


def test_shapes_outside_the_range_of_the_engine(cuda, tmp_path):
    file = write_engine(tmp_path / "model.trt", b"engine", header=HEADER)
    with pytest.raises(InputError, match="exported for images of 64x64 only"):
        rtdetr.load(file)(PICTURES[0], size_hw=(96, 96))
    for device in ("cpu", "cuda:x"):
        with pytest.raises(ConfigError, match="TensorRT runs on NVIDIA GPUs"):
            rtdetr.load(file, device=device)
    with pytest.raises(ConfigError, match="CUDA reports 101"):
        rtdetr.load(file, device="cuda:1")
    with pytest.raises(ConfigError, match="runs only in this precision"):
        rtdetr.load(file, precision="float16")
    with pytest.raises(WeightsError, match="cannot be read by TensorRT"):
        rtdetr.load(write_engine(file, b"engin", header=HEADER))
    boxes = HEADER._replace(metadata=make_metadata())
    with pytest.raises(WeightsError, match="does not fit its inputs and outputs"):
        rtdetr.load(write_engine(file, b"engine", header=boxes))


@pytest.mark.parametrize("change", [{"tensorrt": "10.3.1"}, {"gpu": "NVIDIA Other"}, {"compute_capability": "9.0"}])
def test_another_machine_is_refused(cuda, tmp_path, change):
    file = write_engine(tmp_path / "model.engine", b"engine", header=HEADER._replace(**change))
    with pytest.raises(WeightsError, match=rf"was built by TensorRT .*{next(iter(change.values()))}.* Build it again"):
        rtdetr.load(file)


def test_round_trip(tmp_path):
    file = write_engine(tmp_path / "model.engine", b"\0engine", header=HEADER)
    assert read_engine(file) == (HEADER, b"\0engine")
    check_machine(HEADER, path=file, tensorrt="10.3.0", gpu="NVIDIA Fake", compute_capability="8.6")


def test_files_that_are_not_engines(tmp_path):
    file = tmp_path / "model.engine"
    whole = write_engine(file, b"engine", header=HEADER).read_bytes()
    for content, message in (
        (b"ftrt\0\0\0", "has no header that describes its model"),
        (whole[:12], "ends too early"),
        (whole[:200], "ends too early"),
        (whole[: whole.index(b"engine", 100)], "ends too early"),
        (whole.replace(b'"gpu"', b'"gup"'), "its header cannot be read"),
        (whole.replace(b'"model"', b'"m\xffdel"'), "its header cannot be read"),
        (whole.replace(b'"format_version": 1', b'"format_version": 7'), "upgrade rtdetr"),
        (b"", "is empty"),
    ):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_engine(file)
    with pytest.raises(WeightsError, match="no such TensorRT file"):
        read_engine(tmp_path / "none.engine")


@settings(max_examples=15, deadline=None)
@given(content=st.binary(), header=st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_random_bytes_are_refused(tmp_path_factory, content, header):
    file = tmp_path_factory.getbasetemp() / "strange.engine"
    text = json.dumps(header).encode()
    for bytes_ in (content or b"x", MAGIC + content, MAGIC + len(text).to_bytes(8, "little") + text + b"engine"):
        file.write_bytes(bytes_)
        with pytest.raises(WeightsError):
            read_engine(file)


def test_without_tensorrt_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "rtdetr.runtimes.tensorrt_detector", raising=False)
    with pytest.raises(MissingDependencyError, match="pip install tensorrt cuda-bindings"):
        rtdetr.load(tmp_path / "model.engine")
