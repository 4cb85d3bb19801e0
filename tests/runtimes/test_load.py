"""`rtdetr.load`: a detector for each file or name, or an error with the reason."""

import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rtdetr
from rtdetr.categories import Categories
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.models import build_model
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.weights import convert as convert_weights
from rtdetr.weights import save_huggingface, save_weights
from tests.runtimes.graphs import make_metadata, save_graph
from tests.runtimes.test_openvino_detector import convert


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    categories = Categories.from_json([{"id": 4, "name": "bolt"}, {"id": 9, "name": "nut"}])
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    model = build_model("test-tiny", num_classes=2, eval_size_hw=(32, 96))
    save_weights(model, path, categories=categories)
    save_huggingface(model, path.parent / "folder", categories=categories)
    return path


@pytest.mark.parametrize("name", ["best.pth", "folder", "folder/model.safetensors"])
def test_load_and_detect(checkpoint, name):
    source = checkpoint.parent / name
    detector = rtdetr.load(source, device="cpu", precision="float32")
    assert detector.names == ("bolt", "nut")
    found = detector(np.zeros((20, 30, 3), np.uint8), threshold=0.0)
    assert found.image_size_wh == (30, 20)
    assert len(found) == 30 * 2
    if name == "best.pth":
        assert detector.categories.ids == [4, 9]
        assert detector.size_hw == (32, 96)
        same = rtdetr.load(str(source), device="cpu", precision="float32")(
            np.zeros((20, 30, 3), np.uint8), threshold=0.0
        )
        assert np.array_equal(same.scores, found.scores)


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("onnx", "ONNX"), ("ONNX", "ONNX"), ("xml", "OpenVINO"), ("pt2", r"torch\.export")],
)
def test_a_missing_exported_file(tmp_path, suffix, kind):
    with pytest.raises(WeightsError, match=f"no such {kind} file: .*model.{suffix}"):
        rtdetr.load(tmp_path / f"model.{suffix}")


def test_unsupported_options(checkpoint, tmp_path):
    for file, option in (
        (tmp_path / "model.pt2", {"categories": rtdetr.COCO80}),
        (tmp_path / "model.onnx", {"model": "test-tiny"}),
        (tmp_path / "model.pt2", {"model": "test-tiny"}),
        (tmp_path / "model.xml", {"fast_resize": True}),
    ):
        with pytest.raises(
            ConfigError, match=rf"{next(iter(option))} \(--.*\) is not an option for {file.suffix} models"
        ):
            rtdetr.load(file, **option)
    for classes in (rtdetr.COCO80, ["bolt", "screw"], "ids"):
        with pytest.raises(ConfigError, match=r"already names its 2 classes, with other names\. Omit categories"):
            rtdetr.load(checkpoint, categories=classes)
    for count, said in ((0, "an integer of at least 1"), (100_000, "at most 1024")):
        with pytest.raises(ConfigError, match=f"num_threads must be {said}, got {count}"):
            rtdetr.load(tmp_path / "model.onnx", num_threads=count)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters' own
@pytest.mark.parametrize("name", ["M.ONNX", "M.XML", "M.PT2", "M.PTH", "M.SAFETENSORS", "M.Onnx"])
def test_suffixes_in_capitals(checkpoint, name, tmp_path):
    file, kind = tmp_path / name, {".xml": "openvino", ".pt2": "torch"}.get(Path(name).suffix.lower(), "onnx")
    if name in ("M.PTH", "M.SAFETENSORS"):
        convert_weights(checkpoint, file)
    else:
        export(checkpoint, file, options=ExportOptions(format=kind), check=True)
    detector = rtdetr.load(file, device="cpu", precision="float32")
    weights = file.with_suffix(".bin")
    if weights.exists():
        detector(np.zeros((40, 40, 3), np.uint8))
        weights.rename(file.with_suffix(".BIN"))
        assert rtdetr.load(file, precision="float32").names == detector.names
        with pytest.raises(WeightsError, match=r"M\.BIN contains the weights of an OpenVINO model: pass .*M\.XML"):
            rtdetr.load(file.with_suffix(".BIN"))
    expected = rtdetr.load(checkpoint, device="cpu", precision="float32")(
        np.zeros((40, 40, 3), np.uint8), threshold=0.0
    )
    found = detector(np.zeros((40, 40, 3), np.uint8), threshold=0.0)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)


