"""Reading and writing PyTorch files, strict loading, and error messages."""

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch

from rtdetr import zoo
from rtdetr.categories import COCO80, Categories
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.models import build_model, fuse
from rtdetr.weights import (
    download,
    load_backbone,
    load_model,
    load_state,
    metadata,
    read_checkpoint,
    save_huggingface,
    save_weights,
)
from rtdetr.weights.names import to_version
from tests.parity.fill import image
from tests.weights.small import CONSTANTS, assert_same, small

PETS = Categories.numbered(3)


def plain(**changes: object) -> torch.nn.Module:
    """A filled test-tiny, which its entries identify."""
    return small(transformers=False, **changes)


def test_a_file_needs_no_random_weights(tmp_path: Path) -> None:
    save_weights(plain(), tmp_path / "x.pth")
    before = torch.random.get_rng_state()
    model, _ = load_model(tmp_path / "x.pth")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_same(model.state_dict(), plain().state_dict())


@pytest.mark.parametrize("layout", ["ema", "model", "both", "bare", "wrapped"])
def test_official_layouts(layout: str, tmp_path: Path) -> None:
    state = plain().state_dict()
    other = {key: value if key.endswith(CONSTANTS) else value * 2 for key, value in state.items()}
    content = {
        "ema": {"ema": {"module": state, "updates": 7}},
        "model": {"model": state, "last_epoch": 3},
        "both": {"model": other, "ema": {"module": state}, "optimizer": {"state": {}}, "date": "today"},
        "bare": state,
        "wrapped": {"model": {f"module.{key}": value for key, value in state.items()}},
    }[layout]
    torch.save(content, tmp_path / "x.pth")
    weights = read_checkpoint(tmp_path / "x.pth")
    assert_same(weights.state, state)
    assert weights.config == zoo.model_config("test-tiny") and weights.categories is None
    trained = read_checkpoint(tmp_path / "x.pth", average=False)
    assert_same(trained.state, other if layout == "both" else state)
    averaged = {"ema": (True, True), "both": (True, False), "bare": (None, None)}.get(layout, (False, False))
    assert (weights.averaged, trained.averaged) == averaged
    model, categories = load_model(str(tmp_path / "x.pth"))
    assert_same(model.state_dict(), state)
    assert not model.training and categories == COCO80


def test_old_file_format(tmp_path: Path) -> None:
    state = plain().state_dict()
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    assert_same(read_checkpoint(tmp_path / "x.pth").state, state)


def test_ours_round_trip(tmp_path: Path) -> None:
    model = plain(num_classes=3, in_channels=5, decoder={"num_denoising": 7, "eval_idx": 0, "sampling": "discrete"})
    path = save_weights(model, tmp_path / "runs" / "best.pth", categories=PETS)
    weights = read_checkpoint(path)
    assert_same(weights.state, model.state_dict())
    assert weights.config == model.config and weights.categories == PETS and weights.path == path
    loaded, categories = load_model(path)
    assert categories == PETS
    images = torch.rand(1, 5, 96, 64)
    assert torch.equal(loaded(images).logits, model(images).logits)
    # what official tools look for
    content = torch.load(path, weights_only=True)
    assert_same(content["ema"]["module"], model.state_dict())
    assert path.stat().st_size < 1.3 * sum(v.nbytes for v in model.state_dict().values())  # stored once


