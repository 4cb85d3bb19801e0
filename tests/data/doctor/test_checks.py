"""Each finding with a dataset that has exactly this defect; a sound dataset has none."""

import inspect
import shutil

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rtdetr.data import check
from rtdetr.data.doctor.findings import KINDS
from rtdetr.data.doctor.thumbnails import thumbnails
from rtdetr.errors import ConfigError, DatasetError
from tests.data.doctor.test_formats import write_yolo
from tests.data.doctor_files import clean, picture, write


def kinds(report):
    return {finding.kind: finding.count for finding in report.findings}


def only(report, kind):
    """The one finding, and its first example."""
    assert set(kinds(report)) == {kind}, report.text()
    return report.findings[0], report.findings[0].examples[0]


def test_a_sound_dataset_has_no_findings(tmp_path):
    report = check(write(tmp_path / "set"))
    assert report.findings == []
    assert report.sound
    assert [(row.name, row.images, row.empty, row.objects) for row in report.splits] == [
        ("train", 3, 0, 6),
        ("val", 2, 0, 4),
    ]
    assert [(row.name, row.objects, row.images) for row in report.classes] == [
        ("cat", [3, 2], [3, 2]),
        ("dog", [3, 2], [3, 2]),
    ]


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_dark_16_bit_images_are_distinguished(tmp_path, suffix):
    splits = clean()
    folder = tmp_path / "set/images/train"
    folder.mkdir(parents=True)
    for seed, image in enumerate(splits["train"]["images"]):
        image["file_name"] = f"{'abc'[seed]}.{suffix}"
        levels = np.asarray(picture(seed if seed < 2 else 0).convert("L")).astype(np.uint16) * 4  # 10 of 16 bits
        levels[0, 0] += seed
        if suffix == "npy":
            np.save(folder / image["file_name"], levels)
        else:
            Image.fromarray(levels).save(folder / image["file_name"])
    finding, example = only(check(write(tmp_path / "set", splits)), "near-same-image")
    assert finding.count == 1
    assert example.file == f"c.{suffix}" and example.detail.endswith(f" as train/a.{suffix}")


def test_images_with_many_channels_are_shown(tmp_path):
    splits = clean()
    splits["train"]["images"][0]["file_name"] = "a.npy"
    splits["train"]["annotations"][0]["bbox"] = [10, 8, 0, 24]
    (tmp_path / "set/images/train").mkdir(parents=True)
    np.save(tmp_path / "set/images/train/a.npy", np.full((64, 96, 6), 200, dtype=np.uint8))
    report = check(write(tmp_path / "set", splits))
    _, example = only(report, "degenerate-box")
    [shown] = thumbnails(report.survey, example)
    assert (np.asarray(shown.image) == 200).mean() > 0.5


def _change(number, **keys):
    """Give keys of an annotation in the training split other values."""

    def change(splits):
        splits["train"]["annotations"][number].update(keys)

    return change


def _change_image(number, **keys):
    def change(splits):
        splits["train"]["images"][number].update(keys)

    return change


def _append(kind, **row):
    def change(splits):
        splits["train"][kind].append(row)

    return change


def _rename_class(splits):
    splits["val"]["categories"][0]["name"] = "kitten"


def _without(key):
    def change(splits):
        del splits["train"]["annotations"][2][key]

    return change


ENTRY_DEFECTS = {
    "bbox text": (_change(2, bbox=[1, 2, "x", 4]), "unreadable-entry", "annotation 3"),
    "bbox short": (_change(2, bbox=[1, 2, 3]), "unreadable-entry", "annotation 3"),
    "bbox NaN": (_change(2, bbox=[1, 2, 3, float("nan")]), "unreadable-entry", "annotation 3"),
    "bbox huge": (_change(2, bbox=[1, 2, 3, 10**400]), "unreadable-entry", "annotation 3"),
    "no bbox": (_without("bbox"), "unreadable-entry", "annotation 3"),
    "no image_id": (_without("image_id"), "unreadable-entry", "annotation 3"),
    "same annotation id": (_change(2, id=1), "duplicate-id", "annotation 1"),
    "text id": (_change(2, id="x"), "wrong-id", "annotation 'x'"),
    "area": (_change(2, area="large"), "wrong-value", "annotation 3"),
    "negative area": (_change(2, area=-1), "wrong-value", "annotation 3"),
    "iscrowd": (_change(2, iscrowd=[]), "wrong-value", "annotation 3"),
    "width": (_change_image(1, width="wide"), "wrong-value", "image 11"),
    "unknown image": (_change(2, image_id=99), "unknown-image", "annotation 3"),
    "unknown class": (_change(2, category_id=99), "unknown-class", "annotation 3"),
    "class name": (
        lambda s: [_append("categories", id=9, name="cat")(s), _change(2, category_id=9)(s)],
        "same-class-name",
        "category 9",
    ),
    "class id": (_append("categories", id=3, name="cow"), "duplicate-id", "category 3"),
    "unused class": (
        lambda s: [_append("categories", id=9, name="x")(s), s["val"]["categories"].append({"id": 9, "name": "x"})],
        "unused-class",
        "class 'x'",
    ),
}


