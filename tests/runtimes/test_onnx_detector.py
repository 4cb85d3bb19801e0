"""Every form of graph gives the same detections, and invalid files are refused with an error on one line."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

import rtdetr
from rtdetr.categories import VOC20, Categories
from rtdetr.detections import Detector
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.options import LoadOptions
from tests.runtimes.graphs import (
    CLASSES,
    QUERIES,
    SIZE,
    change_input,
    expected_logits,
    make_graph,
    make_metadata,
    save_graph,
)

FORMS = {
    "boxes": {},
    "dynamic": {"dynamic_batch": True, "dynamic_size": True},
    "raw": {"postprocess": "raw", "dynamic_batch": True},
    "static raw": {"postprocess": "raw"},
    "in graph": {"preprocess": "in_graph"},
}


def picture(color, height=40, width=60):
    return np.full((height, width, 3), color, np.uint8)


PICTURES = [picture((200, 90, 10)), picture((5, 250, 30), 20, 33), picture((9, 9, 200), 1, 1), picture(0), picture(255)]


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    files = {form: save_graph(folder / f"{form}.onnx", make_metadata(**changes)) for form, changes in FORMS.items()}
    return {form: OnnxDetector(file, LoadOptions(num_threads=1)) for form, file in files.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(detectors, form):
    detector = detectors[form]
    assert isinstance(detector, Detector)
    assert (detector.names, detector.categories.ids) == (("bolt", "nut", "washer"), [4, 9, 2])
    for pixels in PICTURES:
        found = detector(pixels, threshold=0.0, max_detections=QUERIES)
        scores = 1 / (1 + np.exp(-expected_logits(pixels).reshape(-1)))
        best = np.argsort(-scores)[:QUERIES]
        np.testing.assert_allclose(found.scores, scores[best], atol=1e-4)
        if len(set(scores[best[:4]])) == 4:  # of equal ones the order is open
            assert np.array_equal(found.labels[:3], best[:3] % CLASSES)
        assert found.image_size_wh == (pixels.shape[1], pixels.shape[0])
        expected = detectors["raw"](pixels, threshold=0.0, max_detections=QUERIES)
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_lists_are_images_one_by_one(detectors, form):
    detector = detectors[form]
    expected = [detector(one, threshold=0.3) for one in PICTURES]
    for batch_size in (1, 3, 8):
        results = detector(PICTURES, threshold=0.3, batch_size=batch_size)
        for found, alone in zip(results, expected, strict=True):
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
            assert found.image_size_wh == alone.image_size_wh
    assert detector([]) == []


def test_a_static_batch_is_filled_up(detectors, tmp_path):
    detector = OnnxDetector(save_graph(tmp_path / "four.onnx", batch=4), LoadOptions(num_threads=1))
    assert detector.batch_sizes == (4, 4)
    for count in (1, 4, 5):
        results = detector(PICTURES[:count], threshold=0.0, batch_size=2)
        for found, pixels in zip(results, PICTURES[:count], strict=True):
            np.testing.assert_allclose(found.scores, detectors["boxes"](pixels, threshold=0.0).scores, atol=1e-5)


def test_sizes(detectors, monkeypatch):
    with pytest.raises(InputError, match=r"exported for images of 64x64 only, got 32x96; export it with: --dynamic"):
        detectors["boxes"](PICTURES[0], size_hw=(32, 96))
    with pytest.raises(InputError, match="multiples of 32"):
        detectors["dynamic"](PICTURES[0], size_hw=(50, 64))
    assert len(detectors["dynamic"](PICTURES[0], size_hw=(32, 96), threshold=0.0)) == QUERIES
    monkeypatch.setattr(detectors["dynamic"], "metadata", make_metadata(dynamic_size=True, num_queries=64))
    with pytest.raises(InputError, match="with 64 queries, and images of 32x96 have only 63 tokens"):
        detectors["dynamic"](PICTURES[0], size_hw=(32, 96))
    assert len(detectors["boxes"](PICTURES[0], size_hw=(SIZE, SIZE), threshold=0.0)) == QUERIES


def test_options_of_the_selection(tmp_path):
    file = save_graph(tmp_path / "model.onnx", make_metadata(thresholds=(0.2, 0.9, 0.5)))
    whole = OnnxDetector(file)(PICTURES[0], threshold=0.0)
    assert len(OnnxDetector(file)(PICTURES[0], threshold=0.0, max_detections=2)) == 2
    found = OnnxDetector(file)(PICTURES[0], threshold="auto")
    assert np.array_equal(found.scores, whole.scores[whole.scores > np.array([0.2, 0.9, 0.5])[whole.labels]])
    single = OnnxDetector(file, LoadOptions(one_label=True))(PICTURES[0], threshold=0.0)
    assert len(np.unique(whole.boxes_xyxy, axis=0)) == len(single) < len(whole)
    file = save_graph(tmp_path / "raw.onnx", make_metadata(postprocess="raw"))
    whole = OnnxDetector(file)(PICTURES[0], threshold=0.0)
    assert (
        CLASSES
        < len(OnnxDetector(file, LoadOptions(nms_iou=0.0))(PICTURES[0], threshold=0.0))
        < len(whole)
        == QUERIES * CLASSES
    )


def test_description_and_precision(detectors, tmp_path):
    expected = "mean-color (3 classes) in float32 on CPU (ONNX Runtime) at 64x64"
    assert repr(detectors["boxes"]) == f"OnnxDetector: {expected}"
    file = save_graph(tmp_path / "half.onnx", make_metadata(precision="float16"))
    assert "in float16 on" in OnnxDetector(file, LoadOptions(precision="float16")).description
    with pytest.raises(ConfigError, match="exported in float16 and runs only in this precision, got 'float32'"):
        OnnxDetector(file, LoadOptions(precision="float32"))


def test_a_release_that_computes_float16_wrongly(tmp_path, monkeypatch):
    monkeypatch.setattr("onnxruntime.__version__", "1.18.1")
    half = save_graph(tmp_path / "half.onnx", make_metadata(precision="float16"))
    with pytest.raises(ConfigError, match=r"gives wrong results in ONNX Runtime 1\.18\.1; run: pip install"):
        OnnxDetector(half)
    assert OnnxDetector(save_graph(tmp_path / "full.onnx", make_metadata())).precision == "float32"


def test_a_graph_exported_with_one_label_is_used_unchanged(tmp_path):
    file = save_graph(tmp_path / "model.onnx", make_metadata(one_label=True))
    detector = rtdetr.load(file)  # this graph gives pairs all the same, so that a second choice would show
    assert detector.one_label and detector.metadata.one_label
    assert len(detector(PICTURES[0], threshold=0.0)) == QUERIES


def test_devices(tmp_path):
    file = save_graph(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="unknown device 'gpu' for ONNX Runtime"):
        OnnxDetector(file, LoadOptions(device="gpu"))
    with pytest.raises(ConfigError, match="device 'cuda:1' is not available"):
        OnnxDetector(file, LoadOptions(device="cuda:1"))


def test_a_published_file_needs_class_names(tmp_path):
    file = save_graph(tmp_path / "published.onnx", described=False)
    with pytest.raises(WeightsError, match=r"does not name its classes.* --classes coco.* categories=rtdetr\.COCO80"):
        rtdetr.load(file)
    detector = rtdetr.load(file, categories=VOC20)
    assert (detector.names[0], detector.size_hw, detector.batch_sizes) == ("aeroplane", (SIZE, SIZE), (1, 1))
    assert len(detector(PICTURES, threshold=0.0)[0]) == QUERIES
    for classes in (["bolt", "nut", "washer"], {0: "bolt", 1: "nut", 2: "washer"}):
        assert rtdetr.load(file, categories=classes).names == ("bolt", "nut", "washer")
    (tmp_path / "names.txt").write_text("bolt\nnut\nwasher\n")
    assert rtdetr.load(file, categories=tmp_path / "names.txt").names[2] == "washer"
    with pytest.raises(InputError, match="contains class 2, but it has only 1 class name"):
        rtdetr.load(file, categories=Categories.numbered(1))(PICTURES[0])


def foreign(path):
    """A sound ONNX file of some other model."""
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["data"], ["probabilities"])
    floats = onnx.TensorProto.FLOAT
    ends = [info("data", floats, [1, 3])], [info("probabilities", floats, [1, 3])]
    graph = onnx.helper.make_graph([node], "other", *ends)
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def test_files_that_are_not_models(tmp_path):
    path = tmp_path / "model.onnx"
    whole = make_graph(make_metadata()).SerializeToString()
    for content in (b"random bytes" * 50, whole[:100], whole[: len(whole) // 2], whole[:-30], b"\0" * 99):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"model\.onnx (cannot be read by ONNX Runtime|is not|is damaged)"):
            rtdetr.load(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="is empty"):
        rtdetr.load(path)
    with pytest.raises(WeightsError, match="no such ONNX file"):
        rtdetr.load(tmp_path / "none.onnx")
    foreign(path)
    with pytest.raises(WeightsError, match=r"is not a supported RT-DETR model.* got data and probabilities"):
        rtdetr.load(path)


def test_a_description_of_another_graph(tmp_path):
    model = make_graph(make_metadata())
    for text, message in (
        (make_metadata(postprocess="raw").to_json(), "expected the inputs images and"),
        ("{", "metadata .* is damaged"),
        ('{"format_version": 9}', "upgrade rtdetr"),
        (
            make_metadata(size_hw=(96, 64)).to_json(),
            r"shape \(any, 3, 96, 64\) of its metadata .* got \(1, 3, 64, 64\)",
        ),
        (make_metadata(in_channels=4).to_json(), r"shape \(any, 4, 64, 64\) of its metadata"),
    ):
        onnx.helper.set_model_props(model, {"rtdetr": text})
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(WeightsError, match=message):
            rtdetr.load(tmp_path / "model.onnx")


CHANGED = {
    "sizes in int32": ("orig_target_sizes", TensorProto.INT32),
    "sizes in float32": ("orig_target_sizes", TensorProto.FLOAT),
    "images in float16": ("images", TensorProto.FLOAT16),
    "images in float64": ("images", TensorProto.DOUBLE),
}


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("change", CHANGED)
def test_inputs_are_converted_to_the_types_of_the_graph(detectors, change, described, tmp_path):
    model = change_input(make_graph(make_metadata(), described=described), *CHANGED[change])
    onnx.save(model, tmp_path / "model.onnx")
    found = rtdetr.load(tmp_path / "model.onnx", categories=make_metadata().categories)(PICTURES, threshold=0.0)
    for one, expected in zip(found, detectors["boxes"](PICTURES, threshold=0.0), strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, expected.boxes_xyxy, atol=0.1)
        np.testing.assert_allclose(one.scores, expected.scores, atol=0.01)


@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("images", TensorProto.UINT8, "input images has the type uint8, expected float32 or float16 or float64 for"),
        ("images", TensorProto.INT32, "for uint8 use: rtdetr export --preprocess"),
        ("orig_target_sizes", TensorProto.INT8, "input orig_target_sizes has the type int8, expected int64 or int32"),
    ],
)
def test_unsupported_input_types_are_refused_when_loading(name, kind, said, described, tmp_path):
    onnx.save(change_input(make_graph(make_metadata(), described=described), name, kind), tmp_path / "model.onnx")
    with pytest.raises(WeightsError, match=rf"model\.onnx cannot run: .*{said}"):
        rtdetr.load(tmp_path / "model.onnx", categories=make_metadata().categories)


def test_outputs_of_another_type(detectors, tmp_path):
    model = make_graph(make_metadata())
    for port, kind in zip(
        model.graph.output, (TensorProto.INT32, TensorProto.DOUBLE, TensorProto.FLOAT16), strict=True
    ):
        for node in model.graph.node:
            node.output[:] = [f"{port.name} of before" if one == port.name else one for one in node.output]
        model.graph.node.append(onnx.helper.make_node("Cast", [f"{port.name} of before"], [port.name], to=kind))
        port.type.tensor_type.elem_type = kind
    onnx.save(model, tmp_path / "model.onnx")
    found = OnnxDetector(tmp_path / "model.onnx")(PICTURES[0], threshold=0.0)
    expected = detectors["boxes"](PICTURES[0], threshold=0.0)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    assert np.array_equal(found.labels, expected.labels) and found.labels.dtype == expected.labels.dtype


def test_dynamic_axes_fixed_by_another_tool(detectors, tmp_path):
    free = make_metadata(dynamic_batch=True, dynamic_size=True)
    model = change_input(make_graph(free), "images", TensorProto.FLOAT, sides=(2, 3, 32, 96))
    onnx.save(model, tmp_path / "model.onnx")
    detector = rtdetr.load(tmp_path / "model.onnx")
    assert (detector.size_hw, detector.batch_sizes) == ((32, 96), (2, 2))
    assert (detector.metadata.dynamic_size, detector.metadata.dynamic_batch) == (False, False)
    found = detector(PICTURES, threshold=0.0)
    for one, expected in zip(found, detectors["dynamic"](PICTURES, threshold=0.0, size_hw=(32, 96)), strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    with pytest.raises(InputError, match="exported for images of 32x96 only"):
        detector(PICTURES[0], size_hw=(64, 64))
    many = make_metadata(dynamic_size=True, num_queries=64)
    onnx.save(change_input(make_graph(many), "images", TensorProto.FLOAT, sides=(1, 3, 32, 96)), tmp_path / "few.onnx")
    with pytest.raises(WeightsError, match=r"few\.onnx cannot run: .* fixed to 32x96, which has 63 tokens for 64"):
        rtdetr.load(tmp_path / "few.onnx")


def test_files_in_the_format_of_onnx_runtime(detectors, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(save_graph(tmp_path / "model.onnx")), options, providers=["CPUExecutionProvider"])
    found = rtdetr.load(tmp_path / "model.ort")(PICTURES[0], threshold=0.0)
    expected = detectors["boxes"](PICTURES[0], threshold=0.0)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    assert found.names == ("bolt", "nut", "washer")


def test_metadata_that_is_not_text(tmp_path):
    path = tmp_path / "model.onnx"
    content = make_graph(make_metadata()).SerializeToString()
    path.write_bytes(content.replace(b"mean-color", b"mean\xffcolor"))
    with pytest.raises(WeightsError, match=r"model\.onnx cannot be read by ONNX Runtime"):
        rtdetr.load(path)


def test_a_graph_that_fails_while_it_runs(tmp_path):
    graph = make_graph(make_metadata(dynamic_batch=True))
    tensor = next(one for one in graph.graph.initializer if one.name == "s1")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([-1, QUERIES + 1, CLASSES]), "s1"))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(WeightsError, match=r"mean-color .* failed: "):
        OnnxDetector(tmp_path / "model.onnx")(PICTURES[0])


def test_damaged_weights_are_distinguished_from_no_detections(tmp_path):
    graph = make_graph(make_metadata(postprocess="raw"))
    tensor = next(one for one in graph.graph.initializer if one.name == "score_weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((3, QUERIES * CLASSES), np.nan, np.float32), "score_weight"))
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(WeightsError, match="contains NaN or infinity"):
        OnnxDetector(tmp_path / "model.onnx")(PICTURES[0])


def test_a_description_of_another_graph_is_refused(tmp_path):
    """The metadata of a file must agree with its graph."""
    fewer = make_metadata(postprocess="raw", names=("bolt", "nut"), category_ids=(4, 9))
    graph = make_graph(make_metadata(postprocess="raw"))
    graph.graph.output[0].type.tensor_type.shape.dim[2].dim_value = CLASSES
    onnx.helper.set_model_props(graph, {"rtdetr": fewer.to_json()})
    onnx.save(graph, tmp_path / "fewer.onnx")
    with pytest.raises(WeightsError, match=r"fewer\.onnx is damaged: .* 2 classes, but the graph has 3"):
        OnnxDetector(tmp_path / "fewer.onnx")


def test_placeholder_class_names_are_replaced(tmp_path):
    file = save_graph(tmp_path / "m.onnx", make_metadata(names=("id 0", "id 1", "id 2"), category_ids=(0, 1, 2)))
    detector = rtdetr.load(file, categories={1: "nut", 2: "washer"})
    assert (detector.names, detector.category_ids) == (("id 0", "nut", "washer"), (0, 1, 2))


def test_classes_of_a_file_that_names_its_own(tmp_path):
    file = save_graph(tmp_path / "named.onnx")
    assert rtdetr.load(file, categories=make_metadata().categories).names == ("bolt", "nut", "washer")
    with pytest.raises(ConfigError, match=r"named\.onnx already names its 3 classes, with other names\. Omit"):
        rtdetr.load(file, categories=VOC20)
