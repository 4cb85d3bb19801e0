"""The samples for other languages and servers give the detections of the library, or what they document."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtdetr.categories import Categories
from rtdetr.errors import WeightsError
from rtdetr.export import ExportOptions, Source, export
from rtdetr.models import build_model
from rtdetr.runtimes import load
from tests.export.trained import CATEGORIES, sample_images, trained_detector, trained_model

EXAMPLES = Path(__file__).parents[1] / "examples"


def triton():
    spec = importlib.util.spec_from_file_location("make_repository", EXAMPLES / "triton" / "make_repository.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dynamic", [False, True])
def test_triton_repository(tmp_path, dynamic) -> None:
    source = Source(build_model("test-tiny", num_classes=2), Categories.numbered(2))
    export(source, tmp_path / "model.onnx", options=ExportOptions(dynamic_batch=dynamic))
    home = triton().make_repository(tmp_path / "model.onnx", tmp_path / "repository")
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()) == [
        "1/model.onnx",
        "config.pbtxt",
        "labels.txt",
    ]
    text = (home / "config.pbtxt").read_text()
    images = "[3, 64, 64]" if dynamic else "[1, 3, 64, 64]"
    assert f'name: "images" data_type: TYPE_FP32 dims: {images} }}' in text
    assert "TYPE_INT64" in text and text.count("{") == text.count("}") and text.count("[") == text.count("]")
    assert f"max_batch_size: {8 if dynamic else 0}\n" in text and ("dynamic_batching" in text) == dynamic
    assert len((home / "labels.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("content", [None, b"", b"no model", "folder"])
def test_triton_says_what_is_wrong_with_a_file_in_one_line(tmp_path, content) -> None:
    model = tmp_path / "model.onnx"
    if content == "folder":
        model.mkdir()
    elif content is not None:
        model.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.onnx") as caught:
        triton().make_repository(model, tmp_path / "repository")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "repository").exists()


def headers() -> Path | None:
    """The folder of ONNX Runtime's headers, which `make test-slow` fetches where it can."""
    places = (Path(sys.prefix) / "onnxruntime/usr/include/onnxruntime", Path("/usr/include/onnxruntime"))
    return next((place for place in places if (place / "onnxruntime_cxx_api.h").is_file()), None)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with the compiled programs."""
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("needs cmake and g++")
    openvino_utils, onnxruntime = pytest.importorskip("openvino.utils"), pytest.importorskip("onnxruntime")
    options = [f"-DOpenVINO_DIR={openvino_utils.get_cmake_path()}"]
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if headers() is not None and library is not None:
        options += [f"-DONNXRUNTIME_INCLUDE_DIR={headers()}", f"-DONNXRUNTIME_LIBRARY={library}"]
    folder = tmp_path_factory.mktemp("build")
    for command in (["cmake", "-S", EXAMPLES / "cpp", "-B", folder, *options], ["cmake", "--build", folder]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def program(built: Path, name: str) -> Path:
    if not (built / name).exists():
        pytest.skip("needs the headers of ONNX Runtime: examples/cpp/onnxruntime_headers.sh")
    return built / name


PROGRAMS = {
    "detect_openvino": ("model.xml", ExportOptions(format="openvino")),
    "detect_onnxruntime": ("model.onnx", ExportOptions(preprocess=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_cpp_finds_the_same_objects(name, built, tmp_path) -> None:
    file, options = PROGRAMS[name]
    export(Source(trained_model(), CATEGORIES), tmp_path / file, options=options)
    reference = trained_detector()
    for image in sample_images()[0]:
        image.save(tmp_path / "picture.ppm")
        command = [program(built, name), tmp_path / file, tmp_path / "picture.ppm", "0.5"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows = sorted((line.split() for line in done.stdout.splitlines()), key=lambda row: (row[5], float(row[1])))
        expected = sorted(reference(image, threshold=0.5), key=lambda one: (one.label, one.box_xyxy[0]))
        assert len(rows) == len(expected) >= 3
        for row, one in zip(rows, expected, strict=True):
            assert row[6] == one.name and abs(float(row[0]) - one.score) < 0.02
            np.testing.assert_allclose([float(value) for value in row[1:5]], one.box_xyxy, atol=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("content", [b"", b"P5\n2 2\n255\n1234", b"P6\n2 2\n255\n12", b"P6\n999999 1\n255\n"])
def test_cpp_refuses_broken_images(name, built, tmp_path, content) -> None:
    (tmp_path / "broken.ppm").write_bytes(content)
    command = [program(built, name), tmp_path / "absent", tmp_path / "broken.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"{name}: ") and "broken.ppm" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("threshold", ["0,5", "half", "", "1.5", "-0.1", "0.5x", "nan"])
def test_cpp_refuses_other_thresholds(name, built, tmp_path, threshold) -> None:
    sample_images()[0][0].save(tmp_path / "picture.ppm")
    command = [program(built, name), tmp_path / "absent", tmp_path / "picture.ppm", threshold]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f'{name}: expected a threshold from 0 to 1, such as 0.5, got "{threshold}"\n'


@pytest.mark.slow
def test_cpp_skips_what_suppression_removed(built, tmp_path) -> None:
    options = ExportOptions(preprocess=True, nms_iou=0.0)
    export(Source(trained_model(), CATEGORIES), tmp_path / "model.onnx", options=options)
    sample_images()[0][0].save(tmp_path / "picture.ppm")
    command = [program(built, "detect_onnxruntime"), tmp_path / "model.onnx", tmp_path / "picture.ppm", "0.0001"]
    lines = subprocess.check_output(command, text=True).splitlines()
    expected = load(tmp_path / "model.onnx")(sample_images()[0][0], threshold=0.0001)
    assert len(lines) == len(expected) > 3


@pytest.mark.slow
def test_cpp_onnxruntime_says_which_form_it_takes(built, tmp_path) -> None:
    export(Source(trained_model(), CATEGORIES), tmp_path / "model.onnx")
    sample_images()[0][0].save(tmp_path / "picture.ppm")
    command = [program(built, "detect_onnxruntime"), tmp_path / "model.onnx", tmp_path / "picture.ppm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "export it with --preprocess" in done.stderr