@pytest.mark.parametrize("defect", ENTRY_DEFECTS)
def test_entries(tmp_path, defect):
    change, kind, annotation = ENTRY_DEFECTS[defect]
    splits = clean()
    change(splits)
    finding, example = only(check(write(tmp_path, splits)), kind)
    assert finding.count == 1
    assert example.annotation == annotation


BOX_DEFECTS = {
    "no width": ([10, 10, 0, 20], "degenerate-box", "has width 0 and height 20"),
    "negative": ([10, 10, 20, -1], "degenerate-box", "has width 20 and height -1"),
    "outside": ([97, 10, 20, 20], "box-outside", "spans x 97 to 117, y 10 to 30, but the image is 96x64"),
    "left of it": ([-30, 10, 30, 20], "box-outside", "spans x -30 to 0"),
    "over the border": ([80, 10, 20, 20], "box-over-border", "extends 4 pixels beyond the image of 96x64"),
    "narrow": ([10, 10, 0.1, 30], "vanishing-box", "is 0.667x300 pixels at 640x640 (0.1x30 in the image)"),
    "one pixel": ([10, 10, 1, 1], "tiny-box", "is 3.33x5 pixels at 320x320 (1x1 in the image)"),
    "less than a pixel": ([10, 10, 0.9, 40], "vanishing-box", "(0.9x40 in the image)"),
}


@pytest.mark.parametrize("defect", BOX_DEFECTS)
def test_boxes(tmp_path, defect):
    box, kind, detail = BOX_DEFECTS[defect]
    splits = clean()
    splits["train"]["annotations"][2]["bbox"] = box
    size = (320, 320) if kind == "tiny-box" else (640, 640)
    report = check(write(tmp_path, splits), size_hw=size)
    finding, example = only(report, kind)
    assert (finding.count, example.part, example.file, example.annotation) == (1, "train", "b.jpg", "annotation 3")
    assert detail in example.detail


def test_a_box_over_the_whole_image_is_fine(tmp_path):
    splits = clean()
    splits["train"]["annotations"][2]["bbox"] = [-0.5, 0, 97, 64.5]
    assert check(write(tmp_path, splits)).findings == []


def test_a_repeated_box(tmp_path):
    splits = clean()
    splits["train"]["annotations"].append({**splits["train"]["annotations"][2], "id": 77})
    splits["train"]["annotations"].append({**splits["train"]["annotations"][2], "id": 78, "category_id": 7})
    finding, example = only(check(write(tmp_path, splits)), "repeated-box")
    assert (finding.count, example.annotation) == (1, "annotation 77")


