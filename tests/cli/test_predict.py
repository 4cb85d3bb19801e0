"""`rtdetr predict`: which files it finds, what it prints and writes, and how it continues after an unreadable one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

from rtdetr.categories import Categories
from rtdetr.cli.arguments import parse_size
from rtdetr.cli.main import app
from rtdetr.cli.output import PIPE_CLOSED
from rtdetr.cli.predict import parse_threshold, plan_annotated
from rtdetr.errors import InputError
from rtdetr.images.files import find_images
from rtdetr.models import build_model
from rtdetr.weights import save_weights
from tests.runtimes.graphs import save_graph


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=2)
    torch.nn.init.zeros_(model.decoder.dec_score_head[-1].weight)
    model.decoder.dec_score_head[-1].bias.data = torch.tensor([2.0, -2.0])  # every query says "bolt", at 0.88
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    save_weights(model, path, categories=Categories.from_json([{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}]))
    return path


@pytest.fixture
def photos(tmp_path):
    """Two good images in a folder with a text file and a sub-folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[:30]).save(folder / "b.JPG")
    Image.fromarray(pixels[:20]).save(folder / "more" / "a.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(weights, *arguments):
    options = ["--model", weights, "--device", "cpu", "--precision", "float32"]
    return CliRunner().invoke(app, ["predict", *map(str, arguments), *map(str, options)])


def test_duplicates_are_removed_and_the_best_class_is_kept(weights, photos, tmp_path):
    def found(*options):
        result = run(weights, photos / "a.png", "--threshold", "0", "--json", tmp_path / "found.json", *options)
        assert result.exit_code == 0, result.output
        document = json.loads((tmp_path / "found.json").read_text())
        return (document["one_label"], document["nms"]), document["images"][0]["detections"]

    settings, every = found()
    assert settings == (False, None) and len(every) == 60  # 30 queries, two classes
    settings, best = found("--one-label")
    assert settings == (True, None) and len(best) == 30
    settings, kept = found("--nms", "0.01")
    assert settings == (False, 0.01)
    for name in ("bolt", "nut"):  # each class on its own, though the boxes of both are the same
        boxes = torch.tensor([one["box_xyxy"] for one in kept if one["name"] == name])
        assert 0 < len(boxes) < 30
        assert torchvision.ops.box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.011  # boxes are rounded


def test_a_folder_prints_one_line_per_image(weights, photos):
    result = run(weights, photos)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{photos / 'a.png'}: 30 bolt\n{photos / 'b.JPG'}: 30 bolt\n"


def test_a_published_onnx_file_and_a_checkpoint_get_their_classes(weights, photos, tmp_path):
    file = save_graph(tmp_path / "published.onnx", described=False)
    (tmp_path / "names.txt").write_text("bolt\nnut\nwasher\n")
    options = ["predict", str(photos / "a.png"), "--model", str(file), "--threshold", "0.01"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2 and "pass --classes coco, or --classes FILE" in result.stderr
    result = CliRunner().invoke(app, [*options, "--classes", str(tmp_path / "names.txt")])
    assert result.exit_code == 0 and "washer" in result.stdout, result.output
    torch.save(torch.load(weights, weights_only=True)["model"], tmp_path / "best.pth")
    (tmp_path / "two.json").write_text('{"categories": [{"id": 5, "name": "rivet"}, {"id": 9, "name": "nail"}]}')
    more = ["--classes", tmp_path / "two.json", "--config", "test-tiny"]
    result = run(tmp_path / "best.pth", photos / "a.png", *more)
    assert result.exit_code == 0 and "30 rivet" in result.stdout, result.output
    assert "does not say how its model samples" not in result.stderr


def test_threshold(weights, photos):
    assert run(weights, photos / "a.png", "--threshold", 0.9).stdout == f"{photos / 'a.png'}: nothing found\n"
    assert "30 bolt, 30 nut" in run(weights, photos / "a.png", "--threshold", 0.1).stdout


def test_annotated_images_and_json_are_written(weights, photos, tmp_path):
    save, document = tmp_path / "new" / "out", tmp_path / "found.json"
    result = run(weights, photos, photos / "more", "--save", save, "--json", document, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in save.iterdir()) == ["a-2.png", "a.png", "b.JPG"]
    with Image.open(save / "a.png") as picture, Image.open(photos / "a.png") as photo:
        assert picture.size == photo.size
        assert (np.asarray(picture) != np.asarray(photo)).any()
    with Image.open(save / "b.JPG") as picture:
        assert (picture.format, picture.size) == ("JPEG", (60, 30))
    images = json.loads(document.read_text())["images"]
    assert [Path(row["file"]).name for row in images] == ["a.png", "b.JPG", "a.png"]
    assert [row["image_size_wh"] for row in images] == [[60, 40], [60, 30], [60, 20]]
    first = images[0]["detections"][0]
    assert (first["label"], first["name"], first["score"]) == (0, "bolt", pytest.approx(0.8808, abs=1e-4))
    assert len(first["box_xyxy"]) == 4


def test_the_font_of_class_names(weights, photos, tmp_path):
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSerif-Bold.ttf"
    for folder, options in (("own", ()), ("given", ("--font", font))):
        assert run(weights, photos / "a.png", "--save", tmp_path / folder, *options).exit_code == 0
    own, given = (np.asarray(Image.open(tmp_path / folder / "a.png")) for folder in ("own", "given"))
    assert (own != given).any()
    refused = run(weights, photos / "a.png", "--font", photos / "notes.txt")
    assert refused.exit_code == 2
    assert "InputError: cannot read the font" in refused.stderr and "bolt" not in refused.stdout


def test_json_on_stdout_is_only_json(weights, photos):
    result = run(weights, photos / "a.png", "--json", "-")
    assert json.loads(result.stdout)["images"][0]["file"] == str(photos / "a.png")
    assert "30 bolt" in result.stderr


def test_a_bad_image_does_not_stop_the_others(weights, photos, tmp_path):
    data = (photos / "b.JPG").read_bytes()
    (photos / "half.jpg").write_bytes(data[: len(data) // 2])
    result = run(weights, photos / "none.png", photos, "--json", tmp_path / "found.json", "--save", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stdout.count("30 bolt") == 2
    assert f"{photos / 'half.jpg'} cannot be read as an image" in result.stderr
    assert f"no image {photos / 'none.png'}" in result.stderr
    assert f"InputError: 2 of 4 images could not be read. The first is {photos / 'none.png'}\n" in result.stderr
    rows = json.loads((tmp_path / "found.json").read_text())["images"]
    assert ["error" in row for row in rows] == [True, False, False, True]
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_sizes(weights, photos):
    assert run(weights, photos, "--size", "32x96").exit_code == 0
    result = run(weights, photos, "--size", "100")
    assert result.exit_code == 2
    assert result.stderr.endswith("got 100x100; the nearest are 96x96 and 128x128\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photos}/*.bmp"], "no image found in"),
        (["{photos}/a.png", "--size", "big"], "expected a size like 640 or 480x640"),
        (["{photos}/a.png", "--save", "{photos}"], "would overwrite the input image"),
        (["{photos}/a.png", "--json", "{photos}/a.png/x.json"], "cannot write"),
        (["{photos}/a.png", "--device", "gpu"], "unknown device 'gpu'"),
        (["{photos}/a.png", "--model", "rtdetrv2_r18"], "rtdetrv2_r18vd"),
        (["{photos}/a.png", "--model", "x.onnx"], "no such ONNX file"),
    ],
)
def test_mistakes_are_one_line(weights, photos, arguments, message):
    filled = [argument.format(photos=photos) for argument in arguments]
    options = [] if "--model" in filled else ["--model", str(weights)]
    result = CliRunner().invoke(app, ["predict", *filled, *options])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Error: " in result.stderr.splitlines()[-1]


def test_empty_folder(weights, tmp_path):
    assert "no image found in" in run(weights, tmp_path).stderr


def test_an_interrupted_write_leaves_the_old_file(weights, photos, tmp_path, monkeypatch):
    target = tmp_path / "out" / "a.png"
    target.parent.mkdir()
    target.write_bytes(b"old")

    def fail(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    result = run(weights, photos / "a.png", "--save", target.parent, "--overwrite")
    assert result.exit_code == 2
    assert "the disk is full" in result.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["a.png"]


def test_in_a_fresh_process(weights, photos):
    command = [sys.executable, "-m", "rtdetr", "predict", str(photos / "a.png"), "--model", str(weights)]
    result = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(" bolt\n")
    assert "INFO: detecting with test-tiny (2 classes)" in result.stderr


def test_a_missing_file_is_reported_before_loading_the_model(photos):
    result = run("no_such_model.pth", photos / "aa.png")
    assert result.exit_code == 2
    assert result.stderr == f"InputError: no image {photos / 'aa.png'}. Did you mean 'a.png'?\n"


def test_the_used_size_is_logged(weights, photos, caplog):
    run(weights, photos / "a.png", "--size", "32x96")
    assert [record.message for record in caplog.records][-1] == "resizing images to 32x96 (--size)"


def test_files_are_written_when_the_pipe_is_closed(weights, photos, tmp_path):
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "rtdetr", "predict", str(photos), "--model", str(weights), "--json", str(found)]
    process = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(timeout=100) == PIPE_CLOSED, process.stderr.read()
    assert process.stderr.read().count(b"Error") == 0
    process.stderr.close()
    assert len(json.loads(found.read_text())["images"]) == 2


def test_find_images(photos, monkeypatch):
    monkeypatch.chdir(photos)
    Image.new("RGB", (4, 4)).save("odd [1].png")
    assert find_images(["odd [1].png"]) == [Path("odd [1].png")]  # a name, not a glob
    assert find_images(["*.png", "a.png"]) == [Path("a.png"), Path("odd [1].png")]  # each once
    assert find_images(["**/a.png"]) == [Path("a.png"), Path("more/a.png")]
    assert find_images(["missing.jpg", "notes.txt"]) == [Path("missing.jpg"), Path("notes.txt")]
    with pytest.raises(InputError, match="no image found in"):
        find_images(["*.txt"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://host/a.jpg", "URLs are not supported: download https://host/a.jpg and pass the file"),
        ("clip.mp4", "clip.mp4 is a video, and only images are supported"),
        ("-", "no image file -; a stream is not supported: save the image to a file first"),
        ("0", "no image file 0; a camera is not supported: save its frames first (ffmpeg -i /dev/video0 %06d.png)"),
        ("/dev/video3", "no image file /dev/video3; a camera is not supported"),
    ],
)
def test_urls_and_videos_are_refused(weights, photos, source, message):
    result = run(weights, photos / "a.png", source)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "does not exist" not in result.stderr


def test_skipped_files_are_logged_on_one_line(weights, photos, caplog):
    (photos / "._a.png").write_bytes(b"x")
    (photos / "gone.jpg").symlink_to(photos / "nowhere")
    result = run(weights, photos)
    assert result.exit_code == 0
    skipped = [record.message for record in caplog.records if record.message.startswith("skipped")]
    assert skipped == [
        f"skipped: 1 broken link (the first is {photos / 'gone.jpg'}), 1 hidden file, 1 file of other types (.txt), "
        "1 image in subfolders"
    ]
    below = run(weights, photos, "--recursive")
    assert below.stdout.count("bolt") == 3
    only = run(weights, photos / "more" / "..", "--recursive")
    assert only.stdout.count("bolt") == 3


def test_equal_names_in_different_folders_are_numbered(weights, photos, tmp_path):
    out = tmp_path / "found.json"
    sources = [photos / "a.png", photos / "more/a.png"]
    assert run(weights, *sources, "--save", tmp_path / "out", "--json", out).exit_code == 0
    rows = json.loads(out.read_text())["images"]
    assert [(row["file"], Path(row["annotated"]).name) for row in rows] == [
        (str(sources[0]), "a.png"),
        (str(sources[1]), "a-2.png"),
    ]
    for row in rows:
        with Image.open(row["annotated"]) as drawn:
            assert list(drawn.size) == row["image_size_wh"]
    assert {(found["label"], found["category_id"], found["name"]) for row in rows for found in row["detections"]} == {
        (0, 1, "bolt")
    }


def test_a_second_run_does_not_overwrite_silently(weights, photos, tmp_path):
    out = tmp_path / "out"
    assert run(weights, photos / "a.png", "--save", out).exit_code == 0
    before = (out / "a.png").read_bytes()
    again = run(weights, photos, "--save", out, "--threshold", "1")
    assert again.exit_code == 2
    assert "would overwrite 1 of 2 files there, the first is" in again.stderr
    assert "add --overwrite, or choose another folder" in again.stderr
    assert (out / "a.png").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["a.png"]
    assert run(weights, photos, "--save", out, "--threshold", "1", "--overwrite").exit_code == 0
    assert (out / "a.png").read_bytes() != before


def test_large_images(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setenv("RTDETR_MAX_PIXELS", "")
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    refused = run(weights, tmp_path / "a.png")
    assert refused.exit_code == 2
    assert "a.png is too large: 8,000 pixels, more than 2,000; allow it with --max-pixels 1M" in refused.stderr
    assert run(weights, tmp_path / "a.png", "--max-pixels", "0.01M").exit_code == 0
    wrong = run(weights, tmp_path / "a.png", "--max-pixels", "many")
    assert wrong.exit_code == 2
    assert "expected a number of pixels such as 250000000 or 250M, got 'many'" in wrong.stderr


def test_plan_annotated(tmp_path):
    paths = [Path("x/a.gif"), Path("y/a.png"), Path("z/A.PNG"), Path("x/b")]
    names = [target.name for target in plan_annotated(paths, tmp_path).values()]
    assert names == ["a.png", "a-2.png", "A-3.PNG", "b.png"]


@pytest.mark.parametrize(("text", "size_hw"), [("640", (640, 640)), ("480x640", (480, 640)), ("32X96", (32, 96))])
def test_parse_size(text, size_hw):
    assert parse_size(text) == size_hw


@pytest.mark.parametrize("text", ["", "x", "640x", "x640", "6.5", "-32", "1x2x3"])
def test_parse_bad_size(text):
    with pytest.raises(InputError, match="expected a size like"):
        parse_size(text)


@pytest.mark.parametrize(("text", "threshold"), [("auto", "auto"), ("0", 0), ("0.25", 0.25), ("1", 1)])
def test_parse_threshold(text, threshold):
    assert parse_threshold(text) == threshold


@pytest.mark.parametrize("text", ["", "automatic", "-0.1", "1.01", "nan", "inf"])
def test_parse_bad_threshold(text):
    with pytest.raises(InputError, match="--threshold: expected a number from 0 to 1 or 'auto', got"):
        parse_threshold(text)
