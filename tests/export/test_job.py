"""The copy of the network to export, with pre- and postprocessing."""

import numpy as np
import pytest
import torch

from rtdetr.errors import ConfigError, ExportError
from rtdetr.export.job import input_size, prepared
from rtdetr.export.options import ExportOptions, Int8Options
from rtdetr.export.torch_export import ExportGraph
from rtdetr.models import postprocess
from rtdetr.preprocessing import preprocess
from tests.export.varied_model import assert_same_detections, varied_model


@pytest.fixture(scope="module")
def model():
    return varied_model()


def test_the_copy_computes_the_same_and_leaves_the_model_alone(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = prepared(model, ExportOptions())
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for one, other in zip(network(images)[:2], model(images)[:2], strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert network.is_fused and not model.is_fused
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_layers_queries_and_sampling(model):
    network = prepared(model, ExportOptions(num_layers=1, num_queries=7, sampling="discrete"))
    assert len(network.decoder.decoder.layers) == len(network.decoder.dec_score_head) == 1
    assert network.decoder.decoder.layers[0].cross_attn.sampling == "discrete"
    with torch.inference_mode():
        assert network(torch.rand(1, 3, 64, 64)).logits.shape == (1, 7, 80)


def test_the_evaluated_layer_is_the_last_one():
    model = varied_model("test-tiny")
    model.decoder.config = model.decoder.config.replace(eval_idx=0)
    network = prepared(model, ExportOptions())
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(network(images).logits, model(images).logits, atol=1e-4, rtol=1e-4)
    assert len(network.decoder.decoder.layers) == 1
    assert len(prepared(model, ExportOptions(num_layers=2)).decoder.decoder.layers) == 2


def test_more_layers_than_there_are(model):
    with pytest.raises(ConfigError, match="at most 2"):
        prepared(model, ExportOptions(num_layers=3))


def test_no_more_queries_than_tokens(model):
    assert prepared(model, ExportOptions(size_hw=(32, 32))).num_queries == 21
    with pytest.raises(ConfigError, match="at most 21, the number of tokens of an image of 32x32, got 100"):
        prepared(model, ExportOptions(size_hw=(32, 32), num_queries=100))


def test_input_size(model):
    assert input_size(model, ExportOptions()) == (64, 64)
    assert input_size(model, ExportOptions(size_hw=(32, 96))) == (32, 96)


def test_boxes_and_raw(model):
    network = prepared(model, ExportOptions())
    images, sizes = torch.rand(2, 3, 64, 64), torch.tensor([[640, 480], [1, 1]])
    with torch.inference_mode():
        logits, boxes = ExportGraph(network, postprocess="raw")(images)
        assert logits.shape == (2, 30, 80) and boxes.shape == (2, 30, 4)
        found = ExportGraph(network)(images, sizes)
        one_label = ExportGraph(network, one_label=True)(images, sizes)
    assert_same_detections(found, postprocess(logits, boxes, sizes_wh=sizes), atol=1e-6)
    assert_same_detections(one_label, postprocess(logits, boxes, sizes_wh=sizes, one_label=True), atol=1e-6)
    assert one_label[0].shape == (2, 30)


@pytest.mark.parametrize("size_hw", [(1, 1), (33, 50), (200, 120)])
def test_resizing_in_the_graph(model, size_hw):
    network = prepared(model, ExportOptions())
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    graph = ExportGraph(network, preprocess=True, size_hw=(64, 64))
    with torch.inference_mode():
        found = graph(torch.from_numpy(picture)[None])
        logits, boxes = network(torch.from_numpy(preprocess(picture, (64, 64)))[None])[:2]
    expected = postprocess(logits, boxes, sizes_wh=torch.tensor([[size_hw[1], size_hw[0]]]))
    assert_same_detections(found, expected, atol=2e-3)


def test_resizing_needs_a_size(model):
    with pytest.raises(ExportError, match="size_hw"):
        ExportGraph(prepared(model, ExportOptions()), preprocess=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size_hw": (100, 64)}, "multiples of 32"),
        ({"preprocess": True, "dynamic_batch": True}, "dynamic axes"),
        ({"postprocess": "raw", "nms_iou": 0.5}, "postprocess='boxes'"),
        ({"opset": 12}, "opset"),
        ({"num_layers": 0}, "num_layers"),
        ({"nms_iou": 1.5}, "nms_iou"),
        ({"precison": "fp16"}, "'precision'"),
        ({"postprocess": "raw", "one_label": True}, "postprocess='boxes'"),
        ({"format": "onxn"}, "Did you mean 'onnx'"),
        ({"int8": Int8Options(max_drop=0.1)}, r"needs precision int8 \(--precision\), got fp32"),
        ({"precision": "int8", "preprocess": True}, "cannot be quantized"),
    ],
)
def test_invalid_options(values, message):
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**values)
