"""Photos with all eight EXIF orientations in five formats give the results of upright photos in every command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import rtdetr
from rtdetr.categories import Categories, Category
from rtdetr.cli.main import app
from rtdetr.config import Recipe
from rtdetr.data import TrainLoader, open_dataset
from rtdetr.export.samples import images_to_compare, spread
from rtdetr.hf import RTDetrImageProcessor
from rtdetr.images import open_image
from rtdetr.weights import save_weights
from tests.export.varied_model import varied_model
from tests.images.oriented_files import FORMATS, ORIENTATIONS, smooth, stored, write_turned

WH = (96, 64)
BOX = [20, 10, 30, 40]
LOSSLESS = [kind for kind in FORMATS if kind not in ("JPEG", "MPO")]
# every orientation and every format, color and gray; each format upright is what the others are compared with
CASES = [(kind, orientation) for kind in FORMATS for orientation in ORIENTATIONS]


def invoke(*arguments: object):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def picture(number: int) -> Image.Image:
    """Color or, for odd numbers, gray."""
    image = Image.fromarray(np.roll(np.asarray(smooth(*WH)), 5 * number, axis=1))
    return image.convert("L") if number % 2 else image


def write_set(root, *, turned: bool, as_annotated: bool = False):
    """One image per case; `as_annotated`: with the sizes and boxes of the pixels as the file stores them."""
    images, annotations = [], []
    for number, (kind, orientation) in enumerate(CASES):
        path = write_turned(root / "images/val", picture(number), orientation if turned else 1, kind)
        name = f"{number:02d}{path.suffix}"
        path.rename(path.with_name(name))
        size, box = WH, BOX
        if as_annotated:
            mask = Image.new("L", WH)
            mask.paste(255, (BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]))
            mask = stored(mask, orientation)
            left, top, right, bottom = mask.getbbox()
            size, box = mask.size, [left, top, right - left, bottom - top]
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        annotations.append(
            {"id": number, "image_id": number, "category_id": 4, "bbox": box, "area": 1200, "iscrowd": 0}
        )
    (root / "annotations").mkdir()
    document = {"images": images, "annotations": annotations, "categories": [{"id": 4, "name": "thing"}]}
    (root / "annotations/val.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def upright(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("upright"), turned=False)


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("turned"), turned=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    model = varied_model(num_classes=1, eval_size_hw=(64, 96))
    save_weights(model, path, categories=Categories([Category(4, "thing")]))
    return path


def assert_equal_pictures(one, other, *, lossless=LOSSLESS):
    """The same pixels, where the format keeps them."""
    assert len(one) == len(other) == len(CASES)
    for (kind, _), a, b in zip(CASES, one, other, strict=True):
        scale = 1.0 if np.asarray(a).dtype == np.uint8 else 255.0
        difference = scale * np.abs(np.asarray(a).astype(float) - np.asarray(b))
        assert difference.max() == 0 if kind in lossless else difference.mean() < 4, kind


def test_predict_on_the_command_line(upright, turned, weights, tmp_path):
    found = []
    for root in (upright, turned):
        out = tmp_path / f"{root.name}.json"
        options = ["--model", weights, "--device", "cpu", "--precision", "float32", "--threshold", 0]
        invoke("predict", root / "images/val", *options, "--json", out, "--save", tmp_path / root.name)
        found.append(json.loads(out.read_text())["images"])
    for number, (one, other) in enumerate(zip(*found, strict=True)):
        assert one["image_size_wh"] == other["image_size_wh"] == list(WH)
        with Image.open(other["annotated"]) as drawn:
            assert drawn.size == WH
            assert drawn.getexif().get(0x0112) in (None, 1)
        if CASES[number][0] in LOSSLESS:
            assert one["detections"] == other["detections"]


def test_predict_in_python(turned, upright, weights):
    detector = rtdetr.load(weights, device="cpu", precision="float32")
    for number, (kind, _) in enumerate(CASES):
        paths = [next((root / "images/val").glob(f"{number:02d}.*")) for root in (upright, turned)]
        if kind not in LOSSLESS or number % 3:
            continue
        with Image.open(paths[1]) as unread:
            sources = [paths[1], paths[1].read_bytes(), unread, open_image(paths[1])]
            results = detector([paths[0], *sources], threshold=0.0)
        for found in results[1:]:
            assert found.image_size_wh == WH
            assert np.allclose(found.boxes_xyxy, results[0].boxes_xyxy, atol=1e-2)


def test_evaluate(upright, turned, weights, tmp_path):
    rows = []
    for root in (upright, turned):
        out = tmp_path / root.name
        invoke(
            "evaluate", weights, root, "--device", "cpu", "--precision", "float32", "--bootstrap", 0, "--output", out
        )
        rows.append(json.loads((out / "detections.json").read_text()))
        assert len(list((out / "worst_images").iterdir())) == 12
    lossless = {number for number, (kind, _) in enumerate(CASES) if kind in LOSSLESS}
    one, other = ([row for row in found if row["image_id"] in lossless] for found in rows)
    assert one == other


def test_training_batches(upright, turned):
    recipe = Recipe(batch_size=len(CASES), train_size_hw=(64, 96), multiscale_sizes=())
    batches = []
    for root in (upright, turned):
        loader = TrainLoader(open_dataset(root, split="val"), recipe, num_workers=0)
        loader.set_epoch(0)
        batches.append(next(iter(loader)))
    (images, targets), (other_images, other_targets) = batches
    assert (images - other_images).abs().mean() < 2e-3  # JPEG files are compressed otherwise
    for target, other in zip(targets, other_targets, strict=True):
        assert torch.equal(target["boxes"], other["boxes"])


def test_export_and_calibration_read_the_same(upright, turned):
    sets = [open_dataset(root, split="val") for root in (upright, turned)]
    paths = [[dataset.path(number) for number in range(len(CASES))] for dataset in sets]
    for channels in (1, 3):
        assert_equal_pictures(*(list(spread(dataset, len(CASES), channels)) for dataset in sets))
        assert_equal_pictures(*(list(spread(files, len(CASES), channels)) for files in paths))
        assert_equal_pictures(*(images_to_compare(files, None, channels) for files in paths))


@pytest.mark.slow
def test_export_checks_with_them(turned, weights, tmp_path):
    invoke("export", weights, "--output", tmp_path / "a.onnx", "--images", turned / "images/val", "--data", turned)


def test_benchmark_reads_them(upright, turned, weights):
    detector = rtdetr.load(weights, device="cpu")
    read = [
        [detector.read(path.read_bytes()) for path in sorted((root / "images/val").iterdir())]
        for root in (upright, turned)
    ]
    assert_equal_pictures(*read)
    invoke("benchmark", weights, "--images", turned / "images/val", "--rounds", 1, "--warmup", 0, "--no-memory")


def test_the_hugging_face_processor(upright, turned):
    processor = RTDetrImageProcessor(size={"height": 64, "width": 96})
    paths = [sorted((root / "images/val").iterdir()) for root in (upright, turned)]
    assert_equal_pictures(*(list(processor(files, return_tensors="np")["pixel_values"]) for files in paths))
    images = [[open_image(path) for path in files] for files in paths]
    assert_equal_pictures(*(list(processor(files, return_tensors="np")["pixel_values"]) for files in images))


def test_the_doctor_and_its_copy(upright, turned, tmp_path):
    for name, root in (("a", turned), ("b", write_set(tmp_path / "stored", turned=True, as_annotated=True))):
        result = CliRunner().invoke(
            app, ["data", "check", str(root), "--html", str(tmp_path / f"{name}.html"), "--fix", str(tmp_path / name)]
        )
        assert "size-mismatch" not in result.output, result.output
        copy, original = open_dataset(tmp_path / name, split="val"), open_dataset(upright, split="val")
        assert len(copy) == len(CASES)
        images = [[one.load(number)[0] for number in range(len(CASES))] for one in (original, copy)]
        assert_equal_pictures(*images, lossless=("TIFF", "PNG"))  # the copy of a turned WebP file is compressed anew
        for index, (_, orientation) in enumerate(CASES):
            if root == turned or orientation in (1, 5, 6, 7, 8):  # of the others nothing tells how they are annotated
                assert copy.target(index)["boxes_xyxy"].tolist() == [[20, 10, 50, 50]]
            with Image.open(copy.path(index)) as image:
                assert image.getexif().get(0x0112) in (None, 1)


def test_images_annotated_as_stored(tmp_path):
    root = write_set(tmp_path / "stored", turned=True, as_annotated=True)
    dataset = open_dataset(root, split="val")
    for number, (kind, orientation) in enumerate(CASES):
        image, target = dataset.load(number)
        if stored(picture(number), orientation).size == WH:  # nothing tells these from images annotated upright
            continue
        assert image.size == target["size_wh"] == (WH[1], WH[0])
        array, _ = dataset.load_array(number, num_channels=1)
        expected = stored(picture(number), orientation)
        difference = np.abs(np.asarray(image).astype(int) - np.asarray(expected.convert("RGB")))
        assert difference.max() == 0 if kind in LOSSLESS else difference.mean() < 4
        assert np.abs(array[:, :, 0].astype(int) - np.asarray(image.convert("L"))).max() <= 1
