"""RTDetrV2Config: transformers' fields, defaults and checks; fields of our own; the network it describes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError

from rtdetr import zoo
from rtdetr.categories import COCO80
from rtdetr.config import ConfigError, HGNetv2Config, PResNetConfig
from rtdetr.hf import RTDetrV2Config
from rtdetr.hf.configuration import model_config, own_backbone

OWN = {
    "eval_idx": -1,
    "query_selection": "default",
    "backbone_freeze_at": -1,
    "transformers_compatible_loss": False,
    "network_settings": None,
}
V2 = [name for name in zoo.list_models() if zoo.model_config(name).version == "v2"]


def test_every_field_and_default_of_transformers() -> None:
    expected = transformers.RTDetrV2Config().to_dict()
    assert RTDetrV2Config().to_dict() == expected | OWN
    types = {field.name: field.type for field in dataclasses.fields(transformers.RTDetrV2Config)}
    found = {field.name: field.type for field in dataclasses.fields(RTDetrV2Config)}
    assert {name: found[name] for name in types if name != "decoder_n_points"} == {
        name: kind for name, kind in types.items() if name != "decoder_n_points"
    }
    assert RTDetrV2Config.model_type == "rt_detr_v2"
    assert RTDetrV2Config.attribute_map == transformers.RTDetrV2Config.attribute_map
    assert RTDetrV2Config().backbone_config.to_dict() == transformers.RTDetrV2Config().backbone_config.to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"d_model": 1.5},
        {"eval_size": [640, 640]},
        {"dropout": "0.1"},
        {"encoder_in_channels": 3},
        {"freeze_backbone_batch_norms": 1.0},
        {"decoder_n_points": "4"},
        {"decoder_n_points": [4, "2", 1]},
        {"eval_idx": "last"},
        {"query_selection": 3},
        {"network_settings": []},
    ],
)
def test_wrong_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StrictDataclassFieldValidationError):
        RTDetrV2Config(**wrong)


def test_names_of_old_repositories() -> None:
    old = {
        "backbone": None,
        "use_timm_backbone": False,
        "use_pretrained_backbone": False,
        "backbone_kwargs": None,
        "disable_custom_kernels": True,
        "torch_dtype": "float32",
    }
    config = RTDetrV2Config.from_dict(old | {"num_queries": 100, "id2label": {"0": "cat"}})
    assert config.num_queries == 100 and config.num_labels == 1 and config.hidden_size == 256
    assert model_config(config).num_classes == 1


def test_changed_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They replace all that is stored about classes, without a warning."""
    transformers.logging.set_verbosity_warning()
    RTDetrV2Config(id2label={0: "cat", 1: "dog", 2: "bird"}, label2id={"cat": 0, "dog": 1, "bird": 2}).save_pretrained(
        tmp_path
    )
    read = RTDetrV2Config.from_pretrained
    assert read(tmp_path, num_labels=2).id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert read(tmp_path, num_labels=3).id2label[2] == "bird"
    for options in ({}, {"num_labels": 1}, {"label2id": {"fish": 0}}):
        changed = read(tmp_path, id2label={"0": "fish"}, **options)
        assert (changed.id2label, changed.label2id, changed.num_labels) == ({0: "fish"}, {"fish": 0}, 1)
    assert not caplog.records


def test_saved_and_read_again(tmp_path: Path) -> None:
    config = RTDetrV2Config(decoder_n_points=[3, 2, 1], eval_idx=2, num_labels=7, query_selection="one2many")
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eval_idx"] == 2
    again = RTDetrV2Config.from_pretrained(tmp_path)
    assert model_config(again) == model_config(config)
    decoder = model_config(again).decoder
    assert (decoder.num_points, decoder.eval_idx, decoder.query_selection) == ((3, 2, 1), 2, "one2many")


@pytest.mark.parametrize("name", V2)
def test_every_zoo_model_has_a_configuration(name: str) -> None:
    wanted = zoo.model_config(name)
    config = RTDetrV2Config.from_model_config(wanted, categories=COCO80 if wanted.num_classes == 80 else None)
    again = RTDetrV2Config.from_dict(config.to_dict())
    assert model_config(again) == wanted.replace(name="custom", eval_size_hw=None)
    if wanted.num_classes == 80:
        assert again.id2label[0] == "person" and again.label2id["toothbrush"] == 79


def test_stock_configuration_describes_the_same_network() -> None:
    assert model_config(transformers.RTDetrV2Config()) == model_config(RTDetrV2Config())


def test_v1_is_refused() -> None:
    with pytest.raises(ConfigError, match="is RT-DETR v1"):
        RTDetrV2Config.from_model_config(zoo.model_config("rtdetr_r18vd"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps 1e-06 is not supported, expected 1e-05"),
        ({"normalize_before": True}, "normalize_before True is not supported"),
        ({"with_box_refine": False}, "with_box_refine False is not supported"),
        ({"feat_strides": [4, 8, 16]}, "feat_strides"),
        ({"decoder_method": "nearest"}, "decoder_method must be 'default' or 'discrete', got 'nearest'"),
        ({"decoder_n_points": [4, 4]}, "must be equal"),
        ({"num_feature_levels": 4}, "must be equal"),
        ({"eval_idx": 6}, "eval_idx 6 is outside"),
        ({"query_selection": "best"}, "query_selection"),
        ({"network_settings": {"decoder": {"activatoin": "silu"}}}, "Did you mean 'activation'"),
    ],
)
def test_unsupported_values(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(RTDetrV2Config(**fields))


def test_backbones() -> None:
    resnet = transformers.RTDetrResNetConfig(
        embedding_size=64,
        hidden_sizes=[64, 128, 256, 512],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_indices=[2, 3, 4],
    )
    config = RTDetrV2Config(backbone_config=resnet, freeze_backbone_batch_norms=False, backbone_freeze_at=1)
    assert own_backbone(config) == PResNetConfig(depth=18, freeze_at=1)
    resnet.hidden_act = "gelu"
    assert own_backbone(config) is None
    hgnet = transformers.HGNetV2Config(out_indices=[2, 3, 4], use_learnable_affine_block=True)
    assert own_backbone(RTDetrV2Config(backbone_config=hgnet)) == HGNetv2Config(
        size="L", use_lab=True, freeze_norm=True
    )
    hgnet.stage_num_blocks = [1, 2, 3, 1]
    assert own_backbone(RTDetrV2Config(backbone_config=hgnet)) is None
    assert own_backbone(RTDetrV2Config(backbone_config=transformers.ResNetConfig(out_indices=[2, 3, 4]))) is None


def test_outputs_that_an_evaluation_collects() -> None:
    """Loss, its terms, logits and boxes, at the places where transformers' own examples look for them."""
    from rtdetr.hf.outputs import RTDetrV2ObjectDetectionOutput

    names = [field.name for field in dataclasses.fields(RTDetrV2ObjectDetectionOutput)]
    ignored = RTDetrV2Config.keys_to_ignore_at_inference
    assert [name for name in names if name not in ignored][:4] == ["loss", "loss_dict", "logits", "pred_boxes"]
    assert set(ignored) <= {*names, "enc_outputs_coord_logits"}
