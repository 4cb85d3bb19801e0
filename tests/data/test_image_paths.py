"""Image paths written by other programs give the images and boxes of the standard dataset, or a clear error."""

import json
import logging
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from rtdetr.data import DetectionDataset, check, open_dataset
from rtdetr.data import image_paths as module
from rtdetr.data.doctor import fix
from rtdetr.data.image_paths import ANNOTATIONS, CASE, DECODED, NAME, SLASH, locate
from rtdetr.errors import DatasetError, MissingSplitError
from tests.data.doctor.test_formats import write_voc, write_yolo
from tests.data.doctor_files import clean, picture, write

FILES = ("a b.jpg", "b.jpg", "é.jpg")


def label_studio(root: Path, form: str = "{name}") -> Path:
    """result.json beside images/, as Label Studio exports it, with paths of one form."""
    document = clean()["train"]
    folder = root / "images"
    folder.mkdir(parents=True)
    for seed, (row, name) in enumerate(zip(document["images"], FILES, strict=True)):
        picture(seed).save(folder / name)
        row["file_name"] = form.format(name=name, quoted=name.replace(" ", "%20").replace("é", "%C3%A9"), root=root)
    (root / "result.json").write_text(json.dumps(document))
    return root


FORMS = {
    "own folder": ("images/{name}", ANNOTATIONS),
    "backslash": ("images\\{name}", SLASH),
    "dot": (".\\images\\{name}", SLASH),
    "upload": ("..\\..\\media\\upload\\{name}", NAME),
    "drive": ("C:\\data\\{name}", NAME),
    "drive with slashes": ("C:/data/{name}", NAME),
    "server": ("\\\\server\\share\\{name}", NAME),
    "another machine": ("/home/someone/{name}", NAME),
    "encoded": ("{quoted}", DECODED),
    "encoded below": ("images%2F{quoted}", DECODED),
    "encoded backslash": ("images%5C{quoted}", DECODED),
    "file address": ("file://{root}/images/{quoted}", DECODED),
    "file address of another machine": ("file:///C:/data/{quoted}", NAME),
    "web address": ("https://host.example/upload/{quoted}?token=1", NAME),
    "local files": ("/data/local-files/?d=images%5C{quoted}", DECODED),
    "bucket": ("s3://bucket/set/{name}", NAME),
}


def assert_tidy(dataset, tidy):
    assert [dataset.path(i).resolve().name for i in range(3)] == list(FILES)
    for i in range(3):
        assert dataset.path(i).is_file()
        np.testing.assert_array_equal(np.asarray(dataset.load(i)[0]), np.asarray(tidy.load(i)[0]))
        assert dataset.target(i)["boxes_xyxy"].tolist() == tidy.target(i)["boxes_xyxy"].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_paths_written_by_other_programs(tmp_path, caplog, form):
    tidy = open_dataset(label_studio(tmp_path / "tidy"), split="train")
    assert caplog.messages == []
    text, way = FORMS[form]
    root = label_studio(tmp_path / "set", text)
    dataset = open_dataset(root, split="train")
    assert_tidy(dataset, tidy)
    assert dataset.annotations.file_names.tolist() == list(FILES)  # what reports and copies show
    [message] = caplog.messages
    told = sum(name != text.format(name=name, quoted=name, root=root) for name in FILES)
    if form == "encoded":
        told = 2  # b.jpg is as written
    assert message.startswith(f"{root / 'result.json'}: {told} of its 3 images are not at the listed path")
    assert f": {told} {way}; the first, " in message
    assert_tidy(DetectionDataset(root / "images", root / "result.json"), tidy)
    report = check(root)
    assert [(finding.kind, finding.count) for finding in report.findings] == [("other-path", told)]
    assert report.sound
    changes = fix(report, tmp_path / "out")
    assert [change.kind for change in changes] == ["other-path"] * told
    assert_tidy(open_dataset(tmp_path / "out", split="train"), tidy)
    assert check(tmp_path / "out").findings == []


