"""Edits of config.json, in our folders and those of transformers, are applied or refused by name."""

import functools
import json
import logging
import shutil
from collections.abc import Iterator
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
from rtdetr.weights import (
    LoadedWeights,
    huggingface,
    huggingface_reading,
    load_model,
    read_checkpoint,
    save_huggingface,
)
from rtdetr.weights.huggingface import interpret, read_entries
from rtdetr.weights.huggingface_classes import read_categories
from rtdetr.weights.huggingface_config import TRAINING
from rtdetr.weights.identify import observe
from rtdetr.weights.names import from_huggingface, is_huggingface, to_version, version_of
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
def test_edits_are_applied(kind: str, key: str, edited: Any) -> None:
    value, setting = FOLLOWED[key]
    changes = {key: value} | ({"architectures": None} if key == "model_type" else {})
    found = edited(kind, changes).config
    assert found.replace(name="custom") == config_of(kind).replace(**setting)
    built, _ = load_model(edited(kind, changes).path)
    assert built(image(64, 64).float()).logits.isfinite().all()


@pytest.mark.parametrize("key", ["num_queries", "encoder_attention_heads", "positional_encoding_temperature"])
def test_an_edit_has_the_same_effect_as_in_transformers(key: str, edited: Any) -> None:
    transformers = pytest.importorskip("transformers")
    folder = edited("ours", {key: FOLLOWED[key][0]}).path
    theirs = transformers.RTDetrV2ForObjectDetection.from_pretrained(folder).eval()
    ours, _ = load_model(folder)
    with torch.inference_mode():
        images = image(64, 96).float()
        torch.testing.assert_close(ours(images).logits, theirs(images).logits, atol=1e-4, rtol=0)


def test_a_class_is_renamed(edited: Any) -> None:
    """It keeps its id; without our description there are no ids to keep."""
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("names", "ids", "said"),
    [
        (["cat", "dog", "cow"], [3, 7, 9], None),
        (["cat", "dog", "calf"], [3, 7, 9], None),
        (["wolf", "ape", "calf"], [3, 7, 9], None),
        (["dog", "cat", "cow"], [7, 3, 9], "'dog' has 7, 'cat' has 3"),
        (["dog", "wolf", "cow"], [7, 3, 9], "'dog' has 7, 'wolf' has 3"),
        (["cow", "wolf", "dog"], [9, 3, 7], "'cow' has 9, 'wolf' has 3, 'dog' has 7"),
        (["dog", "wolf", "calf"], [7, 3, 9], "'dog' has 7, 'wolf' has 3"),
    ],
)
def test_category_ids_move_with_the_names(
    kind: str, names: list[str], ids: list[int], said: str | None, edited: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        labels = dict(zip("012", names, strict=True))
        found = edited(kind, {"id2label": labels, "label2id": {name: int(label) for label, name in labels.items()}})
    if kind == KINDS[1]:
        ids, said = [0, 1, 2], None
    assert found.categories == Categories(map(Category, ids, names))
    assert not caplog.messages if said is None else f"Category ids move with the names: {said}" in caplog.text


def test_renamed_and_reordered_classes_without_an_id_are_refused() -> None:
    with pytest.raises(
        WeightsError, match="new names 'ape', 'wolf' at labels whose previous names have moved to other labels"
    ):
        read_categories(
            {"0": "dog", "1": "ape", "2": "wolf", "3": "cow"}, 4, known=Categories([*PETS, Category(11, "hen")])
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "cat", "1": "dog", "2": "cat"}, "the name 'cat' for two classes, 0 and 2; class names must"),
        ({"1": "cat", "2": "dog", "3": "cow"}, "the label '3', expected the labels of the weights, '0' to '2'"),
        ({"00": "cat", "1": "dog", "2": "cow"}, "the label '00'.* without leading zeros"),
        ({"0": "cat", "1": " ", "2": "cow"}, "the name ' ' for label 1, expected a text that is not empty"),
        ({"0": "cat", "1": None, "2": "cow"}, "the name None for label 1"),
    ],
)
def test_invalid_labels_are_refused(kind: str, labels: dict[str, Any], message: str, edited: Any) -> None:
    with pytest.raises(WeightsError, match=rf"config\.json: id2label has {message}"):
        edited(kind, {"id2label": labels})


