"""The settings of a run, from arguments, published recipes and the run to resume."""

import json
import re
from pathlib import Path

import pytest

from rtdetr import zoo
from rtdetr.api import train
from rtdetr.config import Recipe, TrainConfig
from rtdetr.errors import ConfigError
from rtdetr.models import build_model
from rtdetr.recipes import run_data
from rtdetr.weights import save_huggingface, save_weights
from tests.training.small import TINY, settings_of, write_folder


def test_defaults_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = settings_of("data", {})
    assert config == TrainConfig(
        data="data",
        model="rtdetrv2_r18vd",
        data_origins={"data": "DATA"},
        output_dir="runs/rtdetrv2_r18vd",
        recipe=zoo.recipe("deim_rtdetrv2_r18vd"),
        recipe_name="scratch",
        weights=None,
        backbone_weights=None,
    )


def test_a_folder_with_a_run_is_not_used_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/test-tiny", "runs/test-tiny-2"):
        Path(folder).mkdir(parents=True)
        Path(folder, "last.pth").touch()
    assert settings_of("data", {"model": "test-tiny"}).output_dir == "runs/test-tiny-3"


def test_single_values_and_whole_recipes(tmp_path):
    settings = {
        "model": "test-tiny",
        "epochs": 5,
        "lr": 1e-3,
        "size_hw": (96, 64),
        "output_dir": tmp_path,
        "seed": None,
    }
    config = settings_of(Path("data"), {**settings, "recipe": {"ema_decay": "0.99"}})
    recipe = config.recipe
    assert (recipe.epochs, recipe.lr, recipe.train_size_hw, recipe.ema_decay) == (5, 1e-3, (96, 64), 0.99)
    assert (config.output_dir, config.seed) == (str(tmp_path), 0)
    own = settings_of("data", {**settings, "recipe": Recipe(batch_size=3)}).recipe
    assert (own.batch_size, own.groups, own.epochs) == (3, (), 5)


DATA_SETTINGS = ("data", "images", "val_data", "val_images")


@pytest.mark.parametrize(
    ("given", "found", "origins"),
    [
        ({}, ("t.json", "t", "v.json", "v"), dict.fromkeys(DATA_SETTINGS, "FILE")),
        ({"data": "d"}, ("d", None, None, None), {"data": "DATA"}),
        ({"set": {"data": "d"}}, ("d", None, None, None), {"data": "--set data"}),
        (
            {"data": "d", "val_data": "w", "images": "i"},
            ("d", "i", "w", None),
            {"data": "DATA", "val_data": "--val-data", "images": "--images"},
        ),
        (
            {"val_data": "w"},
            ("t.json", "t", "w", None),
            {"data": "FILE", "images": "FILE", "val_data": "--val-data"},
        ),
        (
            {"val_images": "w"},
            ("t.json", "t", "v.json", "w"),
            {"data": "FILE", "images": "FILE", "val_data": "FILE", "val_images": "--val-images"},
        ),
    ],
)
def test_given_data_replaces_all_data_settings_of_the_file(tmp_path, given, found, origins):
    file = tmp_path / "own.yml"
    file.write_text("data: t.json\nimages: t\nval_data: v.json\nval_images: v\nmodel: test-tiny\noutput_dir: o\n")
    config = settings_of(given.pop("data", None), {"config": file, **given})
    assert tuple(getattr(config, name) for name in DATA_SETTINGS) == found
    assert config.data_origins == {name: str(file) if one == "FILE" else one for name, one in origins.items()}


def test_a_file_without_training_data_keeps_its_validation_data(tmp_path):
    file = tmp_path / "own.yml"
    file.write_text("val_data: v.json\nval_images: v\nmodel: test-tiny\noutput_dir: o\n")
    config = settings_of("d", {"config": file})
    assert (config.data, config.val_data, config.val_images) == ("d", "v.json", "v")