@pytest.mark.parametrize(("listed", "stored"), [("A.PNG", "a.png"), ("x/a.png", "A.Png"), ("ÉA.png", "éa.png")])
def test_names_in_another_case_are_tried_last(tmp_path, listed, stored):
    (tmp_path / stored).touch()
    located = locate([listed], tmp_path, annotations_dir=tmp_path)
    assert (located.names, located.ways) == ([stored], {0: CASE})
    (tmp_path / Path(listed).name).touch()  # the same case wins
    assert locate([listed], tmp_path, annotations_dir=tmp_path).names == [Path(listed).name]


def test_another_unicode_form_is_found(tmp_path):
    (tmp_path / unicodedata.normalize("NFD", "é.png")).touch()
    located = locate(["é.png"], tmp_path, annotations_dir=tmp_path)
    assert (located.names, located.ways) == ([unicodedata.normalize("NFD", "é.png")], {0: NAME})


def test_the_order_of_search(tmp_path):
    """Each file that an earlier way finds is removed, and the next one is found."""
    images, beside = tmp_path / "images", tmp_path
    name = "sub\\a%20b.png"
    order = [
        (images / name, None),
        (beside / name, ANNOTATIONS),
        (images / "sub/a%20b.png", SLASH),
        (beside / "sub/a%20b.png", SLASH),
        (images / "sub/a b.png", DECODED),
        (beside / "sub/a b.png", DECODED),
        (images / "other/a b.png", NAME),
        (images / "other/A B.PNG", CASE),
    ]
    for file, _ in order:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for file, way in order:
        located = locate([name], images, annotations_dir=beside)
        assert located.ways.get(0) == way
        assert (images / located.names[0]).resolve() == file.resolve()
        file.unlink()
    assert locate([name], images, annotations_dir=beside).missing == [0]


def test_a_name_in_two_folders_is_refused_with_both(tmp_path):
    root = label_studio(tmp_path / "set", "C:\\data\\{name}")
    (root / "images/old").mkdir()
    picture(9).save(root / "images/old/b.jpg")
    with pytest.raises(
        DatasetError, match=r"image 'C:.*b\.jpg' is not at its listed path and could be b\.jpg or old/b\.jpg"
    ) as caught:
        open_dataset(root, split="train")
    assert "\n" not in str(caught.value)
    report = check(root)
    found = {finding.kind: finding for finding in report.findings}
    assert set(found) == {"ambiguous-file", "other-path", "unlabeled-image"}
    assert "could be b.jpg or old/b.jpg" in found["ambiguous-file"].examples[0].detail
    with pytest.raises(DatasetError, match=r"'train' would lose 1 of 3 images \(.*: 1\) and 2 of 6 boxes \(with those"):
        fix(report, tmp_path / "out")
    fix(report, tmp_path / "out", allow_loss=True)
    changes = (tmp_path / "out/changes.txt").read_text().splitlines()
    assert len([line for line in changes if line.startswith(("ambiguous-file", "missing-file"))]) == 1
    (root / "images/old/b.jpg").unlink()
    assert len(open_dataset(root, split="train")) == 3


@pytest.mark.parametrize("names", [["one/x.png", "two/x.png"], ["x.png", "two/x.png"], ["x.png", "X.PNG"]])
def test_a_file_that_matches_two_names_is_refused(tmp_path, names):
    (tmp_path / "x.png").touch()
    located = locate(names, tmp_path, annotations_dir=tmp_path)
    assert 1 in located.ambiguous
    assert "x.png as " in located.ambiguous[1][0]
    assert located.names == names


