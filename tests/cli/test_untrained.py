"""NAME:untrained wherever a model is asked for."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import rtdetr
from rtdetr.cli.main import app
from rtdetr.losses import build_criterion
from tests.training.small import write_folder

NAME = "test-tiny:untrained"


def invoke(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    "command",
    [
        "predict {data}/valid --model {name} --device cpu",
        "weights convert {name} {out}/folder",
        "train {data} --model {name} --output {out} --dry-run",
        "train {data} --set model={name} --output {out} --dry-run",
        "train {data} --weights {name} --output {out} --dry-run",
        pytest.param("benchmark {name} --device cpu --rounds 1 --warmup 0", marks=pytest.mark.slow),
        pytest.param("export {name} --output {out}/model.onnx", marks=pytest.mark.slow),
        pytest.param("quantize {name} {data} --output {out}/model.onnx", marks=pytest.mark.slow),
    ],
)
def test_every_verb_takes_it(data, tmp_path, command):
    invoke(*command.format(name=NAME, data=data, out=tmp_path).split())


def test_evaluate_takes_it(tmp_path):
    document = {"images": [{"id": 1, "file_name": "a.png", "width": 32, "height": 32}], "annotations": []}
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "val.json").write_text(json.dumps({**document, "categories": rtdetr.COCO80.to_json()}))
    invoke("evaluate", NAME, tmp_path / "val.json", "--images", tmp_path, "--device", "cpu", "--bootstrap", 0)


def test_in_python(data, tmp_path):
    torch.manual_seed(1)
    first = rtdetr.build_model("test-tiny")
    torch.manual_seed(1)
    second = rtdetr.build_model(NAME)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert build_criterion(NAME) is not None
    assert rtdetr.zoo.recipe(NAME) == rtdetr.zoo.recipe("test-tiny")
    assert rtdetr.load(NAME, model=NAME, device="cpu").description.startswith("test-tiny (80 classes)")
    result = rtdetr.train(data, model=NAME, output_dir=tmp_path, dry_run=True)
    config = json.loads((result.output_dir / "config.json").read_text())
    assert (config["model"], config["weights"], config["backbone_weights"]) == ("test-tiny", None, None)
    assert "from random weights" in (result.output_dir / "plan.txt").read_text()
