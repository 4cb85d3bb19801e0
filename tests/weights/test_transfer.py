"""Weights for other classes and other image channels."""

import pytest
import torch

from rtdetr.errors import WeightsError
from rtdetr.models import build_model
from rtdetr.weights import transfer
from rtdetr.weights.names import to_version
from tests.weights.small import assert_same, small

OLD = ["person", "Cat", "dog", "car"]
NEW = ["dog", "tree", " cat "]
HEADS = ("decoder.enc_score_head.", "decoder.dec_score_head.", "decoder.denoising_class_embed.")


def prepared(**changes: object) -> tuple:
    """A filled checkpoint of four classes, a fresh model and that model's fresh entries."""
    state = small(num_classes=4).state_dict()
    model = build_model(small(**{"num_classes": 3, **changes}).config)
    return state, model, {key: value.clone() for key, value in model.state_dict().items()}


def test_rows_are_matched_by_name() -> None:
    state, model, fresh = prepared()
    report = transfer(model, state, source_names=OLD, target_names=NEW)
    now = model.state_dict()
    for key in [key for key in now if key.startswith(HEADS)]:
        assert torch.equal(now[key][0], state[key][2]) and torch.equal(now[key][2], state[key][1])
        assert torch.equal(now[key][1], fresh[key][1])
    rest = {key: value for key, value in state.items() if not key.startswith(HEADS)}
    assert_same({key: now[key] for key in rest}, rest)
    assert torch.equal(now["decoder.denoising_class_embed.weight"][3], torch.zeros(32))  # "no class"
    assert report.carried_classes == ("dog", " cat ") and report.new_classes == ("tree",)
    layers = [f"decoder.dec_score_head.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]
    others = ["decoder.enc_score_head.weight", "decoder.enc_score_head.bias", "decoder.denoising_class_embed.weight"]
    assert sorted(report.reinitialized) == sorted(layers + others) and report.adapted == ()
    assert "2 classes transferred, 1 initialized randomly" in str(report) and "tree" in str(report)


def test_the_checkpoint_is_not_changed() -> None:
    state, model, _ = prepared(in_channels=1)
    before = {key: value.clone() for key, value in state.items()}
    transfer(model, state, source_names=OLD, target_names=NEW)
    assert_same(state, before)


def test_without_names_nothing_is_transferred() -> None:
    state, model, fresh = prepared()
    report = transfer(model, state)
    assert report.carried_classes == () and report.new_classes == ("0", "1", "2")
    now = model.state_dict()
    assert_same({k: now[k] for k in now if k.startswith(HEADS)}, {k: fresh[k] for k in now if k.startswith(HEADS)})


def test_the_same_classes_without_names() -> None:
    state, model, _ = prepared(num_classes=4)
    report = transfer(model, state, target_names=OLD)
    assert_same(model.state_dict(), state)
    assert report.carried_classes == tuple(OLD) and report.reinitialized == ()
    assert str(report) == "4 classes transferred, 0 initialized randomly"


def test_the_same_number_of_other_classes() -> None:
    """The same count does not make classes the same."""
    state, model, fresh = prepared(num_classes=4)
    transfer(model, state, source_names=OLD, target_names=["car", "bus", "dog", "person"])
    now, key = model.state_dict(), "decoder.enc_score_head.weight"
    expected = torch.stack([state[key][3], fresh[key][1], state[key][2], state[key][0]])
    assert torch.equal(now[key], expected)


@pytest.mark.parametrize("channels", [1, 5])
def test_other_image_channels(channels: int) -> None:
    """If all channels are equal, the response is that of the three-channel model."""
    state, model, _ = prepared(num_classes=4, in_channels=channels)
    report = transfer(model, state)
    assert report.adapted == ("backbone.conv1.conv1_1.conv.weight",)
    gray = torch.rand(1, 1, 64, 96)
    expected = small(num_classes=4)(gray.expand(-1, 3, -1, -1))
    got = model.eval()(gray.expand(-1, channels, -1, -1))
    torch.testing.assert_close(got.logits, expected.logits, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_hgnetv2_stem() -> None:
    source, model = build_model("rtdetrv2_hgnetv2_l"), build_model("rtdetrv2_hgnetv2_l", in_channels=1)
    report = transfer(model, source.state_dict())
    assert report.adapted == ("backbone.stem.stem1.conv.weight",)
    total = source.backbone.stem.stem1.conv.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model.backbone.stem.stem1.conv.weight, total)


def test_class_agnostic_selection() -> None:
    agnostic = {"query_selection": "agnostic"}
    state = small(num_classes=4, decoder=agnostic).state_dict()
    model = build_model(small(num_classes=3, decoder=agnostic).config)
    report = transfer(model, state, source_names=OLD, target_names=NEW)
    assert torch.equal(model.state_dict()["decoder.enc_score_head.weight"], state["decoder.enc_score_head.weight"])
    assert not any("enc_score_head" in key for key in report.reinitialized)


def test_v1_checkpoints_and_repeated_names() -> None:
    state, model, fresh = prepared()
    report = transfer(model, to_version(state, "v1"), source_names=["dog", "dog", "cat", "x"], target_names=NEW)
    assert report.carried_classes == ("dog", " cat ")
    key = "decoder.dec_score_head.1.weight"
    assert torch.equal(model.state_dict()[key], torch.stack([state[key][0], fresh[key][1], state[key][2]]))


def test_everything_else_must_fit() -> None:
    state, model, _ = prepared()
    with pytest.raises(WeightsError, match="got 3 class names for a checkpoint with 4 classes"):
        transfer(model, state, source_names=NEW)
    with pytest.raises(WeightsError, match="got 4 class names for a model with 3 classes"):
        transfer(model, state, target_names=OLD)
    deeper = build_model(small(num_classes=3, decoder={"num_layers": 3}).config)
    with pytest.raises(WeightsError, match="missing"):
        transfer(deeper, state)
    state["decoder.enc_score_head.bias"] = torch.full((4,), torch.nan)
    with pytest.raises(WeightsError, match="NaN"):
        transfer(model, state, source_names=OLD, target_names=NEW)