def test_classes_are_optional(tmp_path: Path) -> None:
    model = plain(num_classes=3)
    save_weights(model, tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth").categories is None
    assert load_model(tmp_path / "x.pth")[1] == Categories.numbered(3)
    with pytest.raises(WeightsError, match="got 80 class names for a model of 3 classes"):
        save_weights(model, tmp_path / "x.pth", categories=COCO80)


def test_v1_and_v2_weights_in_each_other(tmp_path: Path) -> None:
    """The same network under other names: v1 files load where a v2 model is asked for."""
    model = build_model("rtdetr_r18vd")
    torch.save({"ema": {"module": model.state_dict()}}, tmp_path / "x.pth")
    weights = read_checkpoint(tmp_path / "x.pth")
    assert weights.config.name == "rtdetr_r18vd" and weights.config.version == "v1"
    as_v2, _ = load_model(tmp_path / "x.pth", model="rtdetrv2_r18vd")
    assert as_v2.config == zoo.model_config("rtdetrv2_r18vd")
    images = image(64, 96).float()
    with torch.inference_mode():
        torch.testing.assert_close(as_v2(images).logits, model.eval()(images).logits)
    assert_same(to_version(as_v2.state_dict(), "v1"), model.state_dict())


def test_file_name_and_model_decide(tmp_path: Path) -> None:
    state = build_model("rtdetrv2_r18vd_dsp").state_dict()
    torch.save(state, tmp_path / "rtdetrv2_r18vd_dsp_3x_coco.pth")
    os.link(tmp_path / "rtdetrv2_r18vd_dsp_3x_coco.pth", tmp_path / "renamed.pth")
    assert read_checkpoint(tmp_path / "rtdetrv2_r18vd_dsp_3x_coco.pth").config.decoder.sampling == "discrete"
    assert read_checkpoint(tmp_path / "renamed.pth").config.decoder.sampling == "bilinear"
    named = read_checkpoint(tmp_path / "renamed.pth", model="rtdetrv2_r18vd_dsp")
    assert named.config == zoo.model_config("rtdetrv2_r18vd_dsp")
    with pytest.raises(WeightsError, match=r"expected weights of 'rtdetrv2_r50vd', got .*looks like 'rtdetrv2_r18vd'"):
        read_checkpoint(tmp_path / "renamed.pth", model="rtdetrv2_r50vd")
    with pytest.raises(ConfigError, match="Did you mean 'rtdetrv2_r18vd'"):
        read_checkpoint(tmp_path / "renamed.pth", model="rtdetrv2_r18v")


def test_zoo_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published name is found in the cache, its alias too; the other file of a model has its tag."""
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path))
    monkeypatch.setenv("RTDETR_OFFLINE", "1")
    state = build_model("rtdetr_r18vd").state_dict()
    torch.save({"ema": {"module": state}}, tmp_path / "rtdetr_r18vd_5x_coco_objects365_from_paddle.pth")
    weights = read_checkpoint("rtdetr_r18vd:objects365")
    assert weights.config == zoo.model_config("rtdetr_r18vd") and weights.categories == COCO80
    url = zoo.entry("rtdetrv2_r18vd").checkpoints["coco"].url
    target = tmp_path / "rtdetrv2_r18vd_120e_coco_rerun_48.1.pth"
    with pytest.raises(WeightsError, match="save it as") as error:
        load_model("rtdetrv2_s")
    assert f"Download {url} by other means and save it as {target}." in str(error.value)
    with pytest.raises(WeightsError, match=r"no weights 'objects'\. Did you mean 'objects365'"):
        read_checkpoint("rtdetr_r18vd:objects")
    with pytest.raises(WeightsError, match="no published weights"):
        read_checkpoint("test-tiny")
    with pytest.raises(WeightsError, match="cannot be downloaded: published by the DEIM project"):
        read_checkpoint("deim_rtdetrv2_r18vd")


def test_file_names_of_other_formats_are_refused(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.onnx"):
        with pytest.raises(WeightsError, match=r"save_weights writes \.pth files"):
            save_weights(build_model("test-tiny"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_untrained_models_are_the_same_each_time_and_leave_the_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (read_checkpoint("test-tiny:untrained") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.config == zoo.model_config("test-tiny") and first.categories == COCO80
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())
    with pytest.raises(ConfigError, match=r"unknown model 'test-tny'\. Did you mean 'test-tiny'"):
        read_checkpoint("test-tny:untrained")
    with pytest.raises(WeightsError, match="expected weights of 'rtdetr_r18vd', got those of 'test-tiny'"):
        read_checkpoint("test-tiny:untrained", model="rtdetr_r18vd")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such file or model: .*best\.pth\."):
        load_model(tmp_path / "best.pth")
    with pytest.raises(WeightsError, match=r"rtdetrv2_r18\. Did you mean 'rtdetrv2_r18vd'"):
        load_model("rtdetrv2_r18")
    with pytest.raises(WeightsError, match="contains no weights"):
        load_model(tmp_path)


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"data": "x"}')
    save_weights(build_model("test-tiny", num_classes=3), tmp_path / "last.pth")
    assert read_checkpoint(tmp_path).path == tmp_path / "last.pth"
    save_weights(build_model("test-tiny", num_classes=2), tmp_path / "best.pth")
    loaded = read_checkpoint(str(tmp_path))
    assert (loaded.path, loaded.config.num_classes) == (tmp_path / "best.pth", 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.onnx", "is an exported model"),
        ("model.PT2", "is an exported model"),
        ("photo.jpg", "is not a checkpoint"),
    ],
)
def test_files_of_other_kinds(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / name)


class Exploit:
    """Runs a command when unpickled carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_is_never_run(how: str, tmp_path: Path) -> None:
    content = {"model": plain().state_dict(), "x": Exploit(tmp_path / "pwned")}
    if how == "torch":
        torch.save(content, tmp_path / "x.pth")
    else:
        (tmp_path / "x.pth").write_bytes(pickle.dumps({"x": Exploit(tmp_path / "pwned")}))
    with pytest.raises(WeightsError, match="code from files is never run") as error:
        load_model(tmp_path / "x.pth")
    assert not (tmp_path / "pwned").exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"model": {}}, {"model": {"a": 1}}, {"ema": None}, {"model": {3: torch.zeros(1)}}, "text"]
)
def test_not_a_checkpoint(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)])
def test_odd_tensors(value: torch.Tensor, tmp_path: Path) -> None:
    torch.save({**plain().state_dict(), "encoder.x": value}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="expected plain float tensors"):
        read_checkpoint(tmp_path / "x.pth")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["backbone.conv1.conv1_1.norm.running_var", "decoder.dec_bbox_head.1.layers.2.bias"])