def test_a_missing_image_next_to_others_is_not_searched_elsewhere(tmp_path):
    for name in ("one/a.png", "one/b.png", "two/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    located = locate(["one/a.png", "one/c.png", "one/B.PNG"], tmp_path, annotations_dir=tmp_path)
    assert (located.missing, located.names[2], located.ways) == ([1], "one/b.png", {2: CASE})
    assert locate(["one/c.png"], tmp_path / "two", annotations_dir=tmp_path).names == ["c.png"]


def test_two_spellings_of_one_path_are_one_name(tmp_path):
    (tmp_path / "x.png").touch()
    located = locate(["up/x.png", "up\\x.png", "up%2Fx.png"], tmp_path, annotations_dir=tmp_path)
    assert located.names == ["x.png"] * 3 and not located.ambiguous


@pytest.mark.parametrize("name", ["", "/", "..", "\0.png", "\ud800.png", "http://[", "?d=", "a" * 5000, "x/" * 2000])
def test_invalid_names_are_missing(tmp_path, name):
    (tmp_path / "x.png").touch()
    assert locate([name], tmp_path / "none", annotations_dir=tmp_path).missing == [0]
    assert locate([name], tmp_path, annotations_dir=tmp_path).missing == [0]


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number in range(200):
        (tmp_path / f"images/{number}.png").touch()
    listed: list[Path] = []
    listing = module.listing
    monkeypatch.setattr(module, "listing", lambda folder: listed.append(folder) or listing(folder))
    names = [f"C:\\up\\{number}.png" for number in range(200)]
    assert len(locate(names, tmp_path / "images", annotations_dir=tmp_path).ways) == 200
    assert len(listed) <= 8


def test_links_and_absolute_paths_are_kept(tmp_path):
    (tmp_path / "far/images").mkdir(parents=True)
    (tmp_path / "far/other").mkdir()
    (tmp_path / "far/other/x.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set/images").symlink_to(tmp_path / "far/images")
    (tmp_path / "set/other").mkdir()
    (tmp_path / "set/other/y.png").touch()
    located = locate(["../other/x.png", "other/y.png"], tmp_path / "set/images", annotations_dir=tmp_path / "set")
    assert located.names == ["../other/x.png", str((tmp_path / "set/other/y.png").resolve())]


def test_the_suggested_remedy_works(tmp_path):
    root = label_studio(tmp_path / "set", "C:\\data\\{name}")
    (root / "images").rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="give the right folder with --images of 'train', 'evaluate' or 'data"):
        open_dataset(root / "result.json", split="train")
    assert len(open_dataset(root, split="train", images=tmp_path / "moved")) == 3
    runner, moved, file = CliRunner(), str(tmp_path / "moved"), str(root / "result.json")
    result = runner.invoke(app, ["data", "check", file, "--images", moved])
    assert result.exit_code == 0, result.output
    for verb in ("train", "evaluate", "data check"):
        assert "--images" in runner.invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"}).output
    assert "--val-images" in runner.invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.slow
def test_the_command_line_trains_and_evaluates(tmp_path, caplog):
    root = label_studio(tmp_path / "set", "..\\..\\media\\upload\\{name}")
    options = ["--model", "test-tiny", "--size", "64", "--batch-size", "2", "--epochs", "1", "--device", "cpu"]
    more = ["--precision", "float32", "--workers", "0", "--output", str(tmp_path / "run")]
    runner = CliRunner()
    result = runner.invoke(app, ["train", str(root), "--val-data", str(root / "result.json"), *options, *more])
    assert result.exit_code == 0, result.output
    assert any("3 of its 3 images are not at the listed path" in message for message in caplog.messages)
    evaluate = ["evaluate", str(tmp_path / "run/last.pth"), str(root / "result.json"), "--device", "cpu"]
    result = runner.invoke(app, [*evaluate, "--output", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "report/worst_images").iterdir())


@pytest.mark.parametrize(
    "name", ["result.json", "_annotations.coco.json", "labels-final.json", "annotations/_annotations.coco.json"]
)
def test_the_only_annotation_file_of_a_folder_is_found(tmp_path, name):
    root = label_studio(tmp_path / "set")
    (root / name).parent.mkdir(exist_ok=True)
    (root / "result.json").rename(root / name)
    (root / "settings.json").write_text('{"images": 3}')
    (root / "empty.json").touch()
    assert len(open_dataset(root, split="train")) == 3
    with pytest.raises(MissingSplitError, match=f"only annotation file .*{name} names no split and counts as 'train'"):
        open_dataset(root, split="val")
    assert check(root).findings == []  # the images are in `images`, where they are expected


