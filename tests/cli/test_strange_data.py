"""Datasets with labels in unusual places, names and encodings, with `rtdetr data check` and `rtdetr train`."""

import pytest
from typer.testing import CliRunner

from rtdetr.cli.main import app
from tests.data.doctor.test_formats import write_voc, write_yolo
from tests.data.test_encodings import FORMATS, in_encoding, renamed
from tests.data.test_label_files import LAYOUTS

TRAIN = ["--model", "test-tiny", "--weights", "none", "--device", "cpu", "--workers", 0, "--size", 64]
PLAN = "data           3 images ({} without objects); 2 classes; validation: 2 images (0 without objects)\n"


@pytest.fixture(autouse=True)
def _memory_is_not_counted(monkeypatch):
    """It takes longer than the rest of a dry run, and has tests of its own."""
    monkeypatch.setattr("rtdetr.training.setup.estimate_memory", lambda *_, **__: None)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def dry_run(root, *more):
    return run("train", root, "--output", root.parent / "run", "--dry-run", *TRAIN, *more)


def assert_sound(root):
    result = run("data", "check", root)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "The data is sound."), result.output
    result = dry_run(root)
    assert result.exit_code == 0, result.output
    assert PLAN.format(0) in result.stdout


@pytest.mark.parametrize("layout", ["beside", "suffix", "Labels", "whole name", "NFC, NFD", "NFD, NFC"])
def test_labels_in_every_usual_place(tmp_path, layout):
    root = write_yolo(tmp_path / "set")
    LAYOUTS[layout](root)
    assert_sound(root)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        ("coco", "utf-8-sig"),
        ("yolo", "utf-16-le"),
        ("yolo list", "no mark, utf-16-be"),
        ("voc", "no mark, utf-16-le"),
        ("voc list", "utf-16-be"),
    ],
)
def test_text_in_other_encodings(tmp_path, kind, encoding):
    assert_sound(renamed(FORMATS[kind](tmp_path / "set"), lambda text, _: in_encoding(text, encoding)))


def test_decimal_commas(tmp_path):
    root = write_yolo(tmp_path / "set")
    for file in (root / "labels").rglob("*.txt"):
        file.write_text(file.read_text().replace(".", ","))
    assert_sound(root)


def test_images_without_labels(tmp_path, caplog):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").unlink()
    result = run("data", "check", root)
    assert result.exit_code == 1
    assert "images without any label: 1" in result.stdout and "sound" not in result.stdout
    result = dry_run(root)
    assert result.exit_code == 0, result.output
    assert PLAN.format(1) in result.stdout
    assert "1 of the 3 images of train has no label file and is used as background" in caplog.text


@pytest.mark.parametrize("make", [write_yolo, write_voc])
def test_a_misplaced_label_file(tmp_path, make):
    root = make(tmp_path / "set")
    old, new = ("labels/train/a.txt", "labels/a.txt") if make is write_yolo else ("Annotations/a.xml", "xml/a.xml")
    (root / new).parent.mkdir(exist_ok=True)
    (root / old).rename(root / new)
    result = run("data", "check", root)
    assert result.exit_code == 1
    assert f"but {root / new} " in result.stdout and "sound" not in result.stdout
    result = dry_run(root)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith("DatasetError: ") and f"but {root / new} " in line


def test_a_training_set_without_objects(tmp_path):
    root = write_yolo(tmp_path / "set")
    for file in (root / "labels/train").iterdir():
        file.write_text("")
    result = run("data", "check", root)
    assert result.exit_code == 1
    assert "splits without objects: 1" in result.stdout and "sound" not in result.stdout
    assert PLAN.format(3) in dry_run(root).stdout


def test_settings_in_another_encoding(tmp_path):
    root = write_yolo(tmp_path / "set")
    (tmp_path / "own.yml").write_text("seed: 4\r\ntrain: {epochs: 30}\r\n", encoding="utf-16", newline="")
    result = dry_run(root, "--config", tmp_path / "own.yml")
    assert result.exit_code == 0, result.output
    assert "length         30 epochs" in result.stdout
    (tmp_path / "own.yml").write_bytes(b"# \xe9\nseed: 4")
    result = dry_run(root, "--config", tmp_path / "own.yml")
    assert result.exit_code == 2
    assert result.stderr.startswith("ConfigError: ") and "own.yml: expected text in UTF-8" in result.stderr


def test_an_unknown_encoding_is_reported_on_one_line(tmp_path):
    root = write_yolo(tmp_path / "set")
    (root / "labels/train/a.txt").write_bytes(b"3 0.5 0.5 0.1 0.1 \xe9")
    result = dry_run(root)
    assert result.exit_code == 2
    [line] = result.stderr.strip().splitlines()
    assert line.startswith(f"DatasetError: {root}/labels/train/a.txt: expected text in UTF-8") and "tried UTF-8" in line
    result = run("data", "check", root)
    assert result.exit_code == 1
    assert "tried UTF-8, but byte 19 in line 1 is invalid" in result.stdout
