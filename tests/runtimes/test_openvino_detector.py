"""OpenVINO files give the detections of the ONNX file that they were made from, alone and in lists."""

import shutil
import subprocess
import sys

import numpy as np
import onnx
import openvino
import pytest

import rtdetr
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.export.openvino import save_ir
from rtdetr.runtimes import openvino_detector, openvino_network
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.openvino_detector import OpenVINODetector
from rtdetr.runtimes.options import LoadOptions
from tests.runtimes.graphs import change_input, make_graph, make_metadata, save_graph
from tests.runtimes.test_onnx_detector import CHANGED, FORMS, PICTURES, foreign


def convert(onnx_file, metadata=None):
    """The `.xml` file beside an `.onnx` file."""
    model = openvino.Core().read_model(onnx_file)
    if metadata is not None:
        model.set_rt_info(metadata.to_json(), "rtdetr")
    path = onnx_file.with_suffix(".xml")
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino")
    found = {}
    for form, changes in FORMS.items():
        metadata = make_metadata(**changes)
        found[form] = convert(save_graph(folder / f"{form}.onnx", metadata), metadata)
    return found


def make_detector(file, **options):
    return OpenVINODetector(file, LoadOptions(**({"precision": "float32", "num_threads": 1} | options)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_onnx_gives(files, form):
    detector = make_detector(files[form])
    other = OnnxDetector(files[form].with_suffix(".onnx"), LoadOptions(num_threads=1))
    results = detector(PICTURES * 3, threshold=0.01, batch_size=4)
    assert len(results) == 15
    for place, (found, pixels) in enumerate(zip(results, PICTURES * 3, strict=True)):
        expected = other(pixels, threshold=0.01)
        alone = detector(pixels, threshold=0.01)
        assert found.image_size_wh == expected.image_size_wh == alone.image_size_wh, place
        assert np.array_equal(found.scores, alone.scores)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3)
    assert detector([]) == []


def test_a_static_batch_is_filled_up(tmp_path):
    metadata = make_metadata()
    detector = make_detector(convert(save_graph(tmp_path / "two.onnx", metadata, batch=2), metadata))
    assert detector.batch_sizes == (2, 2)
    alone = [detector(pixels, threshold=0.0) for pixels in PICTURES]
    for found, expected in zip(detector(PICTURES, threshold=0.0), alone, strict=True):
        assert np.array_equal(found.scores, expected.scores)


def test_a_bad_image_in_a_list_leaves_the_detector_usable(files):
    detector = make_detector(files["boxes"])
    with pytest.raises(InputError, match="image 4 of the list"):
        detector([*PICTURES[:4], np.zeros(5), *PICTURES])
    assert len(detector(PICTURES, threshold=0.0)) == len(PICTURES)


def test_sizes(files):
    with pytest.raises(InputError, match="exported for images of 64x64 only"):
        make_detector(files["boxes"])(PICTURES[0], size_hw=(32, 96))
    assert len(make_detector(files["dynamic"])(PICTURES[0], size_hw=(32, 96), threshold=0.0)) > 0


def test_memory_of_many_sizes_is_freed(files, monkeypatch):
    """The network is compiled again after several input shapes; the detections stay the same."""
    monkeypatch.setattr(openvino_network, "MAX_SHAPES", 2)
    compiled, compile_network = [], openvino_detector._compile
    monkeypatch.setattr(openvino_detector, "_compile", lambda *given: compiled.append(given) or compile_network(*given))
    detector = make_detector(files["dynamic"])
    for count, side in ((1, 32), (1, 64), (1, 32), (2, 96), (2, 64), (2, 96), (3, 32)):
        found = detector(PICTURES[0], size_hw=(side, 32), threshold=0.0)
        assert len(compiled) == count
        fresh = make_detector(files["dynamic"])(PICTURES[0], size_hw=(side, 32), threshold=0.0)
        compiled.pop()
        assert np.array_equal(found.boxes_xyxy, fresh.boxes_xyxy)
    in_graph = make_detector(files["in graph"])
    alone = [in_graph(pixels, threshold=0.0) for pixels in PICTURES]
    compiled.clear()
    for found, expected in zip(in_graph(PICTURES[::-1] + PICTURES, threshold=0.0), alone[::-1] + alone, strict=True):
        np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-4)
    assert len(compiled) == 3  # PICTURES have three shapes, two of which fit at a time


