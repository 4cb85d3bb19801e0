"""Settings that a checkpoint does not show: from its optimizer, from files next to it, or from the user."""

import json
import logging

import pytest
import torch

import rtdetr
from rtdetr import zoo
from rtdetr.categories import Categories
from rtdetr.config import Recipe
from rtdetr.errors import ConfigError, WeightsError
from rtdetr.training import build_optimizer
from rtdetr.weights import convert, load_model, read_checkpoint
from tests.weights.small import small

YAML = """
num_classes: 80
remap_mscoco_category: True
eval_spatial_size: [640, 640]
RTDETR: {backbone: PResNet, encoder: HybridEncoder, decoder: RTDETRTransformerv2}
PResNet: {depth: 18, freeze_at: -1, freeze_norm: False, return_idx: [1, 2, 3]}
HybridEncoder: {in_channels: [128, 256, 512], hidden_dim: 256, expansion: 0.5}
RTDETRTransformerv2: {feat_channels: [256, 256, 256], num_layers: 3, num_points: [4, 4, 4], cross_attn_method: METHOD}
"""
UNSAID = "does not say how its model samples features"


def training_checkpoint(*, sampling: str, steps: int = 1) -> dict[str, object]:
    """What the published trainer writes, as far as it matters here."""
    model = small(transformers=False, decoder={"sampling": sampling, "num_denoising": 0}).train()
    for name, parameter in model.named_parameters():  # as the published module does
        parameter.requires_grad_("sampling_offsets" not in name or sampling == "bilinear")
    optimizer = build_optimizer(model, Recipe())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    for _ in range(steps):
        optimizer.step()
    state = model.state_dict()
    return {
        "last_epoch": 3,
        "model": state,
        "ema": {"module": state, "updates": 9},
        "optimizer": optimizer.state_dict(),
    }


@pytest.fixture(scope="module")
def r18_entries() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return rtdetr.build_model("rtdetrv2_r18vd").state_dict()


@pytest.mark.parametrize("sampling", ["bilinear", "discrete"])
@pytest.mark.parametrize("name", ["best.pth", "last.pth", "checkpoint0003.pth"])
def test_the_optimizer_of_a_training_checkpoint_shows_its_sampling(tmp_path, caplog, sampling, name):
    torch.save(training_checkpoint(sampling=sampling), tmp_path / name)
    weights = read_checkpoint(tmp_path / name)
    assert (weights.config.decoder.sampling, weights.assumes_sampling) == (sampling, False)
    model, _ = load_model(tmp_path / name)
    assert model.config.decoder.sampling == sampling and UNSAID not in caplog.text


def test_unknown_sampling_gives_a_warning(tmp_path, caplog):
    content = training_checkpoint(sampling="discrete", steps=0)  # the optimizer has no moments yet
    torch.save(content, tmp_path / "last.pth")
    torch.save({"ema": content["ema"]}, tmp_path / "best.pth")
    for name in ("last.pth", "best.pth"):
        caplog.clear()
        model, _ = load_model(tmp_path / name)
        assert model.config.decoder.sampling == "bilinear"
        (told,) = [record.getMessage() for record in caplog.records if UNSAID in record.getMessage()]
        assert name in told and "--config" in told
    caplog.clear()
    convert(tmp_path / "best.pth", tmp_path / "ours.pth")
    assert UNSAID in caplog.text
    caplog.clear()
    load_model(tmp_path / "ours.pth")  # says it itself
    load_model(tmp_path / "best.pth", model="test-tiny")
    assert UNSAID not in caplog.text


def test_a_model_that_contradicts_the_optimizer_gives_a_warning(tmp_path, caplog):
    torch.save(training_checkpoint(sampling="discrete"), tmp_path / "last.pth")
    weights = read_checkpoint(tmp_path / "last.pth", model="test-tiny")
    assert weights.config.decoder.sampling == "bilinear"
    assert "was trained with discrete sampling, as its optimizer shows, but test-tiny says bilinear" in caplog.text


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_a_published_file_states_the_model(tmp_path, caplog, r18_entries, method):
    caplog.set_level(logging.INFO)
    expected = {"default": "bilinear", "discrete": "discrete"}[method]
    (tmp_path / "run").mkdir()
    (tmp_path / "own.yml").write_text(YAML.replace("METHOD", method))
    torch.save({"model": r18_entries}, tmp_path / "run" / "best.pth")
    given = read_checkpoint(tmp_path / "run" / "best.pth", model=tmp_path / "own.yml")
    assert given.config.decoder.sampling == expected
    assert given.config.name == ("rtdetrv2_r18vd" if method == "default" else "rtdetrv2_r18vd_dsp")
    assert read_checkpoint(tmp_path / "run" / "best.pth", model=str(tmp_path / "own.yml")).config == given.config
    (tmp_path / "run" / "used.yml").write_text("__include__: ['../own.yml']\n")
    (tmp_path / "run" / "data.yaml").write_text("names: [a, b]\ntrain: images\n")  # of something else
    beside = read_checkpoint(tmp_path / "run" / "best.pth")
    assert beside.config == given.config and not beside.assumes_sampling
    assert "using the model described by" in caplog.text and not given.assumes_sampling
    assert beside.categories is None  # remapped to COCO's ids


