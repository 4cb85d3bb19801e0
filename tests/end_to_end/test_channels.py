"""A model of four channels through every verb, in each of the ways in which such images are stored."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import rtdetr
from rtdetr.cli.main import app
from rtdetr.images import load_image

KINDS = ("npy", "npy16", "tif", "png")
TINY = ["--model", "test-tiny", "--batch-size", "2", "--size", "64", "--device", "cpu", "--precision", "float32"]


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object):
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def write_image(folder: Path, name: str, kind: str, pixels: np.ndarray) -> str:
    """Store uint8 (h, w, 4); returns the file's name."""
    if kind == "png":
        Image.fromarray(pixels).save(folder / f"{name}.png")
        return f"{name}.png"
    if kind == "tif":
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="minisblack", planarconfig="contig")
        return f"{name}.tif"
    np.save(folder / f"{name}.npy", pixels if kind == "npy" else pixels.astype(np.uint16) * 257)
    return f"{name}.npy"


def write_split(root: Path, split: str, kinds: tuple[str, ...]) -> Path:
    """Images of noise with one bright object each, whose brightness is in the fourth channel."""
    folder = root / "images" / split
    folder.mkdir(parents=True)
    document: dict = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "hot"}]}
    rng = np.random.default_rng(len(split))
    for number, kind in enumerate(kinds, start=1):
        pixels = rng.integers(0, 60, (40, 56, 4), dtype=np.uint8)
        pixels[10:30, 20:40, 3] = 250
        name = write_image(folder, f"{kind}{number}", kind, pixels)
        document["images"].append({"id": number, "file_name": name, "width": 56, "height": 40})
        box = {"id": number, "image_id": number, "category_id": 7, "bbox": [20, 10, 20, 20], "area": 400, "iscrowd": 0}
        document["annotations"].append(box)
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/{split}.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("four")
    write_split(root, "train", KINDS)
    write_split(root, "val", KINDS)
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run that evaluated after its only epoch, which is where it used to stop."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--set", "in_channels=4", "--set", "train.warmup_iterations=1", "--epochs", 1, "--workers", 0]
    done("train", data, "--output", folder, *TINY, *options)
    return folder


def test_training_evaluates_and_reports(run):
    assert (run / "best.pth").is_file()
    assert json.loads((run / "config.json").read_text())["in_channels"] == 4
    assert (run / "report.html").is_file()


def test_evaluate(run, data, tmp_path):
    done("evaluate", run, data, "--device", "cpu", "--bootstrap", 0, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["num_images"] == len(KINDS)
    assert report["classes"][0]["category_id"] == 7
    for path in (tmp_path / "out/worst_images").iterdir():  # the first three channels, dark as they are
        with Image.open(path) as picture:
            assert picture.mode == "RGB"


def test_predict_takes_the_folder(run, data, tmp_path):
    out = tmp_path / "found.json"
    done("predict", data / "images/val", "--model", run, "--threshold", 0, "--json", out, "--save", tmp_path / "seen")
    rows = json.loads(out.read_text())["images"]
    assert sorted(Path(row["file"]).name for row in rows) == ["npy1.npy", "npy162.npy", "png4.png", "tif3.tif"]
    assert all(row["image_size_wh"] == [56, 40] and row["detections"] for row in rows)
    assert {found["category_id"] for row in rows for found in row["detections"]} == {7}
    for row in rows:
        with Image.open(row["annotated"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (56, 40))


def test_the_same_pixels_in_every_kind_of_file(run, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 255, (40, 56, 4), dtype=np.uint8)
    detector = rtdetr.load(run, device="cpu", precision="float32")
    assert detector.in_channels == 4
    expected = detector(pixels, threshold=0.0)
    for kind in KINDS:
        path = tmp_path / write_image(tmp_path, kind, kind, pixels)
        assert np.array_equal(load_image(path, num_channels=4), pixels), kind
        found = detector(path, threshold=0.0)
        assert np.array_equal(found.boxes_xyxy, expected.boxes_xyxy)
        assert np.array_equal(found.scores, expected.scores)


def test_export_with_and_without_data(run, data, tmp_path):
    done("export", run, "--output", tmp_path / "model.onnx")
    folder = data / "images/val"
    done("export", run, "--output", tmp_path / "again.onnx", "--data", data, "--images", folder)
    exported = rtdetr.load(tmp_path / "model.onnx")
    assert exported.in_channels == 4
    path = folder / "npy1.npy"
    one = rtdetr.load(run, device="cpu", precision="float32")(path, threshold=0.0)
    other = exported(path, threshold=0.0)
    assert np.abs(one.scores - other.scores).max() < 1e-5
    done("evaluate", tmp_path / "model.onnx", data, "--bootstrap", 0)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_quantize(run, data, tmp_path, format):
    name = {"onnx": "model.onnx", "openvino": "model.xml"}[format]
    done("quantize", run, data, "--output", tmp_path / name, "--max-drop", 1)
    assert rtdetr.load(tmp_path / name).in_channels == 4


def test_benchmark(run, data, tmp_path):
    options = ["--rounds", 1, "--warmup", 0, "--no-memory", "--device", "cpu"]
    done("benchmark", run, *options)
    done("benchmark", run, *options, "--images", data / "images/val")
    refused = invoke("benchmark", run, "test-tiny:untrained", *options)
    assert refused.exit_code == 2
    assert "the models need images of different numbers of channels [3, 4]" in refused.output


def test_the_doctor_reads_them(data, tmp_path):
    result = invoke("data", "check", data, "--html", tmp_path / "page.html", "--fix", tmp_path / "copy")
    assert "corrupt-image" not in result.output
    assert "cannot be read" not in result.output


def test_three_channels_are_refused_by_name(run, tmp_path):
    Image.new("RGB", (56, 40)).save(tmp_path / "a.jpg")
    result = invoke("predict", tmp_path / "a.jpg", "--model", run)
    assert result.exit_code == 2
    assert "expected an image with 4 channels for this model, got" in result.output
    assert "a.jpg with 3" in result.output
