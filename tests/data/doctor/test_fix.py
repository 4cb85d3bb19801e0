"""The cleaned copy opens without errors and keeps all valid data, and the original is not changed."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rtdetr.categories import Category
from rtdetr.data import TrainLoader, check, open_dataset
from rtdetr.data.doctor import fix
from rtdetr.data.doctor.box_checks import visible_share
from rtdetr.data.doctor.fix import rotate_boxes, summary
from rtdetr.data.doctor.images import examine
from rtdetr.errors import DatasetError
from rtdetr.images import open_image
from rtdetr.images.orientation import UPRIGHT
from rtdetr.zoo import entry
from tests.data.doctor_files import clean, contents, picture, write


def broken(root):
    """A data set with most defects; a.jpg, d.jpg and e.jpg are sound."""
    splits = clean()
    train = splits["train"]
    for number, name in enumerate("fghij"):
        train["images"].append({"id": 20 + number, "file_name": f"{name}.jpg", "width": 96, "height": 64})
    train["annotations"][0]["bbox"] = [-10, 8, 30, 24]
    train["annotations"] += [
        {"id": 1, "image_id": 10, "category_id": 7, "bbox": [1, 1, 20, 0]},
        {"id": 51, "image_id": 10, "category_id": 7, "bbox": [200, 1, 20, 20]},
        {"id": 52, "image_id": 10, "category_id": 99, "bbox": [1, 1, 20, 20]},
        {"id": 53, "image_id": 10, "category_id": 7, "bbox": "text"},
        {"id": 54, "image_id": 99, "category_id": 7, "bbox": [1, 1, 20, 20]},
        {"id": 55, "image_id": 10, "category_id": 7, "bbox": [40, 20, 32, 40], "area": 1280},
        {"id": 56, "image_id": 22, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 1},
    ]
    splits["val"]["categories"].append({"id": 9, "name": "cow"})
    write(root, splits)
    images = root / "images/train"
    (images / "b.jpg").write_bytes(b"")
    (images / "c.jpg").unlink()
    shutil.copy(images / "a.jpg", images / "f.jpg")
    shutil.copy(root / "images/val/d.jpg", images / "g.jpg")
    picture(7, (64, 96)).save(images / "i.jpg")
    exif = Image.Exif()
    exif[0x112] = 6
    picture(8).save(images / "j.jpg", exif=exif)
    return root


def test_the_copy_opens_strictly_and_the_original_is_untouched(tmp_path):
    root = broken(tmp_path / "set")
    before = contents(root)
    with pytest.raises(DatasetError):
        open_dataset(root, split="train")
    report = check(root)
    changes = fix(report, tmp_path / "new" / "out", allow_loss=True)
    assert contents(root) == before
    train, val = (open_dataset(tmp_path / "new" / "out", split=split) for split in ("train", "val"))
    assert [train.path(i).name for i in range(len(train))] == ["a.jpg", "h.jpg", "j.jpg"]
    assert [val.path(i).name for i in range(len(val))] == ["d.jpg", "e.jpg"]
    assert (
        list(train.categories) == list(val.categories) == [Category(3, "cat"), Category(7, "dog"), Category(9, "cow")]
    )
    assert train.annotations.boxes_xywh.tolist() == [[0, 8, 20, 24], [40, 20, 32, 40], [0, 0, 1, 1]]
    assert train.annotations.areas.tolist() == [480, 1280, 1]
    assert train.annotations.iscrowd.tolist() == [False, False, True]
    assert train.image_ids.tolist() == [10, 22, 24]
    assert (tmp_path / "new/out/images/train/a.jpg").read_bytes() == before["images/train/a.jpg"]
    again = check(tmp_path / "new" / "out")
    assert {finding.severity for finding in again.findings} <= {"note", "warning"}
    lines = (tmp_path / "new/out/changes.txt").read_text().splitlines()
    assert len(lines) == len(changes) == 15
    for line in (
        "corrupt-image: train/b.jpg with its boxes annotation 3, annotation 4",
        "missing-file: train/c.jpg with its boxes annotation 5, annotation 6",
        "same-image: train/f.jpg",
        "leak: train/g.jpg",
        "size-mismatch: train/i.jpg",
        "exif-rotation: train/j.jpg",
        "degenerate-box: train/a.jpg annotation 1",
        "box-outside: train/a.jpg annotation 51",
        "box-over-border: train/a.jpg annotation 1",
        "repeated-box: train/a.jpg annotation 55",
        "unreadable-entry: train: a.jpg annotation 53",
    ):
        assert line in lines
    assert "images in two splits: 1, omitted from the earlier split: train before val before test" in summary(changes)


def test_the_copy_can_be_trained_on(tmp_path):
    fix(check(broken(tmp_path / "set")), tmp_path / "out", allow_loss=True)
    dataset = open_dataset(tmp_path / "out", split="train")
    recipe = entry("test-tiny").recipe.model_copy(update={"batch_size": 3})
    images, targets = next(iter(TrainLoader(dataset, recipe, seed=0, device="cpu")))
    assert len(images) == len(targets) == 3


def test_a_sound_dataset_is_copied(tmp_path):
    root = write(tmp_path / "set")
    assert fix(check(root), tmp_path / "out") == []
    assert check(tmp_path / "out").findings == []
    for split in ("train", "val"):
        old, new = (open_dataset(folder, split=split) for folder in (root, tmp_path / "out"))
        for before, after in zip(old.annotations, new.annotations, strict=True):
            assert np.array_equal(np.asarray(before), np.asarray(after))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_are_rotated_with_the_pixels(tmp_path, orientation):
    image = Image.new("RGB", (96, 64), (0, 40, 200))
    image.paste((250, 250, 0), (10, 8, 40, 32))
    low, high = rotate_boxes(np.array([[10, 8]]), np.array([[40, 32]]), size_wh=(96, 64), orientation=orientation)
    pixels = np.asarray(image.transpose(UPRIGHT[orientation]))[:, :, 0] > 100
    rows, columns = np.nonzero(pixels)
    assert low.tolist() == [[columns.min(), rows.min()]]
    assert high.tolist() == [[columns.max() + 1, rows.max() + 1]]


def test_an_image_annotated_without_its_rotation(tmp_path):
    root = write(tmp_path / "set")
    image = Image.new("RGB", (96, 64), (0, 40, 200))
    image.paste((250, 250, 0), (10, 8, 40, 32))  # the cat
    exif = Image.Exif()
    exif[0x112] = 8
    image.save(root / "images/train/a.jpg", exif=exif, quality=95)
    fix(check(root), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", split="train")
    loaded, target = dataset.load(0)
    assert loaded.size == target["size_wh"] == (64, 96)
    with Image.open(dataset.path(0)) as file:
        assert file.getexif().get(0x112) is None
    x1, y1, x2, y2 = target["boxes_xyxy"][0].astype(int)
    red = np.asarray(loaded)[:, :, 0]
    assert red[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].min() > 200
    assert red[: y1 - 2].max(initial=0) < 60 and red[y2 + 2 :].max() < 60


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize(("old", "new"), [("a.jpe", "a.png"), ("a.tif", "a.png")])
def test_a_rotated_image_of_another_format_becomes_png(tmp_path, orientation, old, new):
    splits = clean()
    size_wh = (64, 96) if orientation == 6 else (96, 64)
    splits["train"]["images"][0] |= {"file_name": old, "width": size_wh[0], "height": size_wh[1]}
    splits["train"]["annotations"][1]["bbox"] = [30, 20, 32, 40]
    root = write(tmp_path / "set", splits)
    exif = Image.Exif()
    exif[0x112] = orientation
    picture(5).save(root / f"images/train/{old}", exif=exif, format="TIFF" if old == "a.tif" else "JPEG")
    report = check(root)
    assert {finding.kind for finding in report.findings} <= {"exif-tag", "unlisted-file"}
    assert [change.kind for change in fix(report, tmp_path / "out")] == ["exif-tag"]
    dataset = open_dataset(tmp_path / "out", split="train")
    assert dataset.path(0).name == new
    loaded, target = dataset.load(0)
    assert loaded.size == target["size_wh"] == size_wh
    assert np.array_equal(np.asarray(loaded), np.asarray(open_image(root / f"images/train/{old}")))
    assert target["boxes_xyxy"].tolist() == [[10, 8, 40, 32], [30, 20, 62, 60]]


def test_the_thumbnail_of_a_rotated_tiff_file_is_upright(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    for name in ("a.tif", "a.png"):
        picture(5).save(tmp_path / name, exif=exif)
    tiff, png = examine(tmp_path / "a.tif"), examine(tmp_path / "a.png")
    assert (tiff.stored_wh, tiff.upright_wh, png.upright_wh) == ((96, 64), (64, 96), (64, 96))
    assert np.array_equal(tiff.thumb, png.thumb)


@pytest.mark.parametrize("kind", ["I;16", "L", "RGBA", "CMYK"])
def test_a_rotated_image_keeps_its_mode(tmp_path, kind):
    splits = clean()
    name = "a.jpg" if kind == "CMYK" else "a.png"
    splits["train"]["images"][0] |= {"file_name": name, "width": 64, "height": 96}
    splits["train"]["annotations"][1]["bbox"] = [30, 20, 32, 40]
    root = write(tmp_path / "set", splits)
    exif = Image.Exif()
    exif[0x112] = 6
    levels = np.random.default_rng(0).integers(0, 65536, (64, 96), dtype=np.uint16)
    image = Image.fromarray(levels) if kind == "I;16" else picture(5).convert(kind)
    image.save(root / f"images/train/{name}", exif=exif)
    fix(check(root), tmp_path / "out")
    with Image.open(tmp_path / f"out/images/train/{name}") as copy:
        mode = "I;16" if copy.mode == "I" else copy.mode  # as older releases of Pillow call it
        assert (mode, copy.size, copy.getexif().get(0x112)) == (kind, (64, 96), None)
        expected = np.asarray(image.transpose(UPRIGHT[6])).astype(int)
        assert np.abs(np.asarray(copy) - expected).mean() <= (4 if kind == "CMYK" else 0)


def test_a_rotated_image_becomes_rgb_if_its_format_requires_it(tmp_path):
    splits = clean()
    splits["train"]["images"][0] |= {"width": 64, "height": 96}
    splits["train"]["annotations"][1]["bbox"] = [30, 20, 32, 40]
    root = write(tmp_path / "set", splits)
    exif = Image.Exif()
    exif[0x112] = 6
    picture(5).convert("RGBA").save(root / "images/train/a.jpg", format="PNG", exif=exif)
    fix(check(root), tmp_path / "out")
    with Image.open(tmp_path / "out/images/train/a.jpg") as copy:
        assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", (64, 96))


def test_arrays_of_many_channels_are_kept(tmp_path):
    splits = clean()
    splits["train"]["images"][0]["file_name"] = "a.npy"
    splits["train"]["images"][1]["file_name"] = "b.npy"
    splits["train"]["images"][2]["file_name"] = "c.npy"
    folder = tmp_path / "set/images/train"
    folder.mkdir(parents=True)
    levels = np.random.default_rng(0).integers(0, 256, (64, 96, 6), dtype=np.uint8)
    np.save(folder / "a.npy", levels)
    np.save(folder / "b.npy", levels[:, :, :2].astype(np.uint16) * 257)
    np.save(folder / "c.npy", levels.transpose(2, 0, 1)[:3])
    report = check(write(tmp_path / "set", splits))
    assert [finding.kind for finding in report.findings] == ["corrupt-image"]
    assert [example.file for example in report.findings[0].examples] == ["c.npy"]
    assert "channels-first" in report.findings[0].examples[0].detail
    shown = Image.fromarray(np.ascontiguousarray(levels[:, :, :3])).convert("L")
    expected = shown.resize((16, 16), Image.Resampling.BOX)
    assert np.array_equal(report.survey.facts[0][0].thumb, np.asarray(expected))
    fix(report, tmp_path / "out", allow_loss=True)
    pixels, _ = open_dataset(tmp_path / "out", split="train").load_array(0, num_channels=6)
    assert np.array_equal(pixels, levels)


def test_arrays_that_cannot_be_loaded_are_corrupt(tmp_path):
    np.save(tmp_path / "values.npy", np.full((8, 8, 6), 300.0))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 6), np.uint8))
    np.save(tmp_path / "many.npy", np.zeros((8, 8, 6, 2), np.uint8))
    (tmp_path / "text.npy").write_text("text")
    words = {"values": "300", "objects": "NumPy", "none": "got", "many": "got", "text": "NumPy"}
    for name, word in words.items():
        assert word in (examine(tmp_path / f"{name}.npy").error or "")


def test_file_names_stay_inside_the_new_folder(tmp_path):
    splits = clean()
    outside = tmp_path / "set" / "images" / "elsewhere.jpg"
    splits["train"]["images"][0]["file_name"] = "../elsewhere.jpg"
    splits["train"]["images"][1]["file_name"] = str(tmp_path / "far" / "absolute.jpg")
    splits["train"]["images"][2]["file_name"] = "sub/elsewhere.jpg"
    paths = [outside, tmp_path / "far" / "absolute.jpg", tmp_path / "set/images/train/sub/elsewhere.jpg"]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    root = write(tmp_path / "set", splits)
    fix(check(root), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", split="train")
    for i in range(3):
        assert dataset.path(i).resolve().is_relative_to((tmp_path / "out/images/train").resolve())
        dataset.load(i)


def test_non_integer_ids_are_renumbered(tmp_path):
    splits = clean()
    train = splits["train"]
    for row in train["images"]:
        row["id"] = f"image {row['id']}"
    for row in train["annotations"]:
        row["image_id"] = f"image {row['image_id']}"
    root = write(tmp_path / "set", splits)
    assert {finding.kind for finding in check(root).findings} == {"wrong-id"}
    fix(check(root), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out", split="train")
    assert dataset.image_ids.tolist() == [1, 2, 3]
    assert len(dataset.annotations.labels) == 6


def test_a_folder_with_content_is_refused(tmp_path):
    root = write(tmp_path / "set")
    report = check(root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for target in (tmp_path / "full", tmp_path / "full" / "file"):
        with pytest.raises(DatasetError, match=r"full has content|file is a file; choose another"):
            fix(report, target)
    for target in (root / "out", root / "images" / "train" / "out", root):
        with pytest.raises(DatasetError, match=r"has content|is inside"):
            fix(report, target)
    with pytest.raises(DatasetError, match="cannot write"):
        fix(report, tmp_path / "full" / "file" / "out")
    (tmp_path / "empty").mkdir()
    fix(report, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "set"]
    assert contents(tmp_path / "full") == {"file": b"mine"}


def test_the_copy_of_a_file_of_any_name_opens(tmp_path):
    root = write(tmp_path / "set")
    (root / "annotations/train.json").rename(root / "annotations/labels.json")
    report = check(root / "annotations/labels.json", images=root / "images/train")
    assert [row.name for row in report.splits] == ["labels"]
    fix(report, tmp_path / "out")
    assert len(open_dataset(tmp_path / "out", split="train")) == 3
    assert check(tmp_path / "out").findings == []


def test_leaked_images_are_removed_from_the_training_split(tmp_path):
    root = write(tmp_path / "set")
    shutil.copy(root / "images/val/d.jpg", root / "images/train/b.jpg")
    changes = fix(check([root / "annotations/val.json", root / "annotations/train.json"]), tmp_path / "out")
    told = [(change.kind, change.text) for change in changes]
    assert told == [("leak", "train/b.jpg with its boxes annotation 3, annotation 4")]
    assert [len(open_dataset(tmp_path / "out", split=split)) for split in ("train", "val")] == [2, 2]


def test_splits_with_other_names_are_refused(tmp_path):
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    with pytest.raises(DatasetError, match="expected one 'train' split to copy, got 2"):
        fix(check([first, second]), tmp_path / "out")
    files = [shutil.copy(root / "annotations/train.json", root / f"{root.name}.json") for root in (first, second)]
    with pytest.raises(DatasetError, match="expected splits named train, val or test to copy, got 'first'"):
        fix(check(files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_that_cannot_be_read_is_listed(tmp_path):
    root = write(tmp_path / "set")
    shutil.copy(root / "annotations/val.json", root / "annotations/instances_val1.json")
    shutil.copy(root / "annotations/val.json", root / "annotations/instances_val2.json")
    changes = fix(check(root), tmp_path / "out", allow_loss=True)
    assert [change.kind for change in changes] == ["unreadable-split"]
    assert "unreadable-split: val: " in (tmp_path / "out/changes.txt").read_text()


def test_a_folder_next_to_a_given_file_is_refused(tmp_path):
    root = write(tmp_path / "set")
    (tmp_path / "pictures").mkdir()
    report = check(root / "annotations/train.json", images=root / "images/train")
    for target in (root / "out", root / "annotations/out", root / "images/train/sub/out"):
        with pytest.raises(DatasetError, match="is inside"):
            fix(report, target)
    with pytest.raises(DatasetError, match="is inside"):
        fix(check(root / "annotations/train.json", images=tmp_path / "pictures"), tmp_path / "pictures/out")


def test_nothing_left(tmp_path):
    root = write(tmp_path / "set")
    for image in (root / "images/val").iterdir():
        image.write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"val\.json: the split 'val' has no valid image \(images that cannot be read: 2\)"
    ):
        fix(check(root), tmp_path / "out")
    splits = clean()
    for rows in splits.values():
        rows["categories"] = []
    with pytest.raises(DatasetError, match=r"train\.json: the split 'train' has no class, so it cannot be copied"):
        fix(check(write(tmp_path / "other", splits)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reasons_of_a_loss_count_each_image_and_box_of_the_split_once(tmp_path):
    splits = clean()
    rows = splits["train"]["annotations"]
    rows[0]["bbox"] = [10, 8, 0, 24]  # its image is missing: it is left out with it
    rows[2]["bbox"] = [10, 8, 30, 0]
    rows[3]["category_id"] = 5
    rows[4]["image_id"] = 99
    splits["val"]["annotations"][0]["bbox"] = [200, 8, 30, 24]
    root = write(tmp_path / "set", splits)
    (root / "images/train/a.jpg").unlink()
    with pytest.raises(DatasetError) as caught:
        fix(check(root), tmp_path / "out")
    said = str(caught.value).partition("cleaned copy of ")[2].partition(". Correct")[0]
    images, boxes = said.split(" and 5 of 6 boxes ")
    assert images == "'train' would lose 1 of 3 images (listed images without a file: 1)"
    reasons = dict(reason.rsplit(": ", 1) for reason in boxes.strip("()").split("; "))
    assert reasons == {
        "with those images": "2",
        "boxes without width or height": "1",
        "boxes of classes that are not listed": "1",
        "annotations of images that are not listed": "1",
    }


def test_names_that_are_not_text(tmp_path):
    splits = clean()
    splits["train"]["images"][0]["file_name"] = "\ud800\x1b[31m.jpg"
    splits["train"]["images"][1]["file_name"] = "b\n.jpg"
    (tmp_path / "set/images/train").mkdir(parents=True)
    (tmp_path / "set/images/train/b\n.jpg").write_bytes(b"")
    listed, splits["train"]["images"] = splits["train"]["images"], splits["train"]["images"][1:]
    root = write(tmp_path / "set", splits)
    splits["train"]["images"] = listed
    (root / "annotations/train.json").write_text(json.dumps(splits["train"]))
    report = check(root)
    assert "train: \\ud800\\x1b[31m.jpg does not exist" in report.text()
    report.save_html(tmp_path / "page.html")
    fix(report, tmp_path / "out", allow_loss=True)
    line = "missing-file: train/\\ud800\\x1b[31m.jpg with its boxes annotation 1, annotation 2\n"
    assert line in (tmp_path / "out/changes.txt").read_text()
    assert len(open_dataset(tmp_path / "out", split="train")) == 1


def test_the_current_folder_can_be_the_new_one(tmp_path, monkeypatch):
    report = check(write(tmp_path / "set"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    fix(report, ".")
    assert check(tmp_path / "here").findings == []


@pytest.mark.parametrize("sides", [[-9, -20], [-9, 20], [-1e14, -1e14], [-1e-300, -1e-300], [0, 0]])
def test_boxes_without_area_cause_no_numpy_warning(tmp_path, sides):
    splits = clean()
    for row in splits["train"]["annotations"]:
        row["bbox"][2:] = sides
    report = check(write(tmp_path / "set", splits))
    with pytest.raises(DatasetError, match=r"'train' would lose 0 of 3 images and 6 of 6 boxes \(boxes without width"):
        fix(report, tmp_path / "out")
    np.testing.assert_array_equal(visible_share(report.survey, 0), np.ones(6))


def test_visible_share_of_a_box(tmp_path):
    splits = clean()
    boxes = [[10, 8, 30, 24], [-10, 8, 20, 24], [86, 54, 20, 20], [200, 8, 20, 20], [5, 5, -9, -20], [-30, 5, 20, 20]]
    for row, box in zip(splits["train"]["annotations"], boxes, strict=True):
        row["bbox"] = box
    shares = visible_share(check(write(tmp_path, splits)).survey, 0)
    np.testing.assert_allclose(shares, [1, 0.5, 0.25, 0, 1, 0])