def test_adjacent_files_that_disagree_or_do_not_fit(tmp_path, caplog, r18_entries):
    torch.save({"model": r18_entries}, tmp_path / "best.pth")
    (tmp_path / "a.yml").write_text(YAML.replace("METHOD", "default"))
    (tmp_path / "b.yml").write_text(YAML.replace("METHOD", "discrete"))
    assert read_checkpoint(tmp_path / "best.pth").assumes_sampling
    assert "the files next to it describe different models (a.yml, b.yml), so none is used" in caplog.text
    (tmp_path / "a.yml").write_text(YAML.replace("METHOD", "default").replace("num_layers: 3", "num_layers: 4"))
    assert read_checkpoint(tmp_path / "best.pth").config.decoder.sampling == "discrete"
    (tmp_path / "b.yml").write_text("__include__: ['nowhere.yml']\nRTDETRTransformerv2: {}\n")
    assert read_checkpoint(tmp_path / "best.pth").assumes_sampling
    assert "b.yml, next to" in caplog.text and "nowhere.yml" in caplog.text


def test_files_of_this_library_and_of_transformers_state_the_model(tmp_path):
    model = small(decoder={"sampling": "discrete"})
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    record = {"model": "custom", "network": model.config.model_dump(mode="json"), "recipe": {}, "output_dir": "x"}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    assert read_checkpoint(tmp_path / "x.pth", model=tmp_path / "run" / "config.json").config == model.config
    rtdetr.weights.save_huggingface(model, tmp_path / "hf")
    said = read_checkpoint(tmp_path / "x.pth", model=tmp_path / "hf" / "config.json")
    assert said.config.decoder.sampling == "discrete"
    torch.save({"model": model.state_dict()}, tmp_path / "hf" / "x.pth")
    assert read_checkpoint(tmp_path / "hf" / "x.pth").config.decoder.sampling == "discrete"
    tiny = small(transformers=False, decoder={"sampling": "discrete"})
    torch.save({"model": tiny.state_dict()}, tmp_path / "tiny.pth")
    (tmp_path / "own.yml").write_text("model: {base: test-tiny, decoder: {sampling: discrete}}\n")
    assert read_checkpoint(tmp_path / "tiny.pth", model=tmp_path / "own.yml").config == tiny.config
    assert tiny.config == zoo.model_config("test-tiny").replace(decoder={"sampling": "discrete"})


def test_files_that_describe_no_model_are_refused(tmp_path):
    torch.save({"model": small(transformers=False).state_dict()}, tmp_path / "x.pth")
    (tmp_path / "data.yaml").write_text("names: [a, b]\n")
    with pytest.raises(ConfigError, match=r"data\.yaml does not describe a model: expected a published YAML file"):
        read_checkpoint(tmp_path / "x.pth", model=tmp_path / "data.yaml")
    with pytest.raises(ConfigError, match=r"no such file: .*nowhere\.yml"):
        read_checkpoint(tmp_path / "x.pth", model=tmp_path / "nowhere.yml")
    (tmp_path / "r18.yml").write_text(YAML.replace("METHOD", "default"))
    with pytest.raises(WeightsError, match="expected weights of 'rtdetrv2_r18vd', got"):
        read_checkpoint(tmp_path / "x.pth", model=tmp_path / "r18.yml")


@pytest.mark.parametrize(
    ("text", "checkpoint_rows_are_ids"),
    [
        ("remap_mscoco_category: True", False),
        ("remap_mscoco_category: False", True),
        ("val_dataloader: {dataset: {type: CocoDetection}}", True),
        ("val_dataloader: {dataset: {type: VOCDetection}}", False),
        ("", False),
    ],
)
def test_labels_that_are_category_ids(tmp_path, r18_entries, text, checkpoint_rows_are_ids):
    torch.save({"model": r18_entries}, tmp_path / "best.pth")
    body = YAML.replace("METHOD", "default").replace("remap_mscoco_category: True", text)
    (tmp_path / "own.yml").write_text(body)
    categories = read_checkpoint(tmp_path / "best.pth").categories
    assert categories == (Categories.of_ids(80) if checkpoint_rows_are_ids else None)
