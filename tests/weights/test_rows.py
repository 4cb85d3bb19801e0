"""Published checkpoints whose class rows are category ids, in every command that reads weights."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import rtdetr
from rtdetr import zoo
from rtdetr.categories import Categories, Category
from rtdetr.cli.main import app
from rtdetr.errors import ConfigError, DatasetError, WeightsError
from rtdetr.models import RTDETR, build_model
from rtdetr.training import build_optimizer
from rtdetr.weights import drop_unused_rows, name_rows, read_checkpoint, save_weights, select_rows
from tests.training.small import only_the_loop, run_tiny, write_folder

NAMES = ["cat", "dog", "bird"]
HEAD, EMBEDDING = "decoder.dec_score_head.1.bias", "decoder.denoising_class_embed.weight"


def renumbered(content: dict[str, Any], ids: dict[int, int]) -> dict[str, Any]:
    """A document with other category ids."""
    for row in content["categories"]:
        row["id"] = ids[row["id"]]
    for row in content["annotations"]:
        row["category_id"] = ids[row["category_id"]]
    return content


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose three classes have the ids 1, 2 and 3."""
    folder = write_folder(tmp_path_factory.mktemp("rows"))
    for file in folder.glob("*/_annotations.coco.json"):
        file.write_text(json.dumps(renumbered(json.loads(file.read_text()), {3: 1, 7: 2, 90: 3})))
    return folder


