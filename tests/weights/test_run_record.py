"""config.json of a training run and its checkpoints: a warning is given if they describe different models."""

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import rtdetr
from rtdetr.config import TrainConfig
from rtdetr.weights import read_checkpoint
from rtdetr.weights.official import metadata
from rtdetr.zoo import model_config, recipe
from tests.weights.small import small

CONFIG = TrainConfig(
    data="data",
    model="test-tiny",
    output_dir="run",
    recipe=recipe("test-tiny").replace(train_size_hw=(64, 64)),
    network=model_config("test-tiny"),
).model_dump(mode="json")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training leaves it, as far as loading goes."""
    folder, model = tmp_path_factory.mktemp("run"), small(transformers=False)
    about = {**metadata(model.config, None), "training": CONFIG}
    for name in ("best.pth", "last.pth"):
        torch.save({"ema": {"module": model.state_dict()}, "rtdetr": about}, folder / name)
    return folder


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run with some changed, by dotted name."""
    values = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        at, (*sections, key) = values, name.split(".")
        for section in sections:
            at = at[section]
        at[key] = value
    return values


EDITS: dict[str, tuple[Any, str | None]] = {  # what is said of each
    "model": ("rtdetrv2_r18vd", 'model "rtdetrv2_r18vd", but best.pth was trained with "test-tiny"'),
    "in_channels": (4, "in_channels 4, but best.pth was trained with null"),
    "recipe.train_size_hw": ([96, 64], "train.train_size_hw [96, 64], but best.pth was trained with [64, 64]"),
    "network.decoder.num_queries": (17, "model.decoder.num_queries 17, but best.pth was trained with 30"),
    "network": (None, "network null, but best.pth was trained with {"),
    "recipe.lr": (0.5, None),  # no part of the model
    "output_dir": ("elsewhere", None),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_model_gives_a_warning(run: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    value, said = EDITS[name]
    (run / "config.json").write_text(json.dumps(changed({name: value})))
    for source in (run, run / "best.pth", run / "last.pth"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert read_checkpoint(source).config.name == "test-tiny"
        wanted = said and said.replace("best.pth", "last.pth" if source.name == "last.pth" else "best.pth")
        assert len(caplog.messages) == (wanted is not None)
        assert wanted is None or caplog.messages[0].startswith(f"{run / 'config.json'} has {wanted}")


def test_the_warning_is_given_when_detecting(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "config.json").write_text(json.dumps(changed({"model": "rtdetr_r18vd"})))
    with caplog.at_level(logging.WARNING):
        assert rtdetr.load(run).metadata.model == "test-tiny"
    assert caplog.messages == [
        f'{run}/config.json has model "rtdetr_r18vd", but best.pth was trained with "test-tiny", which is used. '
        "Restore that value, or train another model"
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(CONFIG).encode(), None),
        (b'\xef\xbb\xbf{"model_type": "rt_detr_v2", "model": "x"}', None),  # of something else
        (b"[]", None),
        (
            b'{"model": ',
            "contains invalid JSON: Expecting value: line 1 column 11 (char 10). It is not compared with best",
        ),
        (b'{"model": "\xff"}', "It is not compared with best.pth, which takes precedence"),
    ],
)
def test_other_content(run: Path, content: bytes, said: str | None, caplog: pytest.LogCaptureFixture) -> None:
    (run / "config.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        read_checkpoint(run)
    assert len(caplog.messages) == (said is not None) and (said or "") in caplog.text