def test_values_that_are_not_finite(key: str, value: float, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in plain().state_dict().items()}
    state[key][0] = value
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: entry '{key}' contains NaN or infinity"):
        load_model(tmp_path / "x.pth")


def test_another_class_count_suggests_transfer() -> None:
    state = plain().state_dict()
    with pytest.raises(WeightsError, match=r"has 80 classes, the model 'test-tiny' has 5\..*rtdetr\.weights\.transfer"):
        load_state(plain(num_classes=5), state)
    with pytest.raises(WeightsError, match="has 3 image channels, the model 'test-tiny' has 1"):
        load_state(plain(in_channels=1), state)


def test_another_model() -> None:
    with torch.device("meta"):
        state = build_model("rtdetrv2_r34vd", eval_size_hw=(64, 64)).state_dict()
    state["decoder.anchors"] = torch.zeros(1, 84, 4)
    state = {k: torch.tensor([0.25] * 12) if k.endswith("num_points_scale") else v for k, v in state.items()}
    with pytest.raises(WeightsError) as error:
        load_state(build_model("rtdetrv2_r18vd"), state)
    text = str(error.value)
    assert "do not fit the model 'rtdetrv2_r18vd'" in text and "looks like 'rtdetrv2_r34vd'" in text
    assert "unknown (" in text and ", ...)" in text and "\n" not in text


def test_missing_unknown_and_misshapen_entries() -> None:
    state = plain().state_dict()
    state["decoder.extra"] = state.pop("decoder.enc_output.proj.bias")
    state["encoder.lateral_convs.0.conv.weight"] = torch.zeros(2)
    state["encoder.lateral_convs.1.conv.weight"] = torch.zeros(32, 32, 1, 1, dtype=torch.int64)
    with pytest.raises(WeightsError) as error:
        load_state(plain(), state)
    assert "1 missing (decoder.enc_output.proj.bias); 1 unknown (decoder.extra); 2 with another shape" in str(
        error.value
    )


def test_constants_may_be_missing_or_of_another_size() -> None:
    source, target = plain(), plain(eval_size_hw=(96, 160))
    fresh = copy.deepcopy(target.state_dict())
    bare = {key: value for key, value in source.state_dict().items() if value.is_floating_point()}
    bare = {key: value for key, value in bare.items() if not key.endswith(("anchors", "num_points_scale"))}
    load_state(target, bare)
    assert_same(target.state_dict(), fresh)
    load_state(target, source.state_dict())  # anchors of 64x64 do not apply at 96x160
    assert_same(target.state_dict(), fresh)
    without = plain(eval_size_hw=(96, 160)).config.replace(eval_size_hw=None)
    load_state(build_model(without), source.state_dict())


