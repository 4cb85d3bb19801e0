"""`~` is expanded to the home folder in all paths, even if no shell has done it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import rtdetr
from rtdetr.cli.main import app
from rtdetr.data import open_dataset
from rtdetr.data.doctor import check
from rtdetr.export import ExportOptions, export
from rtdetr.files import with_home
from rtdetr.recipes import TrainSettings
from rtdetr.weights import convert, save_huggingface, save_weights
from tests.training.small import settings_of
from tests.weights.small import small

YOLO = {"train": "images", "val": "~/data/images", "names": ["a", "b"]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a dataset, while the command runs elsewhere."""
    folder = tmp_path / "home"
    for name in ("images", "labels"):
        (folder / "data" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "data" / "images" / "x.png")
    (folder / "data" / "labels" / "x.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text(yaml.safe_dump({"path": "~/data", **YOLO}))
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


def test_in_python(home: Path, tmp_path: Path) -> None:
    model = small(transformers=False, num_classes=2)
    save_weights(model, "~/best.pth")
    save_huggingface(model, "~/folder")
    convert("~/best.pth", "~/copy.pth")
    export("~/best.pth", "~/model.onnx", options=ExportOptions(size_hw=(64, 64)))
    for name in ("best.pth", "folder", "copy.pth", "model.onnx"):
        assert len(rtdetr.load(f"~/{name}")("~/data/images/x.png", threshold=0.0))
    assert len(rtdetr.load(Path("~/best.pth"))(Path("~/data/images/x.png"), threshold=0.0))
    for data in ("~/data.yaml", Path("~/data.yaml")):
        assert len(open_dataset(data, split="val")) == 1
    assert check("~/data.yaml", size_hw=(64, 64)).splits
    assert len(rtdetr.evaluate("~/best.pth", "~/data.yaml").evaluator.dataset) == 1
    assert not list((tmp_path / "work").iterdir())


def test_settings_of_a_run(home: Path) -> None:
    (home / "run.yaml").write_text(
        yaml.safe_dump({"model": "test-tiny", "val_data": "~/data.yaml", "output_dir": "~/a"})
    )
    settings: TrainSettings = {"config": "~/run.yaml", "weights": "~/w.pth", "set": {"font": "~/f.ttf"}}
    config = settings_of(["~/data.yaml", "b"], settings)
    assert config.data == (f"{home}/data.yaml", "b") and config.val_data == f"{home}/data.yaml"
    assert (config.output_dir, config.weights, config.font) == (f"{home}/a", f"{home}/w.pth", f"{home}/f.ttf")


def test_on_the_command_line(home: Path, tmp_path: Path) -> None:
    """No shell replaces `~` in quotes, nor in --option=~/path."""
    save_weights(small(transformers=False, num_classes=2), home / "best.pth")
    run = CliRunner().invoke
    result = run(
        app, ["predict", "~/data/images/*.png", "--model", "~/best.pth", "--save=~/drawn", "--json", "~/found.json"]
    )
    assert result.exit_code == 0, result.output
    assert (home / "drawn" / "x.png").is_file()
    assert json.loads((home / "found.json").read_text())["images"][0]["file"] == f"{home}/data/images/x.png"
    options = ["--model", "test-tiny:untrained", "--output=~/run", "--set", "images=~", "--dry-run", "--workers", "0"]
    result = run(app, ["train", "~/data.yaml", *options, "--size", "64", "--device", "cpu"])
    assert result.exit_code == 2 and "omit 'images'" in result.output, result.output
    result = run(app, ["train", "~/data.yaml", *options[:3], *options[5:], "--size", "64", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert (home / "run" / "plan.txt").is_file()
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("path", ["a/~/b", "a~", "./~", "~nobody-of-this-name/x", ""])
def test_other_paths_stay(path: str, home: Path) -> None:
    assert with_home(path) == Path(path)
