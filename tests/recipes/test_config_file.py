"""Our own configuration files, a run's config.json, and the examples that come with the library."""

from pathlib import Path

import pytest

from rtdetr import zoo
from rtdetr.config import ParameterGroup, Recipe, TrainConfig
from rtdetr.errors import ConfigError
from rtdetr.recipes.config_file import read_config
from tests.training.small import settings_of

RECIPES = Path(__file__).parents[2] / "recipes"


def write(folder: Path, text: str) -> Path:
    path = folder / "own.yml"
    path.write_text(text)
    return path


def test_every_kind_of_setting(tmp_path):
    text = """
data: [first, second]
model: rtdetrv2_r34vd
output_dir: out
recipe: deim
train: {epochs: 30, lr: 1e-4, loss: {bbox_weight: 4}, ema_decay: 0.99}
early_stopping: 5
freeze: 2
"""
    config = settings_of(None, {"config": write(tmp_path, text)})
    assert (config.data, config.model, config.early_stopping, config.freeze) == (
        ("first", "second"),
        "rtdetrv2_r34vd",
        5,
        2,
    )
    recipe = config.recipe
    assert (recipe.epochs, recipe.lr, recipe.loss.bbox_weight, recipe.loss.classification) == (30, 1e-4, 4.0, "mal")
    assert (recipe.flat_epochs, recipe.mixing_stop_epoch, recipe.augmentation_stop_epoch) == (16, 16, 27)
    assert config.recipe_name == "deim"


def test_settings_win_over_the_file_and_assignments_over_both(tmp_path):
    path = write(tmp_path, "data: d\nmodel: rtdetrv2_r18vd\ntrain: {epochs: 30, ema_decay: 0.9}\nseed: 1\nworkers: 2")
    given = {"config": path, "epochs": 20, "seed": 2, "output_dir": "o", "model": "test-tiny"}
    config = settings_of("other", {**given, "set": {"train.ema_decay": "0.8", "workers": "3"}})
    assert (config.data, config.model, config.seed, config.workers) == ("other", "test-tiny", 2, 3)
    assert (config.recipe.epochs, config.recipe.ema_decay) == (20, 0.8)


def test_a_custom_model(tmp_path):
    text = "data: d\nmodel: {base: rtdetrv2_r34vd, name: mine, decoder: {num_queries: 500}}\n"
    config = settings_of(
        None, {"config": write(tmp_path, text), "output_dir": "o", "set": {"model.encoder.width": "128"}}
    )
    assert config.network is not None and config.model == "mine"
    expected = zoo.model_config("rtdetrv2_r34vd").replace(
        name="mine", decoder={"num_queries": 500}, encoder={"width": 128}
    )
    assert config.network == expected
    assert config.recipe.grouping == "modules"
    assert settings_of(None, {"config": tmp_path / "own.yml", "model": "test-tiny", "output_dir": "o"}).network is None
    by_name = settings_of("d", {"model": "test-tiny", "output_dir": "o", "set": {"model.decoder.num_layers": 3}})
    assert by_name.model == "test-tiny" and by_name.network is not None and by_name.network.decoder.num_layers == 3


def test_the_config_of_a_run_starts_the_same_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = (ParameterGroup(pattern="a", lr=0.5),)
    first = settings_of(
        "d", {"model": "test-tiny", "seed": 3, "recipe": Recipe(epochs=9, groups=groups), "output_dir": "run"}
    )
    Path("run").mkdir()
    Path("run", "config.json").write_text(first.model_dump_json())
    again = settings_of(None, {"config": "run/config.json"})
    assert again == first.replace(output_dir="runs/test-tiny", data_origins={"data": str(Path("run/config.json"))})
    assert TrainConfig.model_validate_json(Path("run", "config.json").read_text()) == first


@pytest.mark.parametrize("name", [path.name for path in RECIPES.glob("*.yml")])
def test_the_examples_are_sound(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings_of("data", {"config": RECIPES / name})
    assert config.data == "data"
    expected = {"finetune.yml": "finetune", "deim.yml": "deim", "small_objects.yml": "finetune"}
    assert config.recipe_name == expected[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3", "own.yml: unknown setting 'epochs'. It belongs under 'train:'"),
        ("modell: a", "own.yml: unknown setting 'modell'. Did you mean 'model'"),
        ("train: 3", "own.yml: train: expected 'key: value' lines, got 3"),
        (
            "model: {decoder: {queries: 1}}",
            r"own.yml: model.decoder: unknown setting 'queries'. Did you mean 'num_queries'",
        ),
        ("model: {backbone: {kind: hgnetv2, siz: X}}", "unknown setting 'siz'. Did you mean 'size'"),
        ("model: {base: rtdetrv2_r18}", "own.yml: unknown model 'rtdetrv2_r18'"),
        ("model: 3", "own.yml: model: expected a name"),
        ("recipe: [a]", "own.yml: recipe: expected a name"),
        ("recipe: fintune", "unknown recipe 'fintune'. Did you mean 'finetune'"),
        ("recipe: {epoch: 3}", "own.yml: train: unknown setting 'epoch'. Did you mean 'epochs'"),
        ("train: {epoch: 3}", "train: unknown setting 'epoch'"),
        ("train: {epochs: many}", "own.yml: train.epochs: expected a whole number of at least 1; got 'many'"),
        ("freeze: head", "own.yml: freeze: expected 'backbone', 'encoder' or a whole number .*; got 'head'"),
        ("# nothing", "own.yml: expected 'key: value' lines, but the file is empty"),
        ("val_data: {a: 1}", "own.yml: val_data: expected text or a list, each text; got"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        settings_of("d", {"config": write(tmp_path, text), "output_dir": "o"})


def test_settings_and_recipe_share_no_name():
    assert TrainConfig.model_fields.keys() & Recipe.model_fields.keys() == set()


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the YAML file"):
        read_config(tmp_path / "nowhere.yml")
