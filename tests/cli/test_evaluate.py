import json

import pytest
import torch
from typer.testing import CliRunner

import rtdetr
from rtdetr.categories import Categories
from rtdetr.cli.main import app
from rtdetr.weights import save_weights
from tests.coco_files import many_images, write_dataset


def run(*arguments):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset folder with a checkpoint of an untrained model of its three classes."""
    folder = tmp_path_factory.mktemp("set")
    content = many_images(5)
    _, annotations_file = write_dataset(folder, content)
    annotations_file.rename(folder / "val.json")
    torch.manual_seed(0)
    model = rtdetr.build_model("test-tiny", num_classes=3)
    save_weights(model, folder / "tiny.pth", categories=Categories.from_json(content["categories"]))
    return folder


def test_a_checkpoint_is_evaluated_on_a_folder(folder, tmp_path):
    result = run(folder / "tiny.pth", folder, "--detections", tmp_path / "found.json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[2:] == ["IoU", "0.50:0.95"]
    assert "AP by class" in result.stdout
    assert "5 images in" in result.stdout
    rows = json.loads((tmp_path / "found.json").read_text())
    assert {row["category_id"] for row in rows} <= {3, 7, 90}


def test_numbers_as_json(folder):
    result = run(folder / "tiny.pth", folder / "val.json", "--json", "--size", "64x96", "--batch-size", "2")
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert len(numbers) == 13
    assert 0 <= numbers["ap"] <= 1
    assert list(numbers["per_class"]) == ["cat", "dog", "bird"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{f}/tiny.pth", "{f}/none"], "DatasetError: no dataset"),
        (["{f}/tiny.pth", "{f}", "--split", "train"], "has no annotations for 'train'"),
        (
            ["{f}/tiny.pth", "{f}", "--split", "vall"],
            "ConfigError: expected split 'train', 'val' or 'test', got 'vall'.",
        ),
        (["{f}/tiny.pth", "{f}", "--images", "{f}/none"], "DatasetError: expected a folder of images"),
        (["{f}/tiny.pth", "{f}", "--bad-boxes", "keep"], "ConfigError: expected 'error' or 'drop'"),
        (["{f}/tiny.pth", "{f}", "--size", "large"], "InputError: expected a size like 640"),
        (["{f}/none.pth", "{f}"], "WeightsError: "),
    ],
)
def test_mistakes_are_told_in_one_line(folder, arguments, problem):
    result = run(*(argument.format(f=folder) for argument in arguments))
    assert result.exit_code == 2
    assert problem in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_bad_box_can_be_left_out(tmp_path, folder):
    content = many_images(3)
    content["annotations"][0]["bbox"][2] = 0
    _, file = write_dataset(tmp_path, content)
    refused = run(folder / "tiny.pth", file)
    assert refused.exit_code == 2
    assert "--bad-boxes drop" in refused.stderr
    assert run(folder / "tiny.pth", file, "--bad-boxes", "drop").exit_code == 0
