"""An unreadable image stops a run with a remedy, or is skipped with a warning, in every format."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.config import TrainConfig
from rtdetr.data import TrainLoader, index_cache, open_dataset
from rtdetr.data.image_files import PLACEHOLDER_WH, Sizes, sizes_of
from rtdetr.detections import Detections
from rtdetr.errors import ConfigError, DatasetError
from rtdetr.evaluation.evaluate import evaluate_dataset
from rtdetr.models import build_model
from rtdetr.recipes.run_data import open_run_data
from rtdetr.weights import save_weights
from rtdetr.zoo import entry
from tests.coco_files import annotation, document
from tests.data.formats import FORMATS, write_format

NAMES = ("cat", "dog", "bird")
JUNK = {"empty": b"", "no image": b"junk", "cut off": b"\x89PNG\r\n"}


def content():
    """Four images named by no number, two objects each, the first as large as the size that stands in."""
    rows = document()
    names = ("a.png", "b.png", "c.png", "d.png")
    rows["images"] = [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names, start=0)]
    boxes = ([2, 3, 20, 20], [30, 10, 20, 25])
    rows["annotations"] = [
        annotation(2 * i + k + 1, i, (3, 7)[k], box, iscrowd=0) for i in range(4) for k, box in enumerate(boxes)
    ]
    return rows


def without_sizes(root):
    """VOC files that state no size: it is read from the images, as for YOLO."""
    for file in (root / "Annotations").glob("*.xml"):
        text = file.read_text()
        file.write_text(text[: text.index("<size>")] + text[text.index("</size>") + 7 :])


def make(root, kind, *, split="val", junk=b""):
    write_format(root, kind, content(), split=split)
    if kind == "voc":
        without_sizes(root)
    [bad] = root.rglob("b.png")
    bad.write_bytes(junk)
    return root, bad


class Perfect:
    """A detector that finds what is annotated."""

    def __init__(self, dataset):
        self._targets = iter([dataset.target(i) for i in range(len(dataset))])

    def __call__(self, pictures):
        found = []
        for picture in pictures:
            target = next(self._targets)
            assert picture.size == target["size_wh"]
            is_gray = len(np.unique(np.asarray(picture))) == 1
            rows = slice(0, 0) if is_gray else slice(None)
            boxes, labels = target["boxes_xyxy"][rows], target["labels"][rows]
            found.append(Detections(boxes, np.ones(len(labels)), labels, NAMES, target["size_wh"]))
        return found


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_an_image_whose_header_cannot_be_read_is_an_error_with_the_remedy(tmp_path, kind, junk):
    root, bad = make(tmp_path / "set", kind, junk=JUNK[junk])
    with pytest.raises(DatasetError) as caught:
        open_dataset(root, split="val")
    message = str(caught.value)
    assert f"1 of 4 images cannot be read: {bad}" in message
    assert "--bad-images skip" in message and "data check" in message and "on_bad_image='skip'" in message


@pytest.mark.parametrize("kind", FORMATS)
def test_skip_works_the_same_in_every_format(tmp_path, kind, caplog):
    root, bad = make(tmp_path / "set", kind)
    dataset = open_dataset(root, split="val", on_bad_image="skip")
    assert dataset.skips_bad_images
    assert dataset.image_ids.tolist() == [0, 1, 2, 3]  # those of the others stay
    assert [len(dataset.target(i)["labels"]) for i in range(4)] == [2] * 4
    told = [message for message in caplog.messages if str(bad) in message]
    assert len(told) == (0 if kind == "coco" else 1)
    assert all("1 of 4 images cannot be read and is skipped" in message for message in told)
    report = evaluate_dataset(Perfect(dataset), dataset, progress=False)
    assert report.metrics.ar100 == pytest.approx(0.75)  # what is in the image counts as missed
    assert str(bad) in caplog.text
    recipe = entry("test-tiny").recipe.model_copy(update={"batch_size": 4})
    batches = list(TrainLoader(dataset, recipe, seed=0, device="cpu"))
    assert sum(len(targets) for _, targets in batches) == 4


@pytest.mark.parametrize("kind", FORMATS)
def test_merged_datasets_and_runs_pass_the_option_on(tmp_path, kind):
    root, _ = make(tmp_path / "set", kind, split="train")
    sound = write_format(tmp_path / "sound", "yolo", content(), split="train")
    merged = open_dataset([root, sound], split="train", on_bad_image="skip")
    assert merged.skips_bad_images and len(merged) == 8
    config = TrainConfig(
        data=str(root),
        model="test-tiny",
        output_dir=str(tmp_path / "run"),
        recipe=entry("test-tiny").recipe,
        bad_images="skip",
        evaluate_every=0,
    )
    assert open_run_data(config, None)["train"].skips_bad_images
    assert not open_dataset(sound, split="train").skips_bad_images


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_each_option_has_its_own_cache_and_the_note_is_repeated(tmp_path, kind, monkeypatch, caplog):
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_cache, "_MIN_ROWS", 0)
    root, bad = make(tmp_path / "set", kind)
    first = open_dataset(root, split="val", on_bad_image="skip")
    monkeypatch.setattr("rtdetr.data.records.arrange", None)
    again = open_dataset(root, split="val", on_bad_image="skip")
    monkeypatch.undo()
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    assert first.annotations.notes == again.annotations.notes
    assert sum(str(bad) in message for message in caplog.messages) == 2
    with pytest.raises(DatasetError, match="1 of 4 images cannot be read"):
        open_dataset(root, split="val")
    Image.new("RGB", (60, 40)).save(bad)
    assert open_dataset(root, split="val").annotations.notes == ()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sized", [True, False])
def test_without_any_readable_image_skip_is_an_error(tmp_path, kind, sized):
    root = write_format(tmp_path / "set", kind, content()) if sized else make(tmp_path / "set", kind)[0]
    for image in root.rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"(4 of|none of its) 4 images can(not)? be read"):
        open_dataset(root, split="val", on_bad_image="skip")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("sized", [True, False])
def test_a_missing_image_is_skipped_without_a_suggestion(tmp_path, kind, sized, caplog):
    root = write_format(tmp_path / "set", kind, content(), split="val")
    if kind == "voc" and not sized:
        without_sizes(root)
    [missing] = root.rglob("c.png")
    if kind == "yolo":
        (root / "data.yaml").write_text("val: list.txt\nnames: [cat, dog, bird]\n")
        (root / "list.txt").write_text("\n".join(map(str, sorted(missing.parent.glob("*.png")))))
    missing.unlink()
    with pytest.raises(DatasetError, match=r"1 of (its )?4 images is (not in|missing)") as caught:
        open_dataset(root, split="val")
    dataset = open_dataset(root, split="val", on_bad_image="skip")
    report = evaluate_dataset(Perfect(dataset), dataset, progress=False)
    assert report.metrics.ar100 == pytest.approx(0.75)
    texts = [str(caught.value), *caplog.messages]
    assert len([text for text in texts if "replaced by a gray image" in text]) == 1
    assert not any("Did you mean" in text or "?." in text for text in texts)


@pytest.mark.parametrize("kind", FORMATS)
def test_images_whose_pixels_are_all_damaged_end_an_evaluation(tmp_path, kind, caplog):
    root, bad = make(tmp_path / "set", kind)
    for image in bad.parent.glob("*.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(image)
        image.write_bytes(image.read_bytes()[:200])  # the header is whole
    dataset = open_dataset(root, split="val", on_bad_image="skip")
    with pytest.raises(DatasetError, match="none of its 4 images can be read"):
        evaluate_dataset(Perfect(dataset), dataset, progress=False)
    assert len([text for text in caplog.messages if "replaced by a gray image" in text]) == 4


def test_the_check_of_an_export_supports_the_option(tmp_path):
    root, bad = make(tmp_path / "set", "coco")
    weights = tmp_path / "tiny.pth"
    save_weights(
        build_model("test-tiny", num_classes=3), weights, categories=open_dataset(root, split="val").categories
    )
    options = ["export", str(weights), "--data", str(root), "--size", "64"]
    refused = CliRunner().invoke(app, [*options, "--output", str(tmp_path / "no.onnx")])
    assert refused.exit_code == 2 and str(bad) in refused.output and not (tmp_path / "no.onnx").exists()
    done = CliRunner().invoke(app, [*options, "--bad-images", "skip", "--output", str(tmp_path / "yes.onnx")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "yes.onnx").exists()


def test_a_bad_image_is_reported_once(tmp_path, caplog):
    root, bad = make(tmp_path / "set", "coco")
    dataset = open_dataset(root, split="val", on_bad_image="skip")
    for _ in range(3):
        evaluate_dataset(Perfect(dataset), dataset, progress=False)
        dataset.with_categories(dataset.categories).view(1)
    assert len([text for text in caplog.messages if str(bad) in text]) == 1


def test_the_placeholder_size_contains_the_boxes():
    sizes = Sizes(np.array([PLACEHOLDER_WH, (60, 40)]), [0], "")
    boxes, images = np.array([[600.0, 10, 300.5, 10], [50, 30, 90, 90]]), np.array([0, 1])
    assert sizes.enlarged_to_boxes(boxes, images).tolist() == [[901, 640], [60, 40]]
    assert sizes_of([], source="x", on_bad_image="error").sizes_wh.shape == (0, 2)


def test_the_option_is_validated(tmp_path):
    with pytest.raises(ConfigError, match=r"expected 'error' or 'skip' for bad images, got 'skipp'\. Did you mean"):
        open_dataset(tmp_path, split="val", on_bad_image="skipp")
