"""Hugging Face folders: what we write, what others wrote, and stock transformers reading it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rtdetr import zoo
from rtdetr.categories import COCO80, Categories, Category
from rtdetr.errors import WeightsError
from rtdetr.models import build_model
from rtdetr.weights import load_model, read_checkpoint, save_huggingface
from rtdetr.weights.names import to_huggingface
from tests.weights.small import assert_same, small

PETS = Categories([Category(3, "cat"), Category(7, "dog")])


def learned(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Entries that every format holds."""
    return {key: value for key, value in state.items() if key not in ("decoder.anchors", "decoder.valid_mask")}


def edit(folder: Path, *, name: str = "config.json", **changes: Any) -> None:
    """Change a JSON file; None removes a field."""
    stored = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({k: v for k, v in stored.items() if v is not None}))


def forget(folder: Path, **casts: torch.dtype) -> None:
    """Drop our description, as files that transformers wrote have none; `dtype` also casts."""
    state = load_file(folder / "model.safetensors")
    if dtype := casts.get("dtype"):
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("described", [True, False])
def test_round_trip(version: str, described: bool, tmp_path: Path) -> None:
    points = {"num_points": (1, 1, 1), "num_heads": 8}  # what v1's entries alone would be taken for
    model = small(version=version, num_classes=2, in_channels=4, decoder={"num_denoising": 5, **points})
    assert save_huggingface(model, tmp_path, categories=PETS) == []
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    if not described:
        forget(tmp_path)
    weights = read_checkpoint(tmp_path)
    assert_same(weights.state, learned(model.state_dict()), order=False)
    loaded, categories = load_model(tmp_path / "model.safetensors")
    assert_same(loaded.state_dict(), model.state_dict())
    assert loaded.config == model.config
    # ids of classes are in our description only
    assert categories.names == PETS.names and (categories == PETS) == described
    images = torch.rand(1, 4, 64, 96)
    torch.testing.assert_close(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_json_files_that_an_editor_saved_in_another_encoding(encoding: str, tmp_path: Path) -> None:
    model = small(num_classes=2, decoder={"num_queries": 7})
    save_huggingface(model, tmp_path, categories=Categories([Category(0, "猫"), Category(1, "犬")]))
    forget(tmp_path)
    for name in ("config.json", "preprocessor_config.json"):
        text = json.dumps(json.loads((tmp_path / name).read_text()), ensure_ascii=False, indent=1)
        (tmp_path / name).write_text(text.replace("\n", "\r\n"), encoding=encoding, newline="")
    loaded, categories = load_model(tmp_path)
    assert loaded.config == model.config and categories.names == ["猫", "犬"]
    (tmp_path / "config.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(WeightsError, match=r"config\.json: expected text in UTF-8.*tried UTF-8, but byte 1 in line 1"):
        load_model(tmp_path)


def test_settings_that_are_only_in_the_config(tmp_path: Path) -> None:
    decoder = {"sampling": "discrete", "num_queries": 17, "num_denoising": 9, "num_heads": 2, "num_points": (3, 3, 3)}
    noise = {"label_noise_ratio": 0.25, "box_noise_scale": 0.5}
    model = small(decoder=decoder | noise, encoder={"num_blocks": 3, "num_heads": 8, "temperature": 20.0})
    save_huggingface(model, tmp_path)
    forget(tmp_path)
    config = read_checkpoint(tmp_path).config
    assert config == model.config
    edit(tmp_path, name="preprocessor_config.json", size=None)
    assert read_checkpoint(tmp_path).config == model.config.replace(eval_size_hw=(640, 640))


def test_zoo_names_are_found(tmp_path: Path) -> None:
    for name in ("rtdetrv2_r18vd_dsp", "rtdetr_r18vd"):
        save_huggingface(build_model(name), tmp_path, categories=COCO80)
        forget(tmp_path)
        weights = read_checkpoint(tmp_path)
        assert weights.config == zoo.model_config(name) and weights.categories == COCO80


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_16_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small()
    save_huggingface(model, tmp_path)
    forget(tmp_path, dtype=dtype)
    assert read_checkpoint(tmp_path).state["encoder.lateral_convs.0.conv.weight"].dtype == dtype
    loaded, _ = load_model(tmp_path)
    for key, value in loaded.state_dict().items():
        assert value.dtype == model.state_dict()[key].dtype
        torch.testing.assert_close(value, model.state_dict()[key], rtol=1e-2, atol=1e-3)


def test_pixels_that_the_repository_normalizes(tmp_path: Path) -> None:
    """The network does it here: its images are in [0, 1]."""
    save_huggingface(small(), tmp_path)
    forget(tmp_path)
    edit(tmp_path, name="preprocessor_config.json", do_normalize=True)
    config = load_model(tmp_path)[0].config
    assert config.pixel_mean == (0.485, 0.456, 0.406) and config.pixel_std == (0.229, 0.224, 0.225)
    edit(tmp_path, name="preprocessor_config.json", image_std=[0, 1, 1])
    with pytest.raises(WeightsError, match=r"image_std is .* above 0"):
        load_model(tmp_path)


def test_shards_and_pickles(tmp_path: Path) -> None:
    model = small()
    save_huggingface(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_same(read_checkpoint(tmp_path).state, learned(model.state_dict()), order=False)
    assert read_checkpoint(tmp_path / "pytorch_model.bin").config.decoder.num_queries == 30
    (tmp_path / "pytorch_model.bin").unlink()
    keys, files = list(state), ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards = {files[0]: keys[:100], files[1]: keys[100:]}
    for name, part in shards.items():
        save_file({key: state[key] for key in part}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load_model(tmp_path)[0].state_dict(), model.state_dict())
    for wrong, message in (
        ({**index["weight_map"], "x": files[0]}, "1 entry is in none of its files, such as x"),
        ({"x": "../model.safetensors"}, "expected names of files next to it"),
        ({"x": "model.safetensors.index.json"}, "expected names of files next to it"),  # itself
        ({"x": "missing.safetensors"}, "no such file"),
        ({}, "expected an object 'weight_map'"),
    ):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "d_fine"}, "model_type 'd_fine' is not RT-DETR's"),
        ({"normalize_before": True}, "normalize_before True is not supported"),
        ({"decoder_activation_function": "silu"}, "decoder_activation_function 'silu' is not supported"),
        ({"decoder_method": "nearest"}, "decoder_method must be"),
        ({"decoder_method": ["default"]}, "decoder_method .* has the wrong type, expected a text"),
        ({"num_queries": "many"}, "num_queries"),
        ({"decoder_attention_heads": 5}, r"multiple of .*num_heads \(5\)"),
        (
            {"backbone_config": {"model_type": "swin"}},
            "a backbone 'swin' of this shape .* load it with .* of rtdetr.hf",
        ),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18"}}, "a backbone 'resnet18' of this"),
        (
            {"backbone_config": {"model_type": "rt_detr_resnet", "hidden_sizes": [8, 16, 24, 32]}},
            r"'rt_detr_resnet' of this shape \(.*hidden_sizes",
        ),
        (
            {"backbone_config": {"model_type": "rt_detr_resnet", "depths": 3}},
            r"depths 3 has the wrong type, expected a list of 4",
        ),
        (
            {"backbone_config": {"model_type": "hgnet_v2", "stem_channels": []}},
            r"stem_channels \[\] has the wrong",
        ),
        ({"backbone_config": {"model_type": "hgnet_v2", "stem_channels": [3, 8, 8]}}, "a backbone 'hgnet_v2' of this"),
        ({"id2label": {"0": "cat"}}, "names 1 class, but the weights have 80"),
    ],
)
def test_unsupported_configs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_huggingface(small(), tmp_path)
    forget(tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(WeightsError, match=message) as error:
        load_model(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_class_names_of_repositories(tmp_path: Path) -> None:
    save_huggingface(small(), tmp_path)
    forget(tmp_path)
    edit(tmp_path, id2label={str(i): f"LABEL_{i}" for i in range(80)})
    assert read_checkpoint(tmp_path).categories is None
    old = {"motorcycle": "motorbike", "airplane": "aeroplane", "tv": "tvmonitor", "couch": "sofa"}
    edit(tmp_path, id2label={str(i): old.get(name, name) for i, name in enumerate(COCO80.names)})
    assert read_checkpoint(tmp_path).categories == COCO80
    edit(tmp_path, id2label=None)
    assert read_checkpoint(tmp_path).categories is None
    for labels, message in (
        (
            {str(i): str(i) for i in range(1, 81)},
            r"the label '80', expected the labels of the weights, '0' to '79'\. Number",
        ),
        ({f"{i:02}": str(i) for i in range(80)}, "the label '00', .* without leading zeros"),
        ({str(i): "xyz"[min(i, 2)] for i in range(80)}, "the name 'z' for two classes, 2 and 3; class names must"),
        ({str(i): " " * i for i in range(80)}, "the name '' for label 0, expected a text that is not empty"),
    ):
        edit(tmp_path, id2label=labels)
        with pytest.raises(WeightsError, match=rf"^{tmp_path}: config\.json: id2label has {message}"):
            read_checkpoint(tmp_path)


UNHELD = {
    "activation 'silu' in the whole decoder": small(decoder={"activation": "silu"}).config,
    "numbers of points that differ between levels": small(decoder={"num_points": (1, 2, 3)}).config,
    "learned queries": small(decoder={"learned_queries": True, "num_queries": 12}).config,
    "query selection 'one2many'": small(decoder={"query_selection": "one2many"}).config,
    "query position heads of other widths": small(decoder={"query_pos_widths": (32, 32)}).config,
    "fusion blocks of 1 RepVGG blocks": zoo.model_config("test-tiny"),
    "discrete sampling in RT-DETR v1": small(version="v1", decoder={"sampling": "discrete"}).config,
}


@pytest.mark.parametrize("reason", UNHELD)
def test_models_unsupported_by_transformers(reason: str, tmp_path: Path) -> None:
    """They come back whole, and nobody is told that transformers could load them."""
    model = build_model(UNHELD[reason])
    notes = save_huggingface(model, tmp_path)
    assert notes == [f"only rtdetr can read the result: transformers does not support {reason}"]
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["model_type"] == "rtdetr" and set(stored) == {"model_type", "rtdetr"}
    weights = read_checkpoint(tmp_path)
    assert weights.config == model.config
    assert_same(weights.state, model.state_dict(), order=False)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_files_saved_by_transformers(version: str, tmp_path: Path) -> None:
    """Ours to transformers, saved there, and back; also its names in memory, with tied copies."""
    transformers = pytest.importorskip("transformers")
    model = small(version=version, num_classes=2)
    save_huggingface(model, tmp_path / "ours", categories=PETS)
    kind = {"v1": transformers.RTDetrForObjectDetection, "v2": transformers.RTDetrV2ForObjectDetection}[version]
    theirs = kind.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    loaded, categories = load_model(tmp_path / "theirs")
    assert categories.names == ["cat", "dog"] and loaded.config.version == version
    changed = {"name": "custom", "eval_size_hw": (64, 64)}
    assert loaded.config.replace(**changed) == model.config
    assert_same(learned(loaded.state_dict()), learned(model.state_dict()))
    save_file({k: v.clone() for k, v in theirs.state_dict().items()}, tmp_path / "memory.safetensors")
    weights = read_checkpoint(tmp_path / "memory.safetensors")
    assert weights.config.version == version
    assert_same(weights.state, learned(model.state_dict()), order=False)


def test_auto_classes_and_image_processor(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = small()
    save_huggingface(model, tmp_path, categories=COCO80)
    theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label[0] == "person" and theirs.config.label2id["toothbrush"] == 79
    assert theirs.dtype == torch.float32
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    photo = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8)
    pixels = processor(images=photo, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 64) and 0 <= pixels.min() < pixels.max() <= 1
    torch.testing.assert_close(theirs(pixels).logits, model(pixels).logits, atol=1e-4, rtol=0)


def test_header(tmp_path: Path) -> None:
    save_huggingface(small(), tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == (tmp_path / "config.json").stat().st_mode & 0o777


def test_single_file_next_to_another_models_config(tmp_path: Path) -> None:
    """A config.json belongs to model.safetensors, not to whatever else lies in the folder."""
    save_file(to_huggingface(small().state_dict()), tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert read_checkpoint(tmp_path / "x.safetensors").config.decoder.num_layers == 2
