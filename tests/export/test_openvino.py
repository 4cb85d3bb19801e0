"""OpenVINO files: the same detections with static and dynamic axes in every precision, and the metadata."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtdetr.detections import Detections
from rtdetr.errors import ConfigError, ExportError
from rtdetr.export import ExportOptions, Source, export
from rtdetr.export.verify import TOLERANCES, verify
from rtdetr.models import build_model
from rtdetr.runtimes import load
from rtdetr.runtimes.torch_detector import TorchDetector
from tests.export.trained import CATEGORIES, SIZE, sample_images, trained_detector, trained_model
from tests.export.varied_model import assert_same_detections, varied_model


def exported(model, path: Path, **settings):
    source = Source(model, CATEGORIES, license='"a" & <b> é')
    return export(source, path, options=ExportOptions(format="openvino", **settings))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return exported(build_model("test-tiny", num_classes=3), tmp_path_factory.mktemp("ir") / "tiny.xml")


def test_the_description_survives(tiny) -> None:
    detector = load(tiny.path, device="cpu")
    assert detector.metadata == tiny.metadata  # pyright: ignore[reportAttributeAccessIssue]
    assert detector.categories == CATEGORIES
    assert tiny.size_bytes == sum(file.stat().st_size for file in tiny.path.parent.glob("tiny.*"))
    assert sorted(file.name for file in tiny.path.parent.iterdir()) == ["tiny.bin", "tiny.xml"]


def test_an_empty_and_a_one_pixel_image(tiny) -> None:
    detector = load(tiny.path, device="cpu")
    black = Image.new("RGB", (31, 17))
    found = detector([black, np.zeros((1, 1, 3), np.uint8)], threshold=0.9)
    assert isinstance(found, list) and [len(one) for one in found] == [0, 0]


def test_the_best_class_of_each_query(tmp_path) -> None:
    model = varied_model(num_classes=3)
    detector = load(exported(model, tmp_path / "one.xml", one_label=True).path, precision="float32")
    reference = TorchDetector(model, CATEGORIES, device="cpu", precision="float32", one_label=True)
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found, expected = detector(picture, threshold=0.0), reference(picture, threshold=0.0)
    assert isinstance(found, Detections) and isinstance(expected, Detections)
    assert detector.metadata.one_label and len(found) == len(expected) == 30  # queries
    assert_same_detections(*([[x.labels], [x.boxes_xyxy], [x.scores]] for x in (found, expected)), atol=1e-4)


def test_unsupported_options_are_refused(tmp_path) -> None:
    model = build_model("test-tiny", num_classes=3)
    with pytest.raises(ConfigError, match="INT8 needs images to calibrate on"):
        exported(model, tmp_path / "a.xml", precision="int8")
    with pytest.raises(ConfigError, match=r"expected a name ending in \.xml for format openvino"):
        exported(model, tmp_path / "a.onnx")
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write"):
        exported(model, tmp_path / "file" / "a.xml")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_same_detections_as_pytorch(tmp_path, precision, dynamic) -> None:
    result = exported(
        trained_model(), tmp_path / "model.xml", precision=precision, dynamic_batch=dynamic, dynamic_size=dynamic
    )
    tolerance = TOLERANCES[precision]
    if precision != "fp32":  # at sizes that the model was not trained at, scores rise steeply
        tolerance = dataclasses.replace(tolerance, score=0.05)
    report = verify(result.path, trained_detector(), images=sample_images()[0], tolerance=tolerance, threshold=0.5)
    assert report.passed, report.reason
    assert report.agreement.num_reference >= 9 and report.num_nodes == result.num_nodes
    assert report.size_bytes == result.size_bytes


@pytest.mark.slow
@pytest.mark.parametrize("size_hw", [(64, 64), (SIZE, SIZE), (96, 160), (224, 64)])
def test_dynamic_axes_accept_any_size_and_batch(tmp_path, size_hw) -> None:
    result = exported(trained_model(), tmp_path / "model.xml", dynamic_batch=True, dynamic_size=True)
    detector, reference = load(result.path, device="cpu", precision="float32"), trained_detector()
    images = [image.resize((size_hw[1], size_hw[0])) for image in sample_images()[0]]
    for count in (1, 3):
        found = detector(images[:count], threshold=0.3, size_hw=size_hw)
        expected = reference(images[:count], threshold=0.3, size_hw=size_hw)
        assert isinstance(found, list) and isinstance(expected, list)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=0.05)


@pytest.mark.slow
def test_a_wrong_weight_is_found_and_the_stage_named(tmp_path) -> None:
    result = exported(trained_model(), tmp_path / "model.xml")
    reference = trained_detector()
    encoder = reference.network.encoder
    encoder.pan_blocks[0].conv1.conv.weight.data.mul_(1.5)
    report = verify(result.path, reference, images=sample_images()[0])
    assert not report.passed and report.diverging == "encoder.pan_blocks.0"
    assert "encoder.pan_blocks.0" in (report.reason or "")
