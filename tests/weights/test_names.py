"""Names: v1 and v2, official and Hugging Face, every direction."""

import pytest
import torch

from rtdetr.errors import WeightsError
from rtdetr.models import build_model
from rtdetr.weights.names import from_huggingface, to_huggingface, to_version, version_of
from tests.weights.small import assert_same, small

GENERATED = ("anchors", "valid_mask")


def official(name: str) -> dict[str, torch.Tensor]:
    """Entries with an official model's names and shapes, each with a value of its own, without allocating them."""
    with torch.device("meta"):
        shapes = build_model(name, eval_size_hw=(64, 64)).state_dict()
    return {key: torch.tensor(float(i)).expand(v.shape) for i, (key, v) in enumerate(shapes.items())}


@pytest.mark.parametrize("name", ["rtdetrv2_r18vd", "rtdetrv2_r50vd", "rtdetrv2_r101vd", "rtdetrv2_r18vd_sp1"])
def test_huggingface_round_trip(name: str) -> None:
    state = official(name)
    translated = to_huggingface(state)
    assert all(key.startswith("model.") for key in translated)
    attentions = sum(key.endswith("in_proj_weight") for key in state)
    assert len(translated) == len(state) - 2 + 4 * attentions  # anchors and mask go, two entries become six
    kept = {key: value for key, value in state.items() if not key.endswith(GENERATED)}
    assert_same(from_huggingface(translated), kept)


def test_known_names() -> None:
    """A few rows of the published correspondence, written out."""
    state = {key: torch.tensor([float(i)] * 3) for i, key in enumerate(official("rtdetrv2_r18vd"))}
    names = {float(value[0]): key for key, value in to_huggingface(state).items() if ".self_attn." not in key}
    official_names = {float(value[0]): key for key, value in state.items()}
    pairs = {official_names[i]: name for i, name in names.items()}
    expected = {
        "backbone.conv1.conv1_2.conv.weight": "model.backbone.model.embedder.embedder.1.convolution.weight",
        "backbone.res_layers.0.blocks.0.short.norm.bias": (
            "model.backbone.model.encoder.stages.0.layers.0.shortcut.normalization.bias"
        ),
        "backbone.res_layers.3.blocks.0.short.conv.conv.weight": (
            "model.backbone.model.encoder.stages.3.layers.0.shortcut.1.convolution.weight"
        ),
        "backbone.res_layers.2.blocks.1.branch2b.norm.running_var": (
            "model.backbone.model.encoder.stages.2.layers.1.layer.1.normalization.running_var"
        ),
        "encoder.input_proj.2.norm.weight": "model.encoder_input_proj.2.1.weight",
        "encoder.encoder.0.layers.0.norm1.weight": "model.encoder.encoder.0.layers.0.self_attn_layer_norm.weight",
        "encoder.pan_blocks.1.bottlenecks.2.conv1.conv.weight": (
            "model.encoder.pan_blocks.1.bottlenecks.2.conv1.conv.weight"
        ),
        "decoder.input_proj.0.conv.weight": "model.decoder_input_proj.0.0.weight",
        "decoder.decoder.layers.2.cross_attn.num_points_scale": "model.decoder.layers.2.encoder_attn.n_points_scale",
        "decoder.decoder.layers.1.norm2.bias": "model.decoder.layers.1.encoder_attn_layer_norm.bias",
        "decoder.decoder.layers.0.linear2.weight": "model.decoder.layers.0.fc2.weight",
        "decoder.dec_score_head.2.bias": "model.decoder.class_embed.2.bias",
        "decoder.dec_bbox_head.0.layers.1.weight": "model.decoder.bbox_embed.0.layers.1.weight",
        "decoder.query_pos_head.layers.1.weight": "model.decoder.query_pos_head.layers.1.weight",
        "decoder.enc_output.norm.weight": "model.enc_output.1.weight",
        "decoder.denoising_class_embed.weight": "model.denoising_class_embed.weight",
    }
    assert {key: pairs[key] for key in expected} == expected


def test_attention_projections_are_split_in_order() -> None:
    state = small().state_dict()
    key = "decoder.decoder.layers.1.self_attn."
    translated = to_huggingface(state)
    parts = [translated[f"model.decoder.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"]
    assert torch.equal(torch.cat(parts), state[key + "in_proj_weight"])
    assert torch.equal(translated["model.decoder.layers.1.self_attn.out_proj.bias"], state[key + "out_proj.bias"])


def in_memory_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The names that transformers 5 has in memory, with its tied copies."""
    result = {}
    for key, value in state.items():
        new = key.replace("encoder.encoder.", "encoder.aifi.").replace("self_attn.out_proj", "self_attn.o_proj")
        result[new.replace(".fc1.", ".mlp.fc1.").replace(".fc2.", ".mlp.fc2.")] = value
        for head in ("class_embed", "bbox_embed"):
            if key.startswith(f"model.decoder.{head}"):
                result[key.removeprefix("model.decoder.")] = value
    return result


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("only_top_level_heads", [True, False])
def test_names_of_other_transformers_versions(counters: bool, only_top_level_heads: bool) -> None:
    expected = {key: value for key, value in small().state_dict().items() if not key.endswith(GENERATED)}
    state = in_memory_names(to_huggingface(expected))
    if not counters:
        expected = {key: value for key, value in expected.items() if not key.endswith("num_batches_tracked")}
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    if only_top_level_heads:
        state = {k: v for k, v in state.items() if not k.startswith(("model.decoder.class", "model.decoder.bbox"))}
    assert_same(from_huggingface(state), expected, order=False)


def test_foreign_and_incomplete_names() -> None:
    state = to_huggingface(small().state_dict())
    with pytest.raises(WeightsError, match=r"not an RT-DETR checkpoint: 1 unknown entry, such as model\.head"):
        from_huggingface({**state, "model.head": torch.zeros(1)})
    del state["model.decoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(WeightsError, match="expected q_proj, k_proj and v_proj"):
        from_huggingface(state)
    with pytest.raises(WeightsError, match=r"no entry for 'decoder\.tgt_embed\.weight'"):
        to_huggingface(small(decoder={"learned_queries": True}).state_dict())


def test_v1_and_v2() -> None:
    state = official("rtdetr_r18vd")
    as_v2 = to_version(state, "v2")
    assert version_of(state) == "v1" and version_of(as_v2) == "v2" and version_of(["x"]) is None
    v2_names = set(official("rtdetrv2_r18vd"))
    constants = {key for key in v2_names if key.endswith(("anchors", "valid_mask", "num_points_scale"))}
    assert set(as_v2) == v2_names - constants and len(constants) == 5
    assert_same(to_version(as_v2, "v1"), state)
    assert list(to_version(official("rtdetrv2_r18vd"), "v1")) == list(state) and len(state) == 533
