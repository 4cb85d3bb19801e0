"""A real network, exported to every format that runs here, detects what it detects in PyTorch."""

import numpy as np
import pytest
import torch

import rtdetr
from rtdetr.categories import Categories
from rtdetr.errors import WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.models import build_model
from rtdetr.weights import save_weights

FILES = {
    "model.onnx": {},
    "free.onnx": {"dynamic_batch": True, "dynamic_size": True},
    "raw.onnx": {"postprocess": "raw"},
    "whole.onnx": {"preprocess": True},
    "model.xml": {"format": "openvino"},
    "free.xml": {"format": "openvino", "dynamic_batch": True, "dynamic_size": True},
    "model.pt2": {"format": "torch"},
    "one.onnx": {"one_label": True, "dynamic_batch": True},
    "one.xml": {"format": "openvino", "one_label": True},
    "one.pt2": {"format": "torch", "one_label": True},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=5)
    for head in (model.decoder.enc_score_head, *model.decoder.dec_score_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    path = tmp_path_factory.mktemp("exported") / "best.pth"
    return save_weights(model, path, categories=Categories.numbered(5))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize("name", FILES)
def test_the_same_detections(checkpoint, name):
    file = checkpoint.parent / name
    export(checkpoint, file, options=ExportOptions(**FILES[name]))
    one_label = name.startswith("one")
    reference = rtdetr.load(checkpoint, device="cpu", precision="float32", one_label=one_label)
    detector = rtdetr.load(file, precision="float32")
    assert detector.one_label == detector.metadata.one_label == one_label
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((64, 64), (200, 90), (30, 150), (1, 1))]
    sizes = [None, (64, 96)] if name.startswith("free") else [None]
    for size_hw in sizes:
        expected = reference(pictures, threshold=0.0, size_hw=size_hw, max_detections=30)
        results = detector(pictures, threshold=0.0, size_hw=size_hw, max_detections=30, batch_size=3)
        for found, wanted in zip(results, expected, strict=True):
            assert found.image_size_wh == wanted.image_size_wh
            np.testing.assert_allclose(found.scores, wanted.scores, atol=0.01)
            assert not one_label or len(found) == len(wanted) == 30  # queries, of which each is found once
    tensor = torch.from_numpy(pictures[0]).permute(2, 0, 1)
    for one in (tensor, tensor.to(torch.uint16) * 257, (tensor / 255).bfloat16()):
        tolerance = 0.02 if one.dtype == torch.bfloat16 else 0.0
        found = detector(one, threshold=0.0, max_detections=30)
        wanted = detector(pictures[0], threshold=0.0, max_detections=30)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=tolerance)
    damaged = checkpoint.parent / f"damaged{file.suffix}"
    damaged.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(WeightsError, match="damaged"):
        rtdetr.load(damaged)