def test_settings_that_follow_from_others_and_those_of_a_section():
    given = {"model": "test-tiny", "output_dir": "o"}
    with pytest.raises(ConfigError, match=r"model\.num_classes cannot be set: the dataset determines"):
        settings_of("data", {**given, "set": {"model.num_classes": 5}})
    with pytest.raises(ConfigError, match=r"Did you mean 'decoder\.num_queries'"):
        settings_of("data", {**given, "set": {"model.num_queries": 500}})
    assert settings_of("data", {**given, "set": {"model.decoder.num_queries": 500}}).network.decoder.num_queries == 500
    assert settings_of("data", {**given, "precision": "bf16"}).recipe.precision == "bfloat16"


def test_weights_name_the_model(tmp_path):
    save_weights(build_model("test-tiny", num_classes=2), tmp_path / "w.pth")
    assert settings_of("data", {"weights": "rtdetrv2_r34vd", "output_dir": "o"}).model == "rtdetrv2_r34vd"
    assert settings_of("data", {"weights": "rtdetr_r50vd:objects365", "output_dir": "o"}).model == "rtdetr_r50vd"
    assert settings_of("data", {"weights": tmp_path / "w.pth", "output_dir": "o"}).model == "test-tiny"


def test_weights_determine_the_settings_of_their_network(tmp_path):
    """Settings in a file that its entries do not show are used, or refused if another model is requested."""
    save_huggingface(build_model("test-tiny"), tmp_path / "folder")
    about = tmp_path / "folder" / "preprocessor_config.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"do_normalize": True}))
    network = settings_of("data", {"weights": tmp_path / "folder", "output_dir": "o"}).network
    assert network == zoo.model_config("test-tiny").replace(
        pixel_mean=(0.485, 0.456, 0.406), pixel_std=(0.229, 0.224, 0.225)
    )
    changed = settings_of(
        "data", {"weights": tmp_path / "folder", "output_dir": "o", "set": {"model.decoder.num_queries": 9}}
    ).network
    assert changed == network.replace(decoder={"num_queries": 9})
    save_weights(build_model("test-tiny", num_classes=2), tmp_path / "w.pth")
    assert settings_of("data", {"weights": tmp_path / "w.pth", "output_dir": "o"}).network is None
    given = {**TINY, "model": "test-tiny", "weights": tmp_path / "folder", "output_dir": tmp_path / "run"}
    with pytest.raises(
        ConfigError, match=r"folder was trained with pixel_mean \[0\.485.*, but test-tiny has None"
    ) as e:
        train(write_folder(tmp_path / "data"), **given)
    for setting in re.findall(r"model\.pixel_mean=\S+(?=,)", str(e.value)):
        with pytest.raises(ConfigError, match="was trained with pixel_std"):  # the advice works, and the next is due
            train(tmp_path / "data", **{**given, "set": dict([setting.split("=")])})


