"""A checkpoint's model from names and shapes alone."""

import pytest
import torch

from rtdetr import zoo
from rtdetr.config import HGNetv2Config, ModelConfig, PResNetConfig
from rtdetr.errors import WeightsError
from rtdetr.models import build_model
from rtdetr.models.decoder import level_sizes
from rtdetr.models.positions import make_anchors
from rtdetr.weights.identify import anchors_size, expect, identify, observe, points_of_scale

CONSTANTS = ("anchors", "valid_mask", "num_points_scale")


def state_of(config: ModelConfig) -> dict[str, torch.Tensor]:
    """Names and shapes of a model; real values for the constants only."""
    with torch.device("meta"):
        state = build_model(config).state_dict()
    sizes = level_sizes(config.eval_size_hw, len(config.decoder.num_points))
    anchors, valid = make_anchors(sizes, torch.device("cpu"))
    scale = torch.tensor([1 / n for n in config.decoder.num_points for _ in range(n)])
    constants = {"anchors": anchors, "valid_mask": valid, "num_points_scale": scale}
    return {key: constants.get(key.rsplit(".", 1)[-1], value) for key, value in state.items()}


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_zoo_model(name: str) -> None:
    config = zoo.model_config(name)
    observation = observe(state_of(config))
    assert observation.facts == {k: v for k, v in expect(config).items() if k in observation.facts}
    found = identify(observation)
    # the name of the file decides where sampling, which has no entry, is the only difference
    assert found == zoo.model_config(name.replace("_dsp1", "_sp1").removesuffix("_dsp"))
    assert identify(observation, hint=f"{name}_1x_coco.pth") == config


def test_published_file_names() -> None:
    for name in zoo.list_models():
        for checkpoint in zoo.entry(name).checkpoints.values():
            if checkpoint.filename and "dsp" in name:
                assert identify(observe(state_of(zoo.model_config(name))), hint=checkpoint.filename).name == name


def test_other_classes_channels_and_size() -> None:
    config = zoo.model_config("rtdetrv2_r50vd_m").replace(num_classes=7, in_channels=5, eval_size_hw=(384, 640))
    found = identify(observe(state_of(config)))
    assert found == config and found.name == "rtdetrv2_r50vd_m" and found.decoder.eval_idx == 2


def test_norms_frozen_or_not() -> None:
    """The file shows whether the backbone's norms were constants, even if the zoo's model differs."""
    config = zoo.model_config("rtdetrv2_r18vd")
    frozen = identify(observe(state_of(config.replace(backbone={"freeze_norm": True}))))
    assert frozen.backbone.freeze_norm and frozen.name == "rtdetrv2_r18vd"
    no_counters = {k: v for k, v in state_of(config).items() if not k.endswith("num_batches_tracked")}
    assert identify(observe(no_counters)) == config


UNKNOWN = {
    "points": ModelConfig(decoder={"num_points": (2, 4, 6), "num_layers": 2}),
    "agnostic": ModelConfig(decoder={"query_selection": "agnostic"}),
    "learned": ModelConfig(decoder={"learned_queries": True, "num_queries": 120}),
    "widths": ModelConfig(
        num_classes=3,
        eval_size_hw=(96, 160),
        backbone=PResNetConfig(depth=18, blocks=(1, 2, 1, 1), base_width=24),
        encoder={"width": 96, "feedforward": 100, "num_heads": 4, "expansion": 29 / 96, "num_blocks": 2},
        decoder={"width": 64, "num_heads": 4, "num_points": (3, 3, 3), "query_pos_widths": (50,)},
    ),
    "levels": ModelConfig(decoder={"num_points": (4, 4, 4, 4)}, eval_size_hw=(224, 352)),
    "affine": ModelConfig(backbone=HGNetv2Config(size="X", use_lab=True), encoder={"width": 384}),
    "deim": ModelConfig(decoder={"activation": "silu", "query_pos_widths": (256, 256), "num_layers": 5}),
    "v1": ModelConfig(version="v1", decoder={"num_layers": 5}),
}


@pytest.mark.parametrize("config", UNKNOWN.values(), ids=UNKNOWN.keys())
def test_models_outside_the_zoo(config: ModelConfig) -> None:
    found = identify(observe(state_of(config)))
    assert found.name == "custom"
    assert expect(found) == expect(config)
    same = {"encoder": {"expansion": config.encoder.expansion}}  # a quotient of integers stands for it
    assert found.replace(**same) == config


def test_no_denoising_needs_no_hint() -> None:
    config = zoo.model_config("test-tiny").replace(decoder={"num_denoising": 0})
    assert identify(observe(state_of(config))).name == "test-tiny"


def test_averaged_constants() -> None:
    """Training moves the stored constants a little."""
    config = UNKNOWN["points"].replace(eval_size_hw=(416, 608))
    state = state_of(config)
    moved = {k: v * 1.0003 if k.endswith(("anchors", "num_points_scale")) else v for k, v in state.items()}
    observation = observe(moved)
    assert observation.eval_size_hw == (416, 608) and observation.facts["points per level"] == (2, 4, 6)


@pytest.mark.parametrize("size_hw", [(640, 640), (320, 1280), (1280, 320), (32, 32), (32, 96), (1024, 1792)])
@pytest.mark.parametrize("levels", [3, 4])
def test_anchors_size(size_hw: tuple[int, int], levels: int) -> None:
    anchors, _ = make_anchors(level_sizes(size_hw, levels), torch.device("cpu"))
    assert anchors_size(anchors, levels) == size_hw
    assert anchors_size(anchors.half(), levels) == size_hw


def test_anchors_of_no_size() -> None:
    assert anchors_size(torch.zeros(1, 8400, 4), 3) is None
    assert anchors_size(torch.zeros(1, 8399, 4), 3) is None
    assert anchors_size(torch.zeros(8400, 4), 3) is None
    assert anchors_size(torch.full((1, 21, 4), torch.nan), 3) is None


def test_points_of_scale() -> None:
    assert points_of_scale(torch.tensor([1.0, 0.5, 0.5, 0.3333, 0.3333, 0.3333])) == (1, 2, 3)
    assert points_of_scale(torch.tensor([0.5, 0.5, 0.25])) is None
    assert points_of_scale(torch.tensor([torch.nan])) is None and points_of_scale(torch.zeros(3)) is None
    assert points_of_scale(None) is None


def test_not_rtdetr() -> None:
    with pytest.raises(WeightsError, match=r"not an RT-DETR checkpoint: .*got conv1\.weight"):
        observe({"conv1.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="got nothing"):
        observe({})
    state = state_of(zoo.model_config("test-tiny"))
    del state["decoder.enc_score_head.weight"]
    with pytest.raises(WeightsError, match=r"not a complete .*enc_score_head"):
        observe(state)
    state["decoder.enc_score_head.weight"] = torch.tensor(1.0)
    with pytest.raises(WeightsError, match="not a complete"):
        observe(state)
    odd = {**state_of(zoo.model_config("test-tiny")), "backbone.conv1.conv1_3.conv.weight": torch.zeros(17, 8, 3, 3)}
    assert identify(observe(odd)).backbone.base_width == 17  # buildable; loading says what does not fit
    odd["decoder.decoder.layers.0.cross_attn.attention_weights.weight"] = torch.zeros(1, 32)
    with pytest.raises(WeightsError, match="can be built"):
        identify(observe(odd))
