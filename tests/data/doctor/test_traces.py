"""A split that exists but cannot be read is an error in every format; an absent split is not."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.data import check, open_dataset
from rtdetr.data.doctor import fix
from rtdetr.errors import DatasetError
from tests.data.doctor.test_formats import write_voc, write_yolo
from tests.data.doctor_files import clean, write


def voc_folders(root, xml_of_val="", *, name="val"):
    """The sound data set in VOC form with a folder for each split; the XML files of val in a folder of that name."""
    source = write_voc(root / "source")
    for split, letters, xml in (("train", "abc", "train/Annotations"), (name, "de", xml_of_val)):
        (root / split).mkdir(parents=True)
        for letter in letters:
            (source / f"JPEGImages/{letter}.jpg").rename(root / split / f"{letter}.jpg")
            if xml:
                (root / xml).mkdir(parents=True, exist_ok=True)
                (source / f"Annotations/{letter}.xml").rename(root / xml / f"{letter}.xml")
    (source / "labels.txt").rename(root / "labels.txt")
    shutil.rmtree(source)
    return root


def coco_renamed(root):
    """COCO with an annotation file that is not called as it should be, and all images in one folder."""
    write(root)
    for image in sorted((root / "images").glob("*/*.jpg")):
        image.rename(root / "images" / image.name)
    for split in ("train", "val"):
        (root / "images" / split).rmdir()
    (root / "annotations/val.json").rename(root / "annotations/valid_coco.json")
    return root


def coco_images_alone(root):
    write(root)
    (root / "annotations/val.json").unlink()
    return root


def only_file(root):
    """One file without a split in its name, which lists no image of val."""
    write(root)
    (root / "annotations/val.json").unlink()
    (root / "annotations/train.json").rename(root / "annotations/instances_default.json")
    return root


def train_unread(root):
    write(root)
    (root / "annotations/train.json").unlink()
    return root


def yaml_without_val(root):
    (write_yolo(root) / "data.yaml").write_text("train: images/train\nnames: {3: cat, 7: dog}\n")
    return root


def other_list(root):
    file = write_voc(root) / "ImageSets/Main/val.txt"
    file.rename(file.with_name("val_ids.txt"))
    return root


def labels_alone(root):
    """XML files of val whose images lie in the one folder of all."""
    other_list(root)
    (root / "ImageSets/Main/val_ids.txt").unlink()
    (root / "Annotations/val").mkdir()
    for letter in "de":
        (root / f"Annotations/{letter}.xml").rename(root / f"Annotations/val/{letter}.xml")
    return root


UNREAD = {
    "XML in a subfolder": (lambda root: voc_folders(root, "val/xml"), "val has 2 images, but "),
    "XML in labels": (lambda root: voc_folders(root, "valid/labels", name="valid"), "valid has 2 images, but "),
    "XML elsewhere": (lambda root: voc_folders(root, "valxml"), "val has 2 images, but "),
    "no XML": (voc_folders, "val has 2 images, but "),
    "no XML, capitals": (lambda root: voc_folders(root, name="Val_images"), "Val_images has 2 images, but "),
    "other VOC list": (other_list, "Main/val_ids.txt exists, but "),
    "XML alone": (labels_alone, "Annotations/val has annotations, but "),
    "other COCO file": (coco_renamed, "valid_coco.json exists, but "),
    "COCO images alone": (coco_images_alone, "images/val has 2 images, but "),
    "the only COCO file": (only_file, "images/val has 2 images, but "),
    "YAML without val": (yaml_without_val, "images/val has 2 images, but "),
    "train": (train_unread, "images/train has 3 images, but "),
    "test": (lambda root: voc_folders(root, "test/xml", name="test"), "test has 2 images, but "),
    "test, XML elsewhere": (lambda root: voc_folders(root, "more", name="test"), "test has 2 images, but "),
}


@pytest.mark.parametrize("case", UNREAD)
def test_an_unreadable_split_is_an_error(tmp_path, case, caplog):
    make, told = UNREAD[case]
    root = make(tmp_path / "set")
    split = next((name for name in ("train", "test") if case.startswith(name)), "val")
    with pytest.raises(DatasetError):
        open_dataset(root, split=split)
    report = check(root)
    assert not report.sound
    [finding] = [finding for finding in report.findings if finding.kind == "unreadable-split"]
    assert (finding.severity, finding.count, finding.examples[0].part) == ("error", 1, split)
    assert told in finding.examples[0].detail
    assert not any(f"{split!r} is not examined" in message for message in caplog.messages)
    with pytest.raises(DatasetError, match=f"{split}: .*would lack this split.*nothing was written"):
        fix(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_fails_and_writes_no_copy(tmp_path):
    root = voc_folders(tmp_path / "set", "val/xml")
    result = CliRunner().invoke(app, ["data", "check", str(root)])
    assert result.exit_code == 1
    assert "splits that cannot be read: 1" in result.stdout
    assert "is sound" not in result.stdout
    result = CliRunner().invoke(app, ["data", "check", str(root), "--fix", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


def train_alone(root):
    write(root, {"train": clean()["train"]})
    return root


def voc_train_alone(root):
    shutil.rmtree(voc_folders(root, "val") / "val")
    return root


def yolo_train_alone(root):
    yaml_without_val(root)
    shutil.rmtree(root / "images/val")
    shutil.rmtree(root / "labels/val")
    return root


def yolo_all_for_train(root):
    """The folder of val is one of train's."""
    (write_yolo(root) / "data.yaml").write_text("train: images\nnames: {3: cat, 7: dog}\n")
    return root


