"""Changed defaults of PyTorch do not affect loaded networks, their detections, or written files."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import rtdetr
from rtdetr.devices import pytorch_defaults
from rtdetr.export import export
from rtdetr.models import RTDETR, build_model
from rtdetr.weights import convert, load_model, save_weights


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
IMAGE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=3)
    for head in (*model.decoder.dec_score_head, *model.decoder.dec_bbox_head):
        torch.nn.init.normal_(next(reversed(list(head.parameters()))), std=0.3)
    return save_weights(model, tmp_path_factory.mktemp("weights") / "model.pth")


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> Callable[[], contextlib.AbstractContextManager]:
    return STATES[request.param]


def assert_equal(found: RTDETR, expected: RTDETR) -> None:
    assert not any(value.is_inference() for value in found.parameters())
    for (name, one), (_, other) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert one.dtype == other.dtype, name
        assert torch.equal(one, other), name


def test_networks_have_the_types_of_the_file(checkpoint: Path, state: Callable) -> None:
    expected, _ = load_model(checkpoint)
    fresh, _ = load_model("test-tiny:untrained")
    with state():
        found, _ = load_model(checkpoint)
        untrained, _ = load_model("test-tiny:untrained")
    assert_equal(found, expected)
    assert_equal(untrained, fresh)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_detections(checkpoint: Path, state: Callable, precision: str) -> None:
    expected = rtdetr.load(checkpoint, precision=precision)(IMAGE, threshold=0.0)
    with state():
        found = rtdetr.load(checkpoint, precision=precision)(IMAGE, threshold=0.0)
    assert isinstance(found, rtdetr.Detections)
    assert isinstance(expected, rtdetr.Detections)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)


def test_converted_and_exported_files(checkpoint: Path, state: Callable, tmp_path: Path) -> None:
    with state():
        convert(checkpoint, tmp_path / "folder")
        convert(tmp_path / "folder", tmp_path / "again.pth")
        report = export(checkpoint, tmp_path / "model.onnx", check=True).report
    assert_equal(load_model(tmp_path / "again.pth")[0], load_model(checkpoint)[0])
    assert report is not None
    assert report.passed
    expected = rtdetr.load(checkpoint, precision="float32")(IMAGE, threshold=0.0)
    found = rtdetr.load(tmp_path / "model.onnx")(IMAGE, threshold=0.0)
    assert isinstance(found, rtdetr.Detections)
    assert isinstance(expected, rtdetr.Detections)
    np.testing.assert_allclose(found.scores[:20], expected.scores[:20], atol=2e-5)


def test_overlapping_threads_restore_the_default() -> None:
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with pytorch_defaults():
            inside.set()
            assert leave.wait(10)

    with default_dtype(torch.bfloat16):
        thread = threading.Thread(target=first)
        thread.start()
        assert inside.wait(10)
        with pytorch_defaults():
            leave.set()
            thread.join()
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.bfloat16