def test_a_file_in_utf_16_is_found(tmp_path):
    root = label_studio(tmp_path / "set")
    text = (root / "result.json").read_text()
    (root / "result.json").write_text(text, encoding="utf-16")
    assert len(open_dataset(root, split="train")) == 3


def test_ambiguous_annotation_files_are_refused(tmp_path):
    root = label_studio(tmp_path / "set")
    shutil.copy(root / "result.json", root / "annotations.json")
    with pytest.raises(DatasetError, match="several annotation files"):
        open_dataset(root, split="train")
    (root / "result.json").rename(root / "val.json")
    with pytest.raises(MissingSplitError, match="no annotations for 'train'"):
        open_dataset(root, split="train")


@pytest.mark.parametrize("tag", ["filename", "path"])
@pytest.mark.parametrize("size", [True, False])
def test_voc_files_that_name_images_elsewhere(tmp_path, tag, size):
    tidy = open_dataset(write_voc(tmp_path / "tidy"), split="train")
    root = write_voc(tmp_path / "set")
    for file in (root / "Annotations").iterdir():
        text = file.read_text().replace("<filename>", f"<{tag}>C:\\data\\new-").replace("</filename>", f"</{tag}>")
        if not size:
            text = text[: text.index("<size>")] + text[text.index("</size>") + 7 :]
        file.write_text(text)
    for image in list((root / "JPEGImages").iterdir()):
        image.rename(image.with_name(f"new-{image.name}"))
    dataset = open_dataset(root, split="train")
    assert dataset.annotations.file_names.tolist() == ["new-a.jpg", "new-b.jpg", "new-c.jpg"]
    np.testing.assert_array_equal(dataset.annotations.boxes_xywh, tidy.annotations.boxes_xywh)
    np.testing.assert_array_equal(dataset.annotations.sizes_wh, tidy.annotations.sizes_wh)
    report = check(root)
    assert [(finding.kind, finding.count) for finding in report.findings] == [("other-path", 5)]
    fix(report, tmp_path / "out")
    assert open_dataset(tmp_path / "out", split="train").annotations.file_names.tolist()[0] == "new-a.jpg"


@pytest.mark.parametrize("form", ["images\\train\\{}", "C:\\data\\train\\{}", "./images%2Ftrain%2F{}", "/elsewhere/{}"])
def test_yolo_lists_with_other_paths(tmp_path, caplog, form):
    tidy = open_dataset(write_yolo(tmp_path / "tidy"), split="train")
    root = write_yolo(tmp_path / "set")
    (root / "train.txt").write_text("\n".join(form.format(name) for name in ("a.jpg", "b.jpg", "c.jpg")))
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: {3: cat, 7: dog}\n")
    dataset = open_dataset(root, split="train")
    assert any("3 of its 3 images are not at the listed path" in message for message in caplog.messages)
    np.testing.assert_array_equal(dataset.annotations.boxes_xywh, tidy.annotations.boxes_xywh)
    assert check(root).sound


def test_a_yolo_list_does_not_guess_between_folders(tmp_path):
    root = write_yolo(tmp_path / "set")
    shutil.copy(root / "images/train/a.jpg", root / "images/val/a.jpg")
    (root / "train.txt").write_text("D:\\a.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: {3: cat, 7: dog}\n")
    with pytest.raises(
        DatasetError, match=r"a\.jpg' is not at its listed path and could be .*a\.jpg or .*Correct its path in the"
    ):
        open_dataset(root, split="train")


def test_a_standard_dataset_gives_no_notes(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="rtdetr"):
        open_dataset(write(tmp_path / "set"), split="train")
    assert caplog.messages == []