def coco_all_in_one(root):
    """One file that lists the images of both folders, another that is no annotation file, and an empty folder."""
    both = clean()
    write(root, both)
    for split, document in both.items():
        for image in document["images"]:
            image["file_name"] = f"{split}/{image['file_name']}"
            image["id"] += 100 * (split == "val")
        for row in document["annotations"]:
            row["id"] += 100 * (split == "val")
            row["image_id"] += 100 * (split == "val")
        (root / f"annotations/{split}.json").unlink()
    document = {key: both["train"][key] + both["val"][key] for key in ("images", "annotations")}
    document["categories"] = both["train"]["categories"]
    (root / "annotations/all.json").write_text(json.dumps(document))
    (root / "val_results.json").write_text("[]")
    (root / "val").mkdir()
    return root


def other_files(root):
    """A folder of a program's tests, and results of training."""
    write(root, {"train": clean()["train"]})
    for folder in ("test/cases", "runs/val", "images/val_worst", "val"):
        (root / folder).mkdir(parents=True)
    (root / "test/cases/settings.xml").write_text("<settings/>")
    (root / "test/data.json").write_text('{"images": 3}')
    (root / "val/README.txt").write_text("to come")
    for folder in ("runs/val", "images/val_worst"):
        Image.new("RGB", (96, 64), "blue").save(root / folder / "f.jpg")
    return root


def images_of_test(root):
    """Images of test without annotations, as COCO hands them out."""
    (write(root) / "test2017").mkdir()
    Image.new("RGB", (96, 64), "blue").save(root / "test2017/f.jpg")
    (root / "annotations/image_info_test2017.json").write_text('{"images": [], "categories": []}')
    return root


def trainval(root):
    lists = write_voc(root) / "ImageSets/Main"
    (lists / "train.txt").write_text("\n".join("abcde"))
    (lists / "val.txt").rename(lists / "trainval.txt")
    return root


@pytest.mark.parametrize(
    "make",
    [
        train_alone,
        voc_train_alone,
        yolo_train_alone,
        yolo_all_for_train,
        coco_all_in_one,
        images_of_test,
        other_files,
        trainval,
    ],
)
def test_an_absent_split_is_not_an_error(tmp_path, make):
    report = check(make(tmp_path / "set"))
    assert report.findings == []
    fix(report, tmp_path / "out")
    assert check(tmp_path / "out").sound


def test_the_split_may_be_in_a_second_source(tmp_path):
    root = coco_renamed(tmp_path / "set")
    report = check([root, root / "annotations/valid_coco.json"])
    assert [part.name for part in report.survey.parts] == ["train", "valid_coco"]
    assert report.findings == []


def test_paths_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(yolo_all_for_train(tmp_path / "set"))
    assert check(".").findings == []
    assert check("data.yaml").findings == []
    (tmp_path / "set/data.yaml").write_text("train: images/train\nnames: {3: cat, 7: dog}\n")
    assert [finding.kind for finding in check("data.yaml").findings] == ["unreadable-split"]


@pytest.mark.parametrize("name", ["a\0b/c.jpg", "\ud800/c.jpg", f"{'x' * 300}/c.jpg", "/"])
def test_impossible_file_names(tmp_path, name):
    splits = clean()
    splits["train"]["images"].append({"id": 99, "file_name": name, "width": 96, "height": 64})
    root = tmp_path / "set"
    write(root)
    (root / "annotations/train.json").write_text(json.dumps(splits["train"]))
    assert "unreadable-split" not in [finding.kind for finding in check(root).findings]
    (root / "annotations/val.json").unlink()
    assert check(root).findings[0].kind == "unreadable-split"