def test_precision_and_description(files):
    assert make_detector(files["boxes"]).description == "mean-color (3 classes) in float32 on CPU (OpenVINO) at 64x64"
    automatic = make_detector(files["boxes"], precision="auto")
    assert automatic.precision in ("float32", "bfloat16", "float16")
    with pytest.raises(ConfigError, match=r"unknown precision 'floats32'\. Did you mean 'float32'\?"):
        make_detector(files["boxes"], precision="floats32")


def test_devices(files):
    with pytest.raises(ConfigError, match=r"OpenVINO has no device 'gpu\.7' here.* Known: auto, cpu"):
        make_detector(files["boxes"], device="gpu.7")


def test_files_that_are_not_models(files, tmp_path):
    path, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    text = files["boxes"].read_text()
    path.write_text(text)
    with pytest.raises(WeightsError, match=r"has no weights: model\.bin must be in the same folder"):
        rtdetr.load(path)
    weights.write_bytes(files["boxes"].with_suffix(".bin").read_bytes()[:40])
    with pytest.raises(
        WeightsError, match=r"model\.xml cannot be read by OpenVINO: it is truncated .*model\.bin: .*Reason: Incorrect"
    ):
        rtdetr.load(path)
    with pytest.raises(WeightsError, match=r"contains the weights of an OpenVINO model: pass .*model\.xml"):
        rtdetr.load(weights)
    shutil.copy(files["boxes"].with_suffix(".bin"), weights)
    for content in (text[: len(text) // 2], "<net/>", "\0\1 random", text.replace("mean-color", "\0")):
        path.write_text(content)
        with pytest.raises(
            WeightsError, match=r"model\.xml (cannot be read by OpenVINO|.* is damaged|is not an OpenVINO model)"
        ):
            rtdetr.load(path)
    with pytest.raises(WeightsError, match="no such OpenVINO file"):
        rtdetr.load(tmp_path / "none.xml")


def test_files_of_other_models(tmp_path):
    foreign(tmp_path / "other.onnx")
    with pytest.raises(WeightsError, match=r"is not a supported RT-DETR model"):
        rtdetr.load(convert(tmp_path / "other.onnx"))
    published = convert(save_graph(tmp_path / "published.onnx", described=False))
    with pytest.raises(WeightsError, match="does not name its classes"):
        rtdetr.load(published)
    assert rtdetr.load(published, categories=rtdetr.VOC20, num_threads=1).names[1] == "bicycle"


@pytest.mark.parametrize("change", CHANGED)
def test_inputs_are_converted_to_the_types_of_the_graph(files, change, tmp_path):
    metadata = make_metadata()
    onnx.save(change_input(make_graph(metadata), *CHANGED[change]), tmp_path / "model.onnx")
    found = make_detector(convert(tmp_path / "model.onnx", metadata))(PICTURES, threshold=0.0)
    for one, expected in zip(found, make_detector(files["boxes"])(PICTURES, threshold=0.0), strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, expected.boxes_xyxy, atol=0.1)
    onnx.save(change_input(make_graph(metadata), "images", onnx.TensorProto.UINT8), tmp_path / "bytes.onnx")
    with pytest.raises(WeightsError, match="input images has the type uint8"):
        make_detector(convert(tmp_path / "bytes.onnx", metadata))


def test_weights_of_another_export_are_refused(tmp_path):
    """The files have the same network and sizes, and differ only in the content of the .bin."""
    for name in ("one", "two"):
        onnx_file = save_graph(tmp_path / f"{name}.onnx")
        save_ir(openvino.Core().read_model(onnx_file), tmp_path / f"{name}.xml", metadata=make_metadata(), half=False)
    weights = bytearray((tmp_path / "two.bin").read_bytes())
    weights[100] ^= 1
    (tmp_path / "two.bin").write_bytes(weights)
    assert make_detector(tmp_path / "one.xml").names == ("bolt", "nut", "washer")
    shutil.copy(tmp_path / "two.bin", tmp_path / "one.bin")
    with pytest.raises(WeightsError, match=r"one\.xml and one\.bin are not from the same export"):
        make_detector(tmp_path / "one.xml")


def test_a_signal_after_detectors_are_deleted_is_handled(tmp_path):
    metadata = make_metadata()
    file = convert(save_graph(tmp_path / "graph.onnx", metadata), metadata)
    script = (
        "import gc, signal, sys, rtdetr\n"
        "first, second = rtdetr.load(sys.argv[1]), rtdetr.load(sys.argv[1])\n"
        "del first; gc.collect()\n"
        "del second; gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