def test_an_edited_config_file_is_reported_on_resume(tmp_path, caplog):
    settings = {"model": "test-tiny", "output_dir": tmp_path, "recipe": "published"}
    saved = settings_of(tmp_path, settings).model_dump(mode="json")
    for content in (saved, {**saved, "seed": 3, "recipe": {**saved["recipe"], "epochs": 9}}, [], {"x": 1}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert settings_of(None, {}, resume=tmp_path / "last.pth", saved=saved).seed == 0
    assert sorted(record.message.partition("config.json has ")[2] for record in caplog.records) == [
        "seed 3, but the checkpoint has 0, which is used. To change it: --set seed=3",
        "train.epochs 9, but the checkpoint has 72, which is used. To change it: --set train.epochs=9",
    ]


def test_untrained_models_start_from_random_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings_of("data", {"model": "rtdetrv2_r50vd_dsp"}).weights == "rtdetrv2_r50vd"
    for settings in ({"model": "rtdetrv2_r50vd_dsp:untrained"}, {"set": {"model": "rtdetrv2_r50vd_dsp:untrained"}}):
        config = settings_of("data", settings)
        assert config == settings_of("data", {"model": "rtdetrv2_r50vd_dsp", "weights": "none"})
        assert config.output_dir == "runs/rtdetrv2_r50vd_dsp"
    settings_of("data", {"model": "test-tiny:untrained", "set": {"model.decoder.num_queries": 7}})
    for name in ("weights", "backbone_weights"):
        with pytest.raises(ConfigError, match=f"'test-tiny:untrained' means random weights, but {name} is 'auto'"):
            settings_of("data", {"model": "test-tiny:untrained", name: "auto"})
    with pytest.raises(ConfigError, match=r"unknown model 'test-tny'\. Did you mean 'test-tiny'"):
        settings_of("data", {"model": "test-tny:untrained"})


def test_a_resumed_run_keeps_its_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    settings = {"model": "test-tiny", "seed": 7, "output_dir": "old", "recipe": "published", "lr": 0.5, "epochs": 9}
    first = settings_of("data", settings)
    saved = first.model_dump(mode="json")
    again = settings_of(None, {}, resume=Path("moved/last.pth"), saved=saved)
    assert again == first.replace(output_dir="moved")
    longer = settings_of(None, {"epochs": 12, "recipe": {"clip_max_norm": 1}}, resume=Path("x/last.pth"), saved=saved)
    assert longer.recipe == first.recipe.replace(
        epochs=12, clip_max_norm=1.0, augmentation_stop_epoch=11, multiscale_stop_epoch=11
    )
    with pytest.raises(ConfigError, match="the run's data was a Python object: pass it again"):
        settings_of(None, {}, resume=Path("x/last.pth"), saved={**saved, "data": run_data.OPENED})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown setting 'epoch'.*Did you mean 'epochs'"),
        ({"model": "rtdetrv2_r18"}, "rtdetrv2_r18vd"),
        ({"workers": -1}, "workers"),
        ({"bad_boxes": "fix"}, "bad_boxes"),
        ({"precision": "fp8"}, "precision"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        settings_of("data", {"output_dir": "o", **settings})


def test_without_a_dataset():
    with pytest.raises(ConfigError, match="no dataset given"):
        settings_of(None, {})


def test_none_disables_optional_settings():
    asked = {"early_stopping": "none", "train.multiscale_stop_epoch": "None", "model.pixel_mean": "NONE"}
    config = settings_of("data", {"set": asked | {"weights": "None"}})
    assert (config.early_stopping, config.recipe.multiscale_stop_epoch, config.weights) == (None, None, None)
    assert config.network is not None and config.network.pixel_mean is None
    assert settings_of("data", {"early_stopping": "none"}).early_stopping is None
    with pytest.raises(ConfigError, match="keep_last: expected a whole number"):
        settings_of("data", {"set": {"keep_last": "none"}})


@pytest.mark.parametrize("wrong", [{"multiscale_sizes": [70, 96]}, {"train_size_hw": [70, 96]}])
def test_network_sizes_that_are_no_multiples_of_32_are_refused(wrong, tmp_path) -> None:
    place = r"train\.(multiscale_sizes|train_size_hw)\.0"
    with pytest.raises(ConfigError, match=rf"{place}: expected a positive multiple of 32; got 70"):
        train(write_folder(tmp_path / "data"), output_dir=tmp_path / "run", **(TINY | {"recipe": wrong}))


def test_a_dataset_file_with_an_uppercase_suffix_may_have_a_val_split() -> None:
    assert run_data._has_parts("set/DATA.YAML") and run_data._has_parts(["a.yml", "B.YML"])
    assert not run_data._has_parts("set/TRAIN.JSON")


def test_backbone_weights_beside_weights_are_reported(caplog):
    given = {"output_dir": "o", "weights": "rtdetrv2_r18vd"}
    settings_of("data", {**given, "backbone_weights": "none"})
    assert not caplog.messages
    settings_of("data", {**given, "backbone_weights": "auto"})
    assert caplog.messages == [
        "backbone_weights (--backbone-weights) are not used: the weights rtdetrv2_r18vd contain a backbone"
    ]