def test_whitespace_in_names_gives_a_warning(edited: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = edited("ours", {"id2label": {"0": "cat ", "1": "d\nog", "2": "cow"}, "label2id": None})
    assert found.categories.names == ["cat ", "d\nog", "cow"]
    assert caplog.messages == [
        r"config.json: id2label has names with line breaks or surrounding spaces: 'cat ', 'd\nog'. They are used "
        "unchanged and differ from names without them"
    ]


@pytest.mark.parametrize("only_ours", [False, True])
def test_whitespace_in_names_of_the_data_gives_no_warning(
    only_ours: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pets = Categories([Category(3, " cat"), Category(7, "d\nog"), Category(9, "cow")])
    changes = {"decoder": NARROW["decoder"] | {"activation": "silu"}} if only_ours else {}
    save_huggingface(small(**NARROW | changes), tmp_path, categories=pets)
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(tmp_path).categories == pets
    assert caplog.messages == []


def test_models_without_names_stay_so(tmp_path: Path) -> None:
    save_huggingface(small(), tmp_path)
    assert read_checkpoint(tmp_path).categories is None
    names = {str(label): f"class {label}" for label in range(79)} | {"79": "brush"}
    stored = json.loads((tmp_path / "config.json").read_text()) | {"id2label": names}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert load_model(tmp_path)[1].names == list(names.values()) != COCO80.names


def test_a_stale_label2id_and_unknown_fields_give_warnings(edited: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        edited("ours", {"label2id": {"cat": 1, "dog": 0, "cow": 2}, "num_querys": 3})
        edited(
            "ours", {"architectures": ["DetrModel"], "backbone_config": {"model_type": "rt_detr_resnet", "dephts": 1}}
        )
    assert "label2id contradicts id2label, which takes precedence" in caplog.text
    assert "architectures ['DetrModel'] have no effect" in caplog.text
    assert (
        "backbone_config: 'dephts' is not a field of this backbone and has no effect. Did you mean 'depths'"
        in caplog.text
    )
    assert "'num_querys' is not a field of RT-DETR and has no effect. Did you mean 'num_queries'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        edited("ours", {"model_type": "rt_detr", "architectures": None, "decoder_method": "discrete"})
    assert "decoder_method 'discrete' has no effect in RT-DETR v1" in caplog.text


def test_models_of_our_own_type_can_be_edited(edited: Any) -> None:
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


OWN_CONTRADICTED: dict[str, Any] = {
    "decoder_layers": 6,
    "encoder_layers": 2,
    "d_model": 256,
    "num_labels": 80,
    "decoder_n_points": 3,
    "decoder_activation_function": "relu",
    "learn_initial_query": True,
    "decoder_method": "nearest",
    "batch_norm_eps": 0.1,
    "model_type": "rt_detr",
    "backbone_config": {"depths": [3, 4, 6, 3]},
}


@pytest.mark.parametrize("key", ["num_queries", "num_denoising", "label_noise_ratio", "decoder_method", "eval_idx"])
def test_fields_next_to_our_description_are_applied(key: str, edited: Any) -> None:
    value, setting = FOLLOWED[key]
    assert edited(KINDS[2], {key: value}).config == config_of(KINDS[2]).replace(**setting)
    agreeing = {"decoder_layers": 2, "d_model": 16, "decoder_activation_function": "silu", "num_labels": 3}
    assert edited(KINDS[2], agreeing).config == config_of(KINDS[2])


@pytest.mark.parametrize("key", OWN_CONTRADICTED)
def test_fields_that_contradict_our_description_are_refused(key: str, edited: Any) -> None:
    with pytest.raises(WeightsError, match=rf"config\.json: .*{key}") as error:
        edited(KINDS[2], {key: OWN_CONTRADICTED[key]})
    if key == "decoder_activation_function":
        assert "expected 'silu'. Set rtdetr.model.decoder.activation instead" in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("key", "value"), [("depths", None), ("depths", [1, 1]), ("hidden_act", 3), ("layer_type", "x")]
)
def test_wrong_types_inside_the_backbone_are_refused(kind: str, key: str, value: Any, edited: Any) -> None:
    backbone = {"model_type": "rt_detr_resnet", key: value}
    with pytest.raises(WeightsError, match=rf"config\.json: backbone_config\.{key} .* has the wrong type, expected"):
        edited(kind, {"backbone_config": backbone})


def test_our_description_is_missing(edited: Any, folders: dict[str, Path]) -> None:
    """The header of the weights has it as well; without either there is no model."""
    assert edited(KINDS[2], {"rtdetr": ...}).config == config_of(KINDS[2])
    with pytest.raises(WeightsError, match="model_type 'rtdetr' needs 'rtdetr', the description of the model"):
        edited("transformers'", {"model_type": "rtdetr", "d_model": ..., "architectures": None})


def test_a_folder_with_a_short_name_is_named(edited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = edited("ours", {}).path
    (folder / "ed").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, folder / "ed")
    file = folder / "ed" / "config.json"
    file.write_text(file.read_text().replace('"num_queries": ', '"num_queries": -'))
    monkeypatch.chdir(folder)
    with pytest.raises(WeightsError, match=r"^ed: config\.json: num_queries -\d+ is invalid"):
        read_checkpoint("ed")


def test_a_key_that_appears_twice_is_refused(edited: Any) -> None:
    file = edited("ours", {}).path / "config.json"
    file.write_text(file.read_text().replace('"num_queries":', '"num_queries": 5, "num_queries":'))
    with pytest.raises(WeightsError, match=r"config\.json: the key 'num_queries' appears twice"):
        read_checkpoint(file.parent)


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
def test_fields_that_contradict_the_weights_are_refused_by_name(
    kind: str, key: str, edited: Any, tmp_path: Path
) -> None:
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
def test_an_omitted_field_has_the_default_of_transformers(key: str, edited: Any) -> None:
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


WRONG: list[Any] = [None, ..., [], [1], {}, "text", -1, 0, 7, 0.5, True, 10**400]
SETTINGS = {"decoder_attention_heads": "decoder.num_heads", "query_selection": "decoder.query_selection"}
SETTINGS |= {"backbone_freeze_at": "backbone.freeze_at"}
SETTINGS |= {
    key: f"{section}.{name}"
    for key, (_, setting) in FOLLOWED.items()
    for section, names in setting.items()
    if isinstance(names, dict)
    for name in names
}
UNUSED = {*TRAINING, "dtype", "version", "format"}  # what no model is made of


def places(stored: dict[str, Any], start: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All keys of a file, those of objects in it too."""
    for key, value in stored.items():
        yield (*start, key)
        if isinstance(value, dict):
            yield from places(value, (*start, key))


def changed(stored: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    key, *rest = place
    if rest:
        return {**stored, key: changed(stored[key], tuple(rest), value)}
    return {name: old for name, old in stored.items() if name != key} | ({} if value is ... else {key: value})


def leaves(config: rtdetr.config.ModelConfig) -> dict[str, Any]:
    flat = {}
    for name, value in config.model_dump(mode="json").items():
        flat |= {f"{name}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {name: value}
    return flat


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_field_with_each_wrong_value(
    kind: str, step: int, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model stays where nothing else can be meant, is the one that is asked for, or is refused by that name."""
    state, described = read_entries(folders[kind])
    official = from_huggingface(state) if is_huggingface(state) else state
    # the weights are the same each time
    seen = functools.cache(lambda version: observe(to_version(official, version)))
    monkeypatch.setattr(huggingface, "from_huggingface", lambda _: official)
    monkeypatch.setattr(huggingface_reading, "observe", lambda entries: seen(version_of(entries)))
    written = json.loads((folders[kind] / "config.json").read_text())

    def read(stored: dict[str, Any]) -> Any:
        return interpret(state, described, stored=stored, preprocessor={}, hint="")[1]

    def problem(place: tuple[str, ...], value: Any) -> str | None:
        caplog.clear()
        try:
            found = read(changed(written, place, value))
        except RTDETRError as error:
            named = "id2label" if place[0] == "id2label" else place[-1]
            fine = named in str(error) and str(error).startswith("config.json: ") and "\n" not in str(error)
            return None if fine else str(error)
        if found == expected:
            old = functools.reduce(dict.__getitem__, place, written)
            meaningless = value in (None, ..., [], {}, old) or not UNUSED.isdisjoint(place)
            return None if meaningless or caplog.text else "silence"
        if "categories" in place or place[0] == "id2label":
            return None if found.config == expected.config else "another model"
        before, after = leaves(expected.config), leaves(found.config)
        differing = {key for key in before if before[key] != after[key]}
        return None if differing <= {SETTINGS.get(place[-1], ".".join(place[2:]))} else f"changed {differing}"

    expected = read(written)
    with caplog.at_level(logging.WARNING):
        tried = [
            (place, value, problem(place, value))
            for number, place in enumerate(places(written))
            for value in WRONG[number % step :: step]
        ]
    assert [one for one in tried if one[2] is not None] == []
    assert len(tried) > 300 / step


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 700) | st.floats(width=16) | st.sampled_from(["", "default", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "1", "depths"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(KINDS), st.data())
def test_any_value_is_applied_or_refused(edited: Any, kind: str, data: st.DataObject) -> None:
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
