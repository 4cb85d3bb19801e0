"""`torch.jit.trace` and the ONNX exporter based on it give the outputs of the network at any batch and image size."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rtdetr.errors import ExportError
from tests.weights.small import small

ROOT = Path(__file__).parents[2]
# in a process of its own: in tests, checks of shapes take the sizes that are recorded for numbers
TRACE = """
import io, warnings
import torch
from tests.weights.small import small
from tests.hf.pairs import facade

warnings.simplefilter("ignore")
network, detector = small(eval_size_hw=(64, 96)), facade()
detector.config.return_dict = False
for model in (network, detector):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, torch.rand(1, 3, 64, 96)), file)  # which compares with a second call
    file.seek(0)
    traced = torch.jit.load(file)
    for shape in ((1, 3, 64, 96), (3, 3, 64, 96), (2, 3, 96, 64), (1, 3, 128, 128)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        for found, expected in zip(traced(images)[:2], model(images)[:2], strict=True):
            assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5, shape
"""
ONNX = """
import io, warnings
import onnxruntime
import torch
from tests.hf.pairs import facade

warnings.simplefilter("ignore")
model, file, free = facade(), io.BytesIO(), {0: "batch", 2: "height", 3: "width"}
names = {"input_names": ["pixel_values"], "output_names": ["logits", "boxes"]}
model.config.return_dict = False
torch.onnx.export(model, (torch.rand(1, 3, 64, 96),), file, dynamo=False, dynamic_axes={"pixel_values": free}, **names)
session = onnxruntime.InferenceSession(file.getvalue())
for shape in ((1, 3, 64, 96), (3, 3, 64, 96), (2, 3, 96, 64)):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found, expected = session.run(["logits", "boxes"], {"pixel_values": images.numpy()}), model(images)
    for one, other in zip(found, expected[:2], strict=True):
        assert one.shape == other.shape and (torch.from_numpy(one) - other).abs().max() < 1e-4, shape
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_traced() -> None:
    pytest.importorskip("transformers")
    run(TRACE)


@pytest.mark.slow
def test_exported_through_a_trace() -> None:
    for package in ("transformers", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    run(ONNX)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_scripts_are_refused() -> None:
    with pytest.raises(ExportError, match=r"use torch\.jit\.trace .* or rtdetr\.export"):
        torch.jit.script(small())