def test_stored_anchors_apply_at_their_own_size() -> None:
    """Published anchors are a moving average and a little off; published numbers come from them."""
    model = plain()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["decoder.anchors"] *= 1.0001
    load_state(model, state)
    assert torch.equal(model.decoder.anchors, state["decoder.anchors"])
    narrow = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    fresh = plain()
    load_state(fresh, narrow)  # 16 bits are enough for what was learned, not for anchors
    assert torch.equal(fresh.decoder.anchors, plain().decoder.anchors)
    assert torch.equal(fresh.decoder.enc_output[0].weight, narrow["decoder.enc_output.proj.weight"].float())
    turned = plain(eval_size_hw=(32, 128))  # as many tokens as 64x64
    load_state(turned, state)
    assert torch.equal(turned.decoder.anchors, plain(eval_size_hw=(32, 128)).decoder.anchors)


def test_points_must_have_the_same_levels() -> None:
    """The same shapes, another meaning."""
    state = plain(decoder={"num_points": (1, 2, 3)}).state_dict()
    with pytest.raises(WeightsError, match=r"points per level \(1, 2, 3\) instead of \(2, 2, 2\)"):
        load_state(plain(), state)


def test_a_model_without_denoising_takes_a_whole_checkpoint(tmp_path: Path) -> None:
    state = plain().state_dict()
    model = plain(decoder={"num_denoising": 0})
    load_state(model, state)
    torch.save(model.state_dict(), tmp_path / "x.pth")
    assert load_model(tmp_path / "x.pth")[0].config.decoder.num_denoising == 0
    with pytest.raises(WeightsError, match=r"1 missing .*denoising_class_embed"):
        load_state(plain(), model.state_dict())


def test_fused_models_are_refused(tmp_path: Path) -> None:
    fused = fuse(plain())
    for refused in (
        lambda: save_weights(fused, tmp_path / "x.pth"),
        lambda: save_huggingface(fused, tmp_path / "x"),
        lambda: load_state(fused, plain().state_dict()),
    ):
        with pytest.raises(WeightsError, match="fuse"):
            refused()
    assert not list(tmp_path.iterdir())


def test_a_wrong_description_is_refused(tmp_path: Path) -> None:
    model = plain()
    described = metadata(model.config, None)
    for change, message in (
        ({"format": 2}, "newer"),
        ({"model": {**described["model"], "decoder": {"width": 2**40}}}, "does not match"),
        ({"model": {**described["model"], "num_classes": 81}}, "does not match"),
        ({"model": {"version": "v3"}}, "damaged"),
        ({"model": None}, "damaged"),
        ({"categories": [{"id": 1}]}, "damaged"),
        ({"categories": [{"id": 1, "name": "cat"}]}, "names 1 class for a model with 80"),
    ):
        torch.save({"model": model.state_dict(), "rtdetr": {**described, **change}}, tmp_path / "x.pth")
        with pytest.raises(WeightsError, match=rf"x\.pth.*{message}"):
            load_model(tmp_path / "x.pth")


def test_backbone(tmp_path: Path) -> None:
    source, model = plain(), build_model("test-tiny")
    before = copy.deepcopy(model.state_dict())
    torch.save(source.backbone.state_dict(), tmp_path / "backbone.pth")
    load_backbone(model, tmp_path / "backbone.pth")
    assert_same(model.backbone.state_dict(), source.backbone.state_dict())
    assert torch.equal(model.decoder.enc_score_head.weight, before["decoder.enc_score_head.weight"])
    gray = build_model("test-tiny", in_channels=1)
    assert load_backbone(gray, tmp_path / "backbone.pth").adapted == ("backbone.conv1.conv1_1.conv.weight",)
    total = source.backbone.conv1[0].conv.weight.sum(1, keepdim=True)
    torch.testing.assert_close(gray.backbone.conv1[0].conv.weight, total)
    with pytest.raises(WeightsError, match=r"backbone\.pth: .*do not fit"):
        load_backbone(build_model("demo"), tmp_path / "backbone.pth")


def test_backbone_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTDETR_WEIGHTS_URL", tmp_path.as_uri())
    monkeypatch.setenv("RTDETR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RTDETR_OFFLINE", raising=False)
    torch.save(plain().backbone.state_dict(), tmp_path / "backbone.pth")
    model = build_model("test-tiny")
    load_backbone(model, "https://nowhere.invalid/backbone.pth")
    assert_same(model.backbone.state_dict(), plain().backbone.state_dict())
    assert download("https://nowhere.invalid/backbone.pth") == tmp_path / "cache" / "backbone.pth"
