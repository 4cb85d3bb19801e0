"""The ONNX graph gives the outputs of the network in ONNX Runtime, with every combination of options."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torchvision.ops import batched_nms

from rtdetr.categories import Categories
from rtdetr.errors import ConfigError, ExportError
from rtdetr.export import Source, export
from rtdetr.export.job import make_job, prepared
from rtdetr.export.onnx import build_onnx, write_onnx
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.options import ExportOptions
from rtdetr.models import build_model, postprocess
from rtdetr.preprocessing import preprocess
from rtdetr.runtimes.metadata import KEY, ExportMetadata
from rtdetr.zoo import model_config
from tests.export.varied_model import assert_same_detections, assert_same_queries, varied_model

FREE = {"dynamic_batch": True, "dynamic_size": True}
# what a graph without GridSample may ask of an engine
GATHER_OPERATORS = set(
    "Abs Add AveragePool Cast Clip Concat Conv Div Equal Erf Floor Gather Gemm MatMul Max MaxPool Min Mod Mul "
    "ReduceMax ReduceMean Relu Reshape Resize Sigmoid Softmax Split Sqrt Sub TopK Transpose Where".split()
)


@pytest.fixture(scope="module")
def model():
    return varied_model()


def built(model, **values):
    options = ExportOptions(**values)
    network = prepared(model, options)
    proto = build_onnx(network, options)
    onnx.checker.check_model(proto, full_check=True)
    return network, proto


def session(proto):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def check_raw(network, running, images, *, atol=1e-4):
    with torch.inference_mode():
        expected = network(images)[:2]
    assert_same_queries(running.run(None, {"images": images.numpy()}), expected, atol=atol)


def check_boxes(network, running, images, *, atol=1e-5):
    sizes = torch.tensor([[1280, 720], [1, 1], [99, 640], [640, 640]]).repeat(2, 1)[: len(images)]
    with torch.inference_mode():
        expected = postprocess(*network(images)[:2], sizes_wh=sizes)
    found = running.run(None, {"images": images.numpy(), "orig_target_sizes": sizes.numpy()})
    assert_same_detections(found, expected, atol=atol)


def test_fixed_form(model):
    network, proto = built(model)
    running = session(proto)
    check_boxes(network, running, torch.rand(1, 3, 64, 64))
    assert [(x.name, x.type, x.shape) for x in running.get_inputs()] == [
        ("images", "tensor(float)", [1, 3, 64, 64]),
        ("orig_target_sizes", "tensor(int64)", [1, 2]),
    ]
    assert [(x.name, x.type, x.shape) for x in running.get_outputs()] == [
        ("labels", "tensor(int64)", [1, 300]),
        ("boxes", "tensor(float)", [1, 300, 4]),
        ("scores", "tensor(float)", [1, 300]),
    ]


@pytest.mark.parametrize("values", [{}, FREE, {"gather_only": True}, {"precision": "fp16"}])
def test_separate_convolutions_compute_the_same(model, values):
    options = ExportOptions(postprocess="raw", **values)
    network = prepared(model, options)
    images = {"images": np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)}
    protos = [build_onnx(network, options, merge_convolutions=merge) for merge in (True, False)]
    merged, separate = (session(proto).run(None, images) for proto in protos)
    tolerance = 2e-2 if values.get("precision") else 1e-5
    for one, other in zip(merged, separate, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
    maps = [{name for node in proto.graph.node if node.op_type == "Conv" for name in node.output} for proto in protos]
    assert not any(node.op_type == "Split" and node.input[0] in maps[1] for node in protos[1].graph.node)
    assert len(maps[1]) > len(maps[0])


@pytest.mark.parametrize("gather_only", [False, True])
def test_any_batch_and_size(model, gather_only):
    network, proto = built(model, **FREE, gather_only=gather_only)
    running = session(proto)
    rng = np.random.default_rng(0)
    shapes = [(1, 64, 64), (8, 64, 64), (1, 32, 64), *rng.integers((1, 1, 2), (4, 6, 6), (5, 3)) * (1, 32, 32)]
    for batch, height, width in shapes:
        check_boxes(network, running, torch.rand(int(batch), 3, int(height), int(width)))


@pytest.mark.parametrize("opset", [13, 16, 17, 18, 20])
def test_operator_sets(model, opset):
    network, proto = built(model, opset=opset, postprocess="raw")
    check_raw(network, session(proto), torch.rand(1, 3, 64, 64))
    assert proto.opset_import[0].version == opset
    kinds = {node.op_type for node in proto.graph.node}
    assert ("LayerNormalization" in kinds) == (opset >= 17)
    assert ("GridSample" in kinds) == (opset >= 16)
    assert ("Gelu" in kinds) == (opset >= 20)


@pytest.mark.parametrize(
    "values",
    [
        {"sampling": "discrete", **FREE},
        {"num_layers": 1, "num_queries": 5},
        {"size_hw": (96, 32)},
        {"dynamic_batch": True, "opset": 13},
        {"dynamic_size": True},
    ],
)
def test_other_forms(model, values):
    network, proto = built(model, **values)
    size = values.get("size_hw", (64, 64))
    check_boxes(network, session(proto), torch.rand(3 if values.get("dynamic_batch") else 1, 3, *size))


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "v1"},
        {"pixel_mean": (0.5, 0.4, 0.3), "pixel_std": (0.2, 0.3, 0.2)},
        {"in_channels": 5},
        {"decoder": {"query_selection": "one2many"}},
        {"decoder": {"query_selection": "agnostic"}},
        {"decoder": {"learned_queries": True}},
        {"decoder": {"num_points": (1, 3, 2, 2, 1)}},
        {"decoder": {"activation": "silu", "query_pos_widths": (16, 16)}},
        {"encoder": {"num_layers": 2, "expansion": 1.0}},
        {"backbone": {"kind": "presnet", "depth": 50, "blocks": (1, 1, 1, 1), "base_width": 16, "freeze_norm": True}},
    ],
)
@pytest.mark.parametrize("form", [{}, pytest.param({**FREE, "gather_only": True}, marks=pytest.mark.slow)])
def test_other_networks(changes, form):
    model = varied_model(model_config("test-tiny").replace(**changes))
    network, proto = built(model, **form, postprocess="raw")
    check_raw(network, session(proto), torch.rand(2 if form else 1, model.config.in_channels, 64, 64))


@pytest.mark.parametrize("use_lab", [pytest.param(False, marks=pytest.mark.slow), True])
def test_hgnet(use_lab):
    config = model_config("test-tiny").replace(backbone={"kind": "hgnetv2", "size": "L", "use_lab": use_lab})
    network, proto = built(varied_model(config), postprocess="raw")
    check_raw(network, session(proto), torch.rand(1, 3, 64, 64))


def test_float16(model):
    # as many queries as tokens, because rounded scores select others
    network, proto = built(model, precision="fp16", num_queries=84, postprocess="raw")
    running = session(proto)
    check_raw(network, running, torch.rand(1, 3, 64, 64), atol=0.05)
    assert [x.type for x in (*running.get_inputs(), *running.get_outputs())] == ["tensor(float)"] * 3
    weights = [x for x in proto.graph.initializer if x.name.endswith("weight")]
    assert len(weights) > 50 and {x.data_type for x in weights} == {onnx.TensorProto.FLOAT16}
    grids = {node.input[1] for node in proto.graph.node if node.op_type == "GridSample"}
    inferred = {x.name: x.type.tensor_type for x in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    assert {inferred[name].elem_type for name in grids} == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("precision", "message"),
    [("bf16", "expected fp32, fp16 or int8 for format onnx.* no bfloat16"), ("int8", "images to calibrate on")],
)
def test_unsupported_precisions(model, tmp_path, precision, message):
    with pytest.raises(ConfigError, match=message):
        export(model, tmp_path / "model.onnx", options=ExportOptions(precision=precision))


@pytest.mark.parametrize("values", [{}, FREE, {"precision": "fp16"}, {"precision": "fp16", **FREE}])
def test_constants_are_finite_and_fit_16_bits(model, values):
    _, proto = built(model, **values)
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert np.isfinite(array).all() and np.abs(array).max(initial=0) <= 65504, tensor.name


def test_graph_for_engines_without_grid_sample(model):
    for values in ({"opset": 13}, {"opset": 13, "sampling": "discrete"}, {"opset": 13, "postprocess": "raw"}):
        _, proto = built(model, **values)
        assert {node.op_type for node in proto.graph.node} <= GATHER_OPERATORS
        graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True).graph
        ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in (*graph.value_info, *graph.output)}
        assert all(name in ranks for node in graph.node for name in node.output)
        assert max(ranks.values()) <= 4
        assert max(len(x.dims) for x in graph.initializer) <= 4


def test_number_of_operators():
    model = build_model("rtdetrv2_r18vd")
    counts = {}
    for name, values in {"fixed": {}, "free": FREE}.items():
        options = ExportOptions(**values)
        counts[name] = len(build_onnx(prepared(model, options), options).graph.node)
    assert counts["fixed"] < 420 and counts["free"] < 500, counts


@pytest.mark.parametrize("size_hw", [(1, 1), (33, 50), (200, 121), (64, 64)])
def test_an_image_of_any_size(model, size_hw):
    network, proto = built(model, preprocess=True)
    picture = np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    with torch.inference_mode():
        logits, boxes = network(torch.from_numpy(preprocess(picture, (64, 64)))[None])[:2]
    expected = postprocess(logits, boxes, sizes_wh=torch.tensor([[size_hw[1], size_hw[0]]]))
    running = session(proto)
    assert [(x.name, x.type) for x in running.get_inputs()] == [("images", "tensor(uint8)")]
    assert_same_detections(running.run(None, {"images": picture[None]}), expected, atol=2e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 300), (300, 1), (640, 480), (479, 641), (123, 77), (64, 96)])
def test_resize_is_that_of_the_library(size_hw):
    from rtdetr.export.onnx.processing import resize

    g = GraphBuilder(opset=13)
    images, _ = resize(g, "images", (64, 96))
    g.op("Identity", images, name="out")
    value = onnx.helper.make_tensor_value_info
    proto = g.model(
        inputs=[value("images", onnx.TensorProto.UINT8, (1, "h", "w", 3))],
        outputs=[value("out", onnx.TensorProto.FLOAT, (1, 3, 64, 96))],
        name="resize",
    )
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)
    (found,) = session(proto).run(None, {"images": picture[None]})
    assert np.abs(found[0] - preprocess(picture, (64, 96))).max() < 1.001 / 255


@pytest.mark.parametrize("values", [FREE, {"opset": 13}, {"precision": "fp16", "num_queries": 84}])
def test_the_best_class_of_each_query(model, values):
    network, proto = built(model, one_label=True, **values)
    kinds = {node.op_type for node in proto.graph.node}
    assert "opset" not in values or kinds <= GATHER_OPERATORS
    batch = 3 if values.get("dynamic_batch") else 1
    images, sizes = torch.rand(batch, 3, 64, 64), torch.tensor([[1280, 720]]).repeat(batch, 1)
    found = session(proto).run(None, {"images": images.numpy(), "orig_target_sizes": sizes.numpy()})
    with torch.inference_mode():
        expected = postprocess(*network(images)[:2], sizes_wh=sizes, one_label=True)
    assert found[0].shape == (batch, network.num_queries) and found[0].dtype == np.int64
    if "precision" in values:  # its rounded scores give queries other classes
        np.testing.assert_allclose(np.sort(found[2]), np.sort(expected[2]), atol=0.05)
    else:
        assert_same_detections(found, expected, atol=1e-5)


def test_nms():
    model = varied_model(num_classes=2)
    with torch.no_grad():
        model.decoder.dec_bbox_head[-1].layers[-1].bias[2:] += 2  # anchors do not overlap
    network, proto = built(model, nms_iou=0.3, dynamic_batch=True)
    images, sizes = torch.rand(2, 3, 64, 64), torch.tensor([[640, 480], [50, 700]])
    feeds = {"images": images.numpy(), "orig_target_sizes": sizes.numpy()}
    labels, boxes, scores = session(proto).run(None, feeds)
    with torch.inference_mode():
        expected = postprocess(*network(images)[:2], sizes_wh=sizes)
    suppressed = 0
    for i in range(2):
        one = [torch.from_numpy(x[i]) for x in (boxes, scores, labels)]
        all_scores = expected[2][i]
        kept = torch.zeros(len(all_scores), dtype=torch.bool)
        kept[batched_nms(expected[1][i], all_scores, expected[0][i], 0.3)] = True
        np.testing.assert_allclose(np.sort(scores[i]), np.sort(torch.where(kept, all_scores, 0.0).numpy()), atol=1e-5)
        suppressed += int((one[1] == 0).sum())
    assert 20 < suppressed < 2 * scores.shape[1] - 20, suppressed


def test_values_have_the_names_of_modules(model):
    _, proto = built(model)
    names = {name for node in proto.graph.node for name in node.output}
    for name in ("backbone.conv1.conv1_1", "backbone.res_layers.3", "encoder.pan_blocks.1", "encoder.encoder.0"):
        assert name in names
    assert {"decoder.enc_score_head", "decoder.decoder.layers.1", "decoder.dec_score_head.1"} <= names


def test_file_and_metadata(model, tmp_path):
    metadata = ExportMetadata(
        model="test-tiny", names=tuple("ab"), category_ids=(1, 2), thresholds=(0.1, 0.2), library_version="1"
    )
    path = tmp_path / "deep" / "model.onnx"
    job = make_job(Source(model, Categories.numbered(80)), ExportOptions())
    num_nodes = write_onnx(job._replace(metadata=metadata), path)
    proto = onnx.load(path)
    stored = {x.key: x.value for x in proto.metadata_props}
    assert ExportMetadata.from_json(stored[KEY], source=path) == metadata
    assert num_nodes == len(proto.graph.node)
    assert [x.name for x in path.parent.iterdir()] == ["model.onnx"]


def test_unknown_opset(model):
    with pytest.raises(ExportError, match="opsets up to"):
        built(model, opset=99)


def test_unknown_module(model):
    network = prepared(model, ExportOptions())
    network.decoder.enc_output[1] = torch.nn.Tanh()
    with pytest.raises(ExportError, match=r"decoder\.enc_output.*Tanh"):
        build_onnx(network, ExportOptions())


@pytest.mark.slow
@pytest.mark.parametrize("gather_only", [False, True])
def test_r18_free_form(gather_only):
    network, proto = built(varied_model("rtdetrv2_r18vd"), **FREE, gather_only=gather_only)
    running = session(proto)
    for batch, size in ((1, (640, 640)), (3, (480, 800)), (8, (640, 640)), (1, (480, 800))):
        check_boxes(network, running, torch.rand(batch, 3, *size))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rtdetrv2_r34vd", "rtdetrv2_r101vd", "rtdetrv2_hgnetv2_l", "rtdetr_r50vd", "deim_rtdetrv2_r50vd_m"]
)
def test_other_sizes(name):
    network, proto = built(varied_model(name), size_hw=(256, 320), postprocess="raw")
    check_raw(network, session(proto), torch.rand(1, 3, 256, 320), atol=1e-3)


@pytest.mark.slow
def test_checked_export_of_a_trained_model(tmp_path):
    from tests.export.trained import CATEGORIES, sample_images, trained_model

    images, _ = sample_images()
    source = Source(trained_model(), CATEGORIES)
    for number, values in enumerate(
        (
            {},
            FREE,
            {"precision": "fp16"},
            {"opset": 13},
            {"preprocess": True},
            {"postprocess": "raw"},
            {"nms_iou": 0.7},
            {"one_label": True},
        )
    ):
        path = tmp_path / f"{number}.onnx"
        result = export(source, path, options=ExportOptions(**values), check=True, images=images)
        assert result.report.agreement.num_reference >= 9 and result.report.passed
    assert math.isclose(result.report.agreement.matched_share, 1.0)