def test_missing_corrupt_and_unlisted_files(tmp_path):
    root = write(tmp_path)
    (root / "images/train/a.jpg").unlink()
    _, example = only(check(root), "missing-file")
    assert example.line() == "train: a.jpg does not exist"
    whole = (root / "images/train/b.jpg").read_bytes()
    for data, problem in ((b"", "is empty"), (b"text", "is not an image"), (whole[: len(whole) // 2], "truncated")):
        picture(ord("a")).save(root / "images/train/a.jpg")
        (root / "images/train/b.jpg").write_bytes(data)
        _, example = only(check(root), "corrupt-image")
        assert example.file == "b.jpg"
        assert problem in example.detail
    (root / "images/train/b.jpg").write_bytes(whole)
    picture(1).save(root / "images/val/more.png")
    (root / "images/val/notes.txt").write_text("no image")
    _, example = only(check(root), "unlabeled-image")  # one of six is more than a few
    assert example.file == str(root / "images/val/more.png")
    _, example = only(check([root / "annotations/train.json", root / "annotations/val.json"]), "unlisted-file")
    assert example.file == str(root / "images/val/more.png")


def test_the_folder_of_images_can_be_given(tmp_path):
    root = write(tmp_path)
    (root / "images").rename(root / "elsewhere")
    assert kinds(check(root))["missing-file"] == 5
    assert check(root / "annotations/train.json", images=root / "elsewhere/train").findings == []


def test_an_image_of_another_size(tmp_path):
    root = write(tmp_path)
    picture(ord("a"), (60, 90)).save(root / "images/train/a.jpg")
    _, example = only(check(root), "size-mismatch")
    assert example.detail == "is annotated as 96x64, but the file has 60x90"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_rotation(tmp_path, orientation):
    root = write(tmp_path)
    exif = Image.Exif()
    exif[0x112] = orientation
    picture(ord("a")).save(root / "images/train/a.jpg", exif=exif)
    if orientation < 5:  # the size is the same either way, so the annotations are taken to be upright
        _, example = only(check(root), "exif-tag")
        turns = {2: "mirrored", 3: "upside down", 4: "upside down and mirrored"}
        assert example.detail == f"of 96x64 is {turns[orientation]} in the file"
        return
    _, example = only(check(root), "exif-rotation")
    assert example.detail == "is annotated as 96x64, but is 64x96 after EXIF rotation"
    picture(ord("a"), (64, 96)).save(root / "images/train/a.jpg", exif=exif)
    _, example = only(check(root), "exif-tag")
    assert example.detail == "is 64x96 in the file and 96x64 after EXIF rotation"


def test_empty_images(tmp_path):
    splits = clean()
    splits["val"]["annotations"] = splits["val"]["annotations"][:2]
    report = check(write(tmp_path, splits))
    _, example = only(report, "empty-image")
    assert (example.file, report.sound, report.splits[1].empty) == ("e.jpg", True, 1)


def test_more_objects_than_queries(tmp_path):
    root = write(tmp_path)
    finding, example = only(check(root, queries=1), "too-many-objects")
    assert (finding.count, example.detail) == (5, "has 2 objects, but the model has 1 query")
    assert check(root, queries=2).findings == []


def test_distorted_images(tmp_path):
    root = write(tmp_path)
    finding, example = only(check(root, size_hw=(640, 320)), "distorted-image")
    assert (finding.count, example.detail) == (5, "of 96x64 is stretched 3.0 times")
    assert check(root, size_hw=(320, 640)).findings == []


def test_copies_and_leaks(tmp_path):
    root = write(tmp_path)
    shutil.copy(root / "images/train/a.jpg", root / "images/train/b.jpg")
    _, example = only(check(root), "same-image")
    assert example.line() == "train: b.jpg is the same as train/a.jpg"
    shutil.copy(root / "images/val/d.jpg", root / "images/train/b.jpg")
    _, example = only(check(root), "leak")
    assert example.line() == "train: b.jpg is the same as val/d.jpg"


@pytest.mark.parametrize("change", ["quality", "brightness", "size", "format"])
def test_nearly_the_same_images(tmp_path, change):
    root = write(tmp_path)
    image = Image.open(root / "images/val/d.jpg")
    match change:
        case "quality":
            image.save(root / "images/train/b.jpg", quality=40)
        case "brightness":
            ImageEnhance.Brightness(image).enhance(0.9).save(root / "images/train/b.jpg")
        case "size":
            large = image.resize((192, 128))
            large.resize((96, 64)).save(root / "images/train/b.jpg")
        case "format":
            image.save(root / "images/train/b.jpg", format="PNG")
    report = check(root)
    _, example = only(report, "near-leak")
    assert example.line() == "train: b.jpg is nearly the same as val/d.jpg"
    assert not report.sound
    shutil.copy(root / "images/train/b.jpg", root / "images/val/e.jpg")
    assert set(kinds(check(root))) == {"leak", "near-leak", "near-same-image"}


def test_images_that_differ_in_one_object_are_not_duplicates(tmp_path):
    root = write(tmp_path)
    for name, left in (("a", 10), ("b", 60)):
        image = Image.new("RGB", (96, 64), (200, 200, 200))
        image.paste((20, 20, 20), (left, 20, left + 10, 30))
        image.save(root / f"images/train/{name}.jpg")
    assert check(root).findings == []


def test_class_lists(tmp_path):
    splits = clean()
    _rename_class(splits)
    found = kinds(check(write(tmp_path, splits)))
    assert found == {"class-lists-differ": 2, "untrained-class": 1, "unmeasured-class": 1}
    splits = clean()
    for split in splits.values():
        split["categories"].append({"id": 9, "name": "cow"})
    splits["val"]["annotations"][0]["category_id"] = 9
    _, example = only(check(write(tmp_path / "other", splits)), "untrained-class")
    assert (example.annotation, example.detail) == ("class 'cow'", "has none here and 1 in other splits")


def test_two_files_with_one_image_id(tmp_path):
    splits = clean()
    splits["train"]["images"].append({"id": 10, "file_name": "x.jpg", "width": 96, "height": 64})
    report = check(write(tmp_path, splits))
    finding = report.findings[0]
    assert (finding.kind, finding.count) == ("duplicate-id", 1)
    assert "its boxes cannot be assigned" in finding.examples[0].detail
    assert report.splits[0].images == 2  # neither of the two can be used


def test_a_split_without_content(tmp_path):
    splits = clean()
    splits["val"] = {"images": []}
    found = kinds(check(write(tmp_path, splits)))
    assert found == {"unreadable-entry": 2, "no-image": 1, "no-class": 1}


def test_several_files_are_splits_of_one_dataset(tmp_path):
    root = write(tmp_path)
    shutil.copy(root / "images/val/d.jpg", root / "images/train/b.jpg")
    files = [root / "annotations/train.json", root / "annotations/val.json"]
    _, example = only(check(files), "leak")
    assert example.line() == "train: b.jpg is the same as val/d.jpg"
    assert [row.name for row in check([root, root]).splits] == ["train-1", "train-2", "val-1", "val-2"]


def test_the_order_of_the_files_does_not_matter(tmp_path):
    root = write(tmp_path)
    shutil.copy(root / "images/val/d.jpg", root / "images/train/b.jpg")
    _, example = only(check([root / "annotations/val.json", root / "annotations/train.json"]), "leak")
    assert example.line() == "train: b.jpg is the same as val/d.jpg"


def test_two_files_of_one_split(tmp_path):
    splits = clean()
    for document in splits.values():
        document["annotations"] = [row for row in document["annotations"] if row["category_id"] == 3]
    first = write(tmp_path / "a", splits)
    splits["train"]["categories"].append({"id": 9, "name": "cow"})
    second = write(tmp_path / "b", splits)
    found = kinds(check([first / "annotations/train.json", second / "annotations/train.json"]))
    assert found == {"class-lists-differ": 1, "same-image": 3, "unused-class": 2}
    splits["val"]["annotations"][0]["category_id"] = 7
    write(second, splits)
    report = check([first / "annotations/train.json", second])
    examples = {finding.kind: finding.examples for finding in report.findings}
    assert examples["untrained-class"][0].line() == "train: class 'dog' has none here and 1 in other splits"


def test_a_named_split_that_cannot_be_read(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "data.yaml").write_text("train: images/train\nval: images/vall\nnames: {3: cat, 7: dog}\n")
    finding, example = only(check(root), "unreadable-split")
    assert (finding.severity, example.part) == ("error", "val")
    assert "vall" in example.detail
    root = write(tmp_path / "coco")
    for number in (1, 2):
        shutil.copy(root / "annotations/val.json", root / f"annotations/instances_val{number}.json")
    _, example = only(check(root), "unreadable-split")
    assert "several annotation files" in example.detail


def test_examples_are_limited_but_counts_are_complete(tmp_path):
    finding, _ = only(check(write(tmp_path), queries=1, max_examples=2), "too-many-objects")
    assert (finding.count, len(finding.examples)) == (5, 2)
    assert "... 3 more" in check(tmp_path, queries=1, max_examples=2).text()


def test_mistakes(tmp_path):
    with pytest.raises(DatasetError, match="no dataset"):
        check(tmp_path / "none")
    with pytest.raises(DatasetError, match="has no annotations for 'train'"):
        check(tmp_path)
    for content in ("text", '{"annotations": []}', "[" * 100_000):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(DatasetError, match="expected a COCO file"):
            check(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="at least 1"):
        check(tmp_path, queries=0)
    with pytest.raises(ConfigError, match="got none"):
        check([])
    with pytest.raises(ConfigError, match="expected paths"):
        inspect.unwrap(check)([{"image": 1}])  # without the tests' check of types, which users do not have


def test_the_table_of_kinds_is_ordered_by_severity():
    order = ["error", "warning", "note"]
    severities = [order.index(kind.severity) for kind in KINDS.values()]
    assert severities == sorted(severities)