def test_a_file_that_does_not_name_its_classes(tmp_path, caplog):
    names = tuple(f"class {label}" for label in range(3))
    file = save_graph(tmp_path / "model.onnx", make_metadata(names=names, category_ids=(0, 1, 2)))
    with caplog.at_level("INFO"):
        rtdetr.load(file)
    assert (
        f"{file} does not name its classes; name them with --classes FILE (Python: categories=...)" in caplog.messages
    )
    assert rtdetr.load(file, categories=["bolt", "nut", "pin"]).names == ("bolt", "nut", "pin")


@pytest.mark.parametrize("fast_resize", [False, True])
def test_the_faster_resize_is_a_choice(checkpoint, fast_resize):
    detector = rtdetr.load(checkpoint, device="cpu", fast_resize=fast_resize)
    assert isinstance(detector, TorchDetector) and detector.fast_resize == fast_resize


def test_unknown_names_and_values(checkpoint):
    with pytest.raises(WeightsError, match="rtdetrv2_r18vd"):
        rtdetr.load("rtdetrv2_r18")
    with pytest.raises(WeightsError, match="no such file"):
        rtdetr.load(checkpoint.parent / "none.pth")
    with pytest.raises(ConfigError, match=r"Did you mean 'float32'\?"):
        rtdetr.load(checkpoint, precision="float_32")
    with pytest.raises(ConfigError, match="unknown model"):
        rtdetr.load(checkpoint, model="tiny")
    with pytest.raises(WeightsError, match=r"test-tiny|expected weights"):
        rtdetr.load(checkpoint, model="rtdetrv2_r18vd")


def test_without_torch_the_extra_is_named(checkpoint):
    code = f"""
import sys
sys.modules["torch"] = None
import rtdetr
from rtdetr.runtimes import load
try:
    load({str(checkpoint)!r})
except rtdetr.RTDETRError as error:
    print(type(error).__name__, error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("MissingDependencyError")
    assert "pip install torch torchvision" in result.stdout


WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "jaxtyping", "scipy"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)
sys.meta_path.insert(0, Blocked())
import numpy as np
import rtdetr
for file in sys.argv[1:]:
    detector = rtdetr.load(file)
    pixels = np.full((40, 60, 3), (200, 90, 10), np.uint8)
    best = float(detector(pixels, threshold=0.0).scores[0])
    print(type(detector).__name__, round(best, 2), len(detector([pixels] * 3)))
assert "torch" not in sys.modules
"""


def exported(folder):
    """The same graph as an ONNX and an OpenVINO file."""
    metadata = make_metadata()
    onnx_file = save_graph(folder / "model.onnx", metadata)
    return [str(onnx_file), str(convert(onnx_file, metadata))]


EXPECTED = "OnnxDetector 1.0 3\nOpenVINODetector 1.0 3\n"


def test_exported_files_run_without_torch(tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, *exported(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout == EXPECTED, result.stderr


@pytest.mark.slow
def test_exported_files_run_where_torch_was_never_installed(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    source = Path(rtdetr.__file__).parents[2]
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"rtdetr[onnx,openvino] @ file://{source}"], check=True, timeout=600
    )
    files = exported(tmp_path)
    result = subprocess.run([python, "-c", WITHOUT_TORCH, *files], capture_output=True, text=True, timeout=120)
    assert result.stdout == EXPECTED, result.stderr
    absent = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in absent.stderr
    Image.new("RGB", (60, 40), (200, 90, 10)).save(tmp_path / "photo.png")
    for file in files:
        command = [python, "-m", "rtdetr", "predict", str(tmp_path / "photo.png"), "--model", file]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert result.stdout.startswith(f"{tmp_path / 'photo.png'}: "), result.stderr
        assert "bolt" in result.stdout
