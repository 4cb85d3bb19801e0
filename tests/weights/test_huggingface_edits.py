"""A config.json that people edited, in our folders and in transformers' ones: followed, or refused by name."""

import functools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rtdetr
from rtdetr.categories import COCO80, Categories, Category
from rtdetr.errors import RTDETRError, WeightsError
from rtdetr.weights import LoadedWeights, load_model, read_checkpoint, save_huggingface
from tests.parity.fill import image
from tests.weights.small import small

PETS = Categories([Category(3, "cat"), Category(7, "dog"), Category(9, "cow")])
NARROW = {"num_classes": 3, "encoder": {"num_blocks": 3, "width": 16, "feedforward": 16}}
NARROW |= {"decoder": {"num_layers": 2, "width": 16, "feedforward": 16, "num_denoising": 5}}
KINDS = ("ours", "transformers'", "only ours can hold")


@functools.cache
def config_of(kind: str) -> rtdetr.config.ModelConfig:
    changes = {"decoder": NARROW["decoder"] | {"activation": "silu"}} if kind == KINDS[2] else {}
    return small(**NARROW | changes).config


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind; the second has no description of ours."""
    made = {}
    for kind in KINDS:
        made[kind] = tmp_path_factory.mktemp("model")
        changes = {"decoder": NARROW["decoder"] | {"activation": "silu"}} if kind == KINDS[2] else {}
        save_huggingface(small(**NARROW | changes), made[kind], categories=PETS)
    file = made["transformers'"] / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt"})
    return made


@pytest.fixture
def edited(folders: dict[str, Path], tmp_path: Path) -> Any:
    """Return what a folder of some kind with other values in its config.json is read as; `...` removes a key."""

    def read(kind: str, changes: dict[str, Any], *, inside: tuple[str, ...] = ()) -> LoadedWeights:
        shutil.copytree(folders[kind], tmp_path, dirs_exist_ok=True)
        file = tmp_path / "config.json"
        stored = json.loads(file.read_text())
        at = stored
        for key in inside:
            at = at[key]
        at |= changes
        for key in [key for key, value in at.items() if value is ...]:
            del at[key]
        file.write_text(json.dumps(stored))
        return read_checkpoint(tmp_path)

    return read


FOLLOWED: dict[str, Any] = {  # value -> the setting of ours that it is
    "num_queries": (17, {"decoder": {"num_queries": 17}}),
    "num_denoising": (7, {"decoder": {"num_denoising": 7}}),
    "label_noise_ratio": (0.25, {"decoder": {"label_noise_ratio": 0.25}}),
    "box_noise_scale": (2.0, {"decoder": {"box_noise_scale": 2.0}}),
    "decoder_method": ("discrete", {"decoder": {"sampling": "discrete"}}),
    "encoder_attention_heads": (2, {"encoder": {"num_heads": 2}}),
    "positional_encoding_temperature": (20, {"encoder": {"temperature": 20.0}}),
    "freeze_backbone_batch_norms": (True, {"backbone": {"freeze_norm": True}}),
    "eval_idx": (0, {"decoder": {"eval_idx": 0}}),
    "hidden_expansion": (0.51, {"encoder": {"expansion": 0.51}}),
    "num_labels": (3, {}),
    "dropout": (0.5, {}),
    "model_type": ("rt_detr", {"version": "v1"}),
}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("key", FOLLOWED)
def test_edits_are_followed(kind: str, key: str, edited: Any) -> None:
    value, setting = FOLLOWED[key]
    changes = {key: value} | ({"architectures": None} if key == "model_type" else {})
    found = edited(kind, changes).config
    assert found.replace(name="custom") == config_of(kind).replace(**setting)
    built, _ = load_model(edited(kind, changes).path)
    assert built(image(64, 64).float()).logits.isfinite().all()


@pytest.mark.parametrize("key", ["num_queries", "encoder_attention_heads", "positional_encoding_temperature"])
def test_an_edit_does_here_what_it_does_in_transformers(key: str, edited: Any) -> None:
    transformers = pytest.importorskip("transformers")
    folder = edited("ours", {key: FOLLOWED[key][0]}).path
    theirs = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder).eval()
    ours, _ = load_model(folder)
    with torch.inference_mode():
        images = image(64, 96).float()
        torch.testing.assert_close(ours(images).logits, theirs(images).logits, atol=1e-4, rtol=0)


def test_a_class_is_renamed(edited: Any) -> None:
    """Ids and thresholds stay with their labels; without our description there are no ids to keep."""
    names = {"0": "cat", "1": "poodle", "2": "cow"}
    assert edited("ours", {"id2label": names}).categories.to_json() == [
        {"id": 3, "name": "cat"},
        {"id": 7, "name": "poodle"},
        {"id": 9, "name": "cow"},
    ]
    weights = edited("transformers'", {"id2label": names})
    assert weights.categories.names == ["cat", "poodle", "cow"] and weights.categories.ids == [0, 1, 2]
    assert rtdetr.load(weights.path).names == ("cat", "poodle", "cow")
    rows = [{"id": 3, "name": "cat"}, {"id": 7, "name": "poodle"}, {"id": 1, "name": "cow"}]
    assert edited(KINDS[2], {"categories": rows}, inside=("rtdetr",)).categories.to_json() == rows
    assert edited("ours", {"id2label": ...}).categories == PETS


def test_models_without_names_stay_so(tmp_path: Path) -> None:
    save_huggingface(small(), tmp_path)
    assert read_checkpoint(tmp_path).categories is None
    names = {str(label): f"class {label}" for label in range(79)} | {"79": "brush"}
    stored = json.loads((tmp_path / "config.json").read_text()) | {"id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load_model(tmp_path)[1].names == list(names.values()) != COCO80.names


def test_a_stale_label2id_and_unknown_fields_are_told(edited: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        edited("ours", {"label2id": {"cat": 1, "dog": 0, "cow": 2}, "num_querys": 3})
    assert "label2id numbers the classes otherwise than id2label, which decides" in caplog.text
    assert "'num_querys' is no field of an RT-DETR and has no effect. Did you mean 'num_queries'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        edited("ours", {"model_type": "rt_detr", "architectures": None, "decoder_method": "discrete"})
    assert "decoder_method 'discrete' has no effect in RT-DETR v1" in caplog.text


def test_what_only_ours_can_hold_is_edited(edited: Any) -> None:
    where = ("rtdetr", "model", "decoder")
    assert edited(KINDS[2], {"num_queries": 11}, inside=where).config.decoder.num_queries == 11
    for changes, message in (
        ({"num_layers": 3}, "rtdetr.model does not describe these weights"),
        ({"num_queries": "many"}, "rtdetr: .*num_queries"),
    ):
        with pytest.raises(WeightsError, match=rf"config\.json: {message}"):
            edited(KINDS[2], changes, inside=where)
    with pytest.raises(WeightsError, match=r"image_size_hw \[64, 64\] contradicts its eval_size_hw \(96, 96\)"):
        edited(KINDS[2], {"eval_size_hw": [96, 96]}, inside=where[:2])
    with pytest.raises(WeightsError, match=r"rtdetr\.model\.in_channels 4 contradicts the weights, which have 3"):
        edited(KINDS[2], {"in_channels": 4}, inside=where[:2])


CONTRADICTED: dict[str, Any] = {
    "decoder_layers": 6,
    "d_model": 256,
    "encoder_in_channels": [512, 1024, 2048],
    "decoder_in_channels": [16, 16],
    "decoder_ffn_dim": 1024,
    "encoder_ffn_dim": 1024,
    "encoder_hidden_dim": 32,
    "encoder_layers": 2,
    "hidden_expansion": 1.0,
    "num_feature_levels": 4,
    "decoder_n_levels": 2,
    "decoder_n_points": 4,
    "decoder_attention_heads": 8,
    "num_labels": 80,
    "id2label": {"0": "cat", "1": "dog"},
    "backbone_config.depths": [2, 2, 2, 2],
    "backbone_config.num_channels": 1,
    "backbone_config.embedding_size": 64,
    "learn_initial_query": True,
    "query_selection": "agnostic",
    "hidden_size": 256,
    "architectures": ["RTDetrForObjectDetection"],
    "network_settings": {"decoder": {"num_layers": 3}},
    "eval_size": 640,
    "id2label of an empty name": {"0": "cat", "1": "", "2": "cow"},
}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("key", CONTRADICTED)
def test_what_the_weights_contradict_is_refused_by_name(kind: str, key: str, edited: Any, tmp_path: Path) -> None:
    section, _, inner = key.partition(".")
    name = section.partition(" ")[0]
    with pytest.raises(WeightsError, match=rf"^{tmp_path}: config\.json: .*{inner or name}") as error:
        edited(kind, {inner or name: CONTRADICTED[key]}, inside=(section,) if inner else ())
    assert "\n" not in str(error.value)


def test_all_fields_of_a_wrong_type_are_refused_by_name(edited: Any) -> None:
    known = json.loads((edited("ours", {}).path / "config.json").read_text())
    for key, value in known.items():
        wrong = [[]] if isinstance(value, str) else "text"
        with pytest.raises(WeightsError, match=rf"config\.json: (model type|{key}) .*expected"):
            edited("ours", {key: wrong})


@pytest.mark.parametrize("key", ["num_queries", "encoder_attention_heads", "decoder_method", "label_noise_ratio"])
def test_a_field_that_is_left_out_has_the_default_of_transformers(key: str, edited: Any) -> None:
    transformers = pytest.importorskip("transformers")
    default = getattr(transformers.RTDetrV2Config(), key)
    assert edited("ours", {key: ...}).config == edited("ours", {key: default}).config


def test_other_files_called_config_json(folders: dict[str, Path], tmp_path: Path) -> None:
    """That of a training run says nothing about weights beside it; without it our description decides."""
    shutil.copytree(folders["ours"], tmp_path, dirs_exist_ok=True)
    for text in ('{"data": "d", "model": "rtdetrv2_r18vd", "recipe": {"epochs": 3}}', "{}"):
        (tmp_path / "config.json").write_text(text)
        assert read_checkpoint(tmp_path).config == config_of("ours")
    (tmp_path / "config.json").unlink()
    assert read_checkpoint(tmp_path).config == config_of("ours")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 700) | st.floats(width=16) | st.sampled_from(["", "default", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "depths"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.data())
def test_any_value_is_followed_or_refused(edited: Any, kind: str, data: st.DataObject) -> None:
    """The model is the one that config.json says, or there is none."""
    known = json.loads((edited(kind, {}).path / "config.json").read_text())
    changes = data.draw(
        st.dictionaries(st.sampled_from([*known, "hidden_size", "network_settings"]), VALUES, max_size=2)
    )
    try:
        found, message = edited(kind, changes), "config.json"
    except RTDETRError as error:
        found, message = None, str(error)
    assert "config.json" in message and "\n" not in message
    if found is None:
        return
    for key, value in changes.items():
        section, setting = next(iter(FOLLOWED.get(key, (0, {}))[1].items()), (None, {}))
        if section in ("decoder", "encoder", "backbone") and key != "decoder_method":
            assert getattr(getattr(found.config, section), next(iter(setting))) == value
        elif kind != KINDS[2] and key in CONTRADICTED and key not in ("id2label", "architectures", "network_settings"):
            assert value in (known.get(key), 16, None) or value == [16, 16, 16]
