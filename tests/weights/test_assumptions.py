"""Files missing next to transformers weights give a warning about the assumed values; complete files give none."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import rtdetr
from rtdetr.categories import Categories
from rtdetr.config import ConfigError, ModelConfig
from rtdetr.errors import WeightsError
from rtdetr.weights import read_checkpoint, save_huggingface, save_weights
from tests.weights.small import small

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
NETWORK = "300 queries, 4 attention heads and bilinear sampling, evaluated after decoder layer 2 of 2"
IMAGES = "images stretched to 640x640 and divided by 255, without normalization"
PUT = "Add the files that belong to these weights"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of ours, and two as transformers leaves them, the last with 80 classes that have no names."""
    made = {name: tmp_path_factory.mktemp("model") for name in ("ours", "foreign", "unnamed")}
    pets = Categories.from_json([{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}])
    for name, folder in made.items():
        save_huggingface(small(num_classes=80 if name == "unnamed" else 2), folder, categories=None)
        if name != "unnamed":
            save_huggingface(small(num_classes=2), folder, categories=pets)
        if name != "ours":
            file = folder / "model.safetensors"
            save_file(load_file(file), file, metadata={"format": "pt"})
    return made


@pytest.mark.parametrize(
    ("kind", "left_out", "said"),
    [
        ("ours", [CONFIG, PREPROCESSOR], None),
        ("foreign", [], None),
        ("foreign", [CONFIG], f"no {CONFIG}, so these values are assumed: {NETWORK}; 2 classes without names. {PUT}"),
        ("foreign", [PREPROCESSOR], f"no {PREPROCESSOR}, so these values are assumed: {IMAGES}. {PUT}"),
        (
            "foreign",
            [CONFIG, PREPROCESSOR],
            f"no {CONFIG} and no {PREPROCESSOR}, so these values are assumed: {NETWORK}; 2 classes without names; "
            f"{IMAGES}. {PUT}",
        ),
        ("unnamed", [], f"no class names in {CONFIG}, so these values are assumed: the 80 classes of COCO. {PUT}"),
    ],
)
def test_missing_files_are_reported_with_the_assumed_values(
    folders: dict[str, Path],
    kind: str,
    left_out: list[str],
    said: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(folders[kind], tmp_path / "folder")
    for name in left_out:
        (folder / name).unlink()
    with caplog.at_level(logging.WARNING):
        rtdetr.load(folder)
    told = [message for message in caplog.messages if "tokens" not in message]
    assert told == ([] if said is None else [f"{folder} has {said}"])


def test_a_single_file(folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files beside it may be of another model; a description of our own says everything."""
    for kind in ("ours", "foreign"):
        shutil.copyfile(folders[kind] / "model.safetensors", tmp_path / f"{kind}.safetensors")
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(tmp_path / "ours.safetensors").categories.names == ["cat", "dog"]
        assert not caplog.messages
        read_checkpoint(tmp_path / "foreign.safetensors")
    assert len(caplog.messages) == 1 and "Give a folder with the weights as model.safetensors and" in caplog.text
    assert caplog.messages[0].startswith(f"{tmp_path}/foreign.safetensors has no {CONFIG} and no {PREPROCESSOR}, so")


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_more_queries_than_tokens_give_a_warning(
    folders: dict[str, Path], kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 64x64 pixels there are 64 + 16 + 4 tokens."""
    folder = shutil.copytree(folders[kind], tmp_path / "folder")
    stored = json.loads((folder / CONFIG).read_text())
    for count in (84, 85):
        (folder / CONFIG).write_text(json.dumps(stored | {"num_queries": count}))
        with caplog.at_level(logging.WARNING):
            assert len(rtdetr.load(folder)(torch.zeros(3, 40, 40), threshold=0.0)) == 2 * 84
        assert (count == 85) == bool(caplog.messages)
    assert caplog.messages == [
        f"{folder}: num_queries is 85, but an image of 64x64 has only 84 tokens to select them from, so 84 are used. "
        "Use a larger size, or set num_queries to 84 in its config.json or in the file given with --config"
    ]


def test_more_queries_than_tokens_in_a_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = small(transformers=False, eval_size_hw=(32, 64), decoder={"num_queries": 43})
    with caplog.at_level(logging.WARNING):
        read_checkpoint(save_weights(many, tmp_path / "many.pth"))
    assert "num_queries is 43, but an image of 32x64 has only 42 tokens" in caplog.text


RETYPED: dict[str, tuple[Any, str]] = {
    "decoder.num_queries": ("300", 'the number 300, got the text "300"'),
    "decoder.num_denoising": (True, "the number 1, got the switch true"),
    "backbone.freeze_norm": ("true", 'the switch true, got the text "true"'),
    "encoder.temperature": ("1e4", 'the number 10000.0, got the text "1e4"'),
    "eval_size_hw": ("none", 'the value null, got the text "none"'),
    "eval_size_hw.1": ("64", 'the number 64, got the text "64"'),
}


@pytest.mark.parametrize("name", RETYPED)
def test_values_of_another_type_in_our_own_descriptions_are_refused_by_name(name: str, tmp_path: Path) -> None:
    value, said = RETYPED[name]
    file = save_weights(small(transformers=False), tmp_path / "x.pth")
    content = torch.load(file)
    at, (*sections, key) = content["rtdetr"]["model"], name.split(".")
    for section in sections:
        at = at[section]
    at[int(key) if key.isdecimal() else key] = value
    content["rtdetr"].pop("image_size_hw")
    torch.save(content, file)
    with pytest.raises(WeightsError, match=rf"^{file}: .*damaged: model\.{name}: expected {said}\."):
        read_checkpoint(file)
    save_huggingface(small(decoder={"activation": "silu"}), tmp_path / "folder")
    stored = json.loads((tmp_path / "folder" / CONFIG).read_text())
    stored["rtdetr"] = content["rtdetr"] | {"model": {**stored["rtdetr"]["model"], **content["rtdetr"]["model"]}}
    (tmp_path / "folder" / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(WeightsError, match=rf"{CONFIG}: rtdetr: .*model\.{name}: expected {said}\."):
        read_checkpoint(tmp_path / "folder")


def test_a_whole_number_may_stand_for_a_fraction() -> None:
    values = ModelConfig().model_dump(mode="json")
    values["encoder"] |= {"temperature": 10000, "expansion": 1}
    assert ModelConfig.from_record(values) == ModelConfig()
    with pytest.raises(ConfigError, match="unknown setting"):
        ModelConfig.from_record({"x": 1})