def by_rows(rows: list[int], *, num_rows: int) -> RTDETR:
    """A network with some rows of another one, whose `num_rows` rows are all different."""
    torch.manual_seed(0)
    model = build_model("test-tiny", num_classes=num_rows)
    torch.nn.init.normal_(model.decoder.dec_score_head[-1].weight, std=0.3)
    small = build_model("test-tiny", num_classes=len(rows))
    small.load_state_dict(select_rows(model.state_dict(), rows, count=num_rows))
    return small


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published training checkpoint with a row for each id from 0 to 3."""
    model = by_rows([0, 1, 2, 3], num_rows=4).train()
    optimizer = build_optimizer(model, zoo.recipe("test-tiny"))
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        parameter.grad = torch.full_like(parameter, number + 1.0)
        if parameter.ndim:
            parameter.grad += torch.arange(len(parameter)).reshape(-1, *[1] * (parameter.ndim - 1))
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    optimizer.step()
    state = model.state_dict()
    content = {"last_epoch": 0, "model": state, "ema": {"module": state, "updates": 9}}
    path = tmp_path_factory.mktemp("file") / "last.pth"
    torch.save({**content, "optimizer": optimizer.state_dict()}, path)
    return path


def test_rows_are_recognized_by_the_ids_of_the_data(data, file, caplog):
    caplog.set_level(logging.INFO)
    model = by_rows([1, 2, 3], num_rows=4)
    annotations = json.loads((data / "valid" / "_annotations.coco.json").read_text())
    named = Categories.from_json(annotations["categories"])
    from rtdetr.runtimes.torch_detector import TorchDetector

    expected = rtdetr.evaluate(TorchDetector(model, named, device="cpu", precision="float32"), data)
    for source in (rtdetr.load(file, device="cpu", precision="float32"), file, by_rows([0, 1, 2, 3], num_rows=4)):
        options = {} if not isinstance(source, Path | RTDETR) else {"device": "cpu", "precision": "float32"}
        report = rtdetr.evaluate(source, data, **options)
        assert [row.name for row in report.classes] == ["id 0", *NAMES]
        matched = report.evaluator.dataset
        assert [
            matched.categories[label].id for label in matched.annotations.labels
        ] == matched.annotations.labels.tolist()
        # 300 places for pairs hold all that counts of 30 queries, with the unused row as well
        assert report.metrics.ap == pytest.approx(expected.metrics.ap, abs=1e-9)
    assert "category ids of" in caplog.text


def test_rows_can_be_stated_as_ids(data, file, tmp_path):
    wide = by_rows([0, 1, 2, 3, 4, 4], num_rows=5)
    torch.save({"model": wide.state_dict()}, tmp_path / "best.pth")
    with pytest.raises(DatasetError, match="set them with --classes"):
        rtdetr.evaluate(tmp_path / "best.pth", data)
    detector = rtdetr.load(tmp_path / "best.pth", categories="ids")
    assert [row.name for row in rtdetr.evaluate(detector, data).classes] == ["id 0", *NAMES, "id 4", "id 5"]
    torch.save(
        {"model": by_rows([0, 1, 2], num_rows=4).state_dict()}, tmp_path / "few.pth"
    )  # the last id is background
    with pytest.raises(DatasetError, match=r"category id 3 is outside 0\.\.2, .* as background"):
        rtdetr.evaluate(rtdetr.load(tmp_path / "few.pth", categories="ids"), data)


def test_names_are_given_and_unused_rows_dropped(data, file, tmp_path):
    annotations = data / "train" / "_annotations.coco.json"
    weights = read_checkpoint(file)
    assert weights.categories is None
    with pytest.raises(ConfigError, match=r"it is unknown which of its 4 rows are unused\. Give the classes"):
        drop_unused_rows(weights)
    named = name_rows(weights, annotations)
    assert named.categories == Categories([Category(0, "id 0"), *(Category(i + 1, n) for i, n in enumerate(NAMES))])
    dropped = drop_unused_rows(named._replace(thresholds=(0.1, 0.2, 0.3, 0.4)))
    assert dropped.categories == Categories(Category(i + 1, name) for i, name in enumerate(NAMES))
    assert (dropped.config.num_classes, dropped.thresholds) == (3, (0.2, 0.3, 0.4))
    assert torch.equal(dropped.state[HEAD], weights.state[HEAD][1:])
    assert torch.equal(dropped.state[EMBEDDING], weights.state[EMBEDDING][1:])  # with the row of no class
    ours = tmp_path / "ours.pth"
    rtdetr.weights.convert(file, ours, categories=annotations, drop_unused=True)
    assert read_checkpoint(ours).categories == dropped.categories
    assert [row.name for row in rtdetr.evaluate(ours, data).classes] == NAMES


def test_coco_with_91_rows(tmp_path):
    save_weights(by_rows(list(range(91)), num_rows=91), tmp_path / "x.pth")
    named = name_rows(read_checkpoint(tmp_path / "x.pth"), "coco")
    assert (named.categories[18].name, named.categories[12].name) == ("dog", "id 12")
    dropped = drop_unused_rows(named)
    assert dropped.categories == rtdetr.COCO80 and len(dropped.state[HEAD]) == 80


@pytest.mark.slow
def test_export_and_the_command_line(data, file, tmp_path):
    annotations = data / "train" / "_annotations.coco.json"
    runner = CliRunner()
    target = tmp_path / "m.onnx"
    options = ["--classes", str(annotations), "--drop-unused", "--config", "test-tiny", "--output", str(target)]
    result = runner.invoke(app, ["export", str(file), *options])
    assert result.exit_code == 0, result.output
    detector = rtdetr.load(target)
    assert (detector.names, detector.category_ids) == (tuple(NAMES), (1, 2, 3))
    for command in (
        ["evaluate", str(file), str(data), "--config", "test-tiny", "--classes", "ids", "--bootstrap", "0"],
        ["predict", str(data / "valid" / "1.png"), "--model", str(file), "--classes", f"ids:{annotations}"],
        ["benchmark", str(file), str(target), "--config", "test-tiny", "--rounds", "1", "--no-memory"],
        ["weights", "convert", str(file), str(tmp_path / "x.pth"), "--classes", str(annotations), "--drop-unused"],
    ):
        result = runner.invoke(app, command)
        assert result.exit_code == 0, (command, result.output)


def test_starting_weights_are_matched_by_id(data, file, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    changes = {"train.warmup_iterations": 2000, "train.lr": 1e-12}
    options = {"weights": file, "model": "test-tiny", "epochs": 1, "set": changes, "evaluate_every": 0}
    with only_the_loop():
        result = run_tiny(data, tmp_path / "run", **options)
    assert "assuming that its class rows are category ids of the data" in caplog.text
    assert "3 classes transferred" in caplog.text
    content = torch.load(result.last_weights, weights_only=True)
    expected = torch.load(file, weights_only=True)["model"][HEAD][1:]
    torch.testing.assert_close(content["model"][HEAD], expected, atol=1e-6, rtol=0)


def test_a_run_resumes_with_rows_by_id(data, file, tmp_path, caplog):
    from rtdetr.recipes import resolve
    from rtdetr.runtimes.torch_detector import TorchDetector
    from rtdetr.training import read
    from rtdetr.training.setup import prepare

    content = read(file)
    options = {
        "model": "test-tiny",
        "epochs": 3,
        "batch_size": 4,
        "device": "cpu",
        "workers": 0,
        "precision": "float32",
    }

    def job_of(data: Path, content: dict[str, Any], **more: Any) -> Any:
        config, datasets = resolve(str(data), {**options, "output_dir": tmp_path / "run", **more}, resume=file)
        with only_the_loop():
            return prepare(config, datasets, make_detector=TorchDetector, resume=content)

    job = job_of(data, content)
    assert "keeping the 3 of 4 rows that have a class in the data" in caplog.text
    assert "in their order" not in caplog.text
    assert torch.equal(job.state.model.state_dict()[HEAD], content["model"][HEAD][1:])
    assert torch.equal(job.state.ema.module.state_dict()[EMBEDDING], content["ema"]["module"][EMBEDDING][1:])
    for name, first in ((HEAD, 1), (EMBEDDING, 1), ("decoder.dec_bbox_head.0.layers.0.bias", 0)):
        moments = job.state.optimizer.state[dict(job.state.model.named_parameters())[name]]
        index = [name for group in job.state.trained for name in group].index(name)
        assert torch.equal(moments["exp_avg"], content["optimizer"]["state"][index]["exp_avg"][first:]), name
    # three rows that are ids: the class with id 3 was trained as background
    three = {**content, "model": select_rows(content["model"], [0, 1, 2], count=4)}
    with pytest.raises(WeightsError, match=r"category ids 0 to 2, so 'bird' \(id 3\) has no row"):
        job_of(data, three, set={"labels_are_ids": True})
