"""The model classes: building, functions of transformers, and additional functions of this library."""

import copy
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_layers import GradientCheckpointingLayer

from rtdetr import zoo
from rtdetr.errors import ConfigError, InputError, WeightsError
from rtdetr.export import ExportOptions, export
from rtdetr.hf import RTDetrV2Config, RTDetrV2ForObjectDetection, RTDetrV2Model
from rtdetr.models import build_model
from rtdetr.models.recompute import recomputed_parts
from tests.hf.pairs import facade, facade_of, labels
from tests.parity.fill import fill
from tests.weights.small import small

REPOSITORY = Path(__file__).parents[2]


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def config(**changes: Any) -> RTDetrV2Config:
    return RTDetrV2Config.from_model_config(small(num_classes=5, **changes).config)


def test_fresh_weights_are_the_published_ones() -> None:
    """Scores start at 0.01, boxes at their anchors, batch norms at 1: transformers starts from other values."""
    torch.manual_seed(0)
    model = RTDetrV2ForObjectDetection(config())
    torch.manual_seed(0)
    network = build_model(small(num_classes=5).config)
    for key, value in model.base.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_base_model_alone_and_names() -> None:
    model = RTDetrV2Model(config())
    assert model.base is model and model.base_model is model
    detector = RTDetrV2ForObjectDetection(config())
    assert detector.base is detector.model is detector.base_model
    assert (detector.main_input_name, detector.base_model_prefix) == ("pixel_values", "model")
    assert {type(module).__name__ for module in detector.modules()} & detector._no_split_modules
    assert len({p.data_ptr() for p in detector.parameters()}) == len(list(detector.parameters()))
    detector.model.freeze_backbone()
    assert not any(p.requires_grad for p in detector.model.backbone.parameters())
    detector.model.unfreeze_backbone()
    assert all(p.requires_grad for p in detector.model.backbone.parameters())


def test_stock_configuration() -> None:
    stock = transformers.RTDetrV2Config.from_dict(config().to_dict())
    model = RTDetrV2ForObjectDetection(stock)
    assert isinstance(model.config, RTDetrV2Config) and model(images()).logits.shape == (2, 30, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(dtype: torch.dtype) -> None:
    model = RTDetrV2ForObjectDetection._from_config(config(), dtype=dtype).eval()
    output = model(images())
    assert model.dtype == output.logits.dtype == dtype
    assert output.pred_boxes.dtype == torch.promote_types(dtype, torch.float32)  # 16 bits miss by whole pixels
    assert output.pred_boxes.isfinite().all() and output.enc_outputs_coord_logits.isfinite().all()


def test_autocast() -> None:
    model = facade(decoder={"num_denoising": 10}).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images(), labels=labels(3, 1))
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    assert output.enc_outputs_coord_logits.dtype == torch.float32
    output.loss.backward()


def test_dropout_is_not_applied(caplog: pytest.LogCaptureFixture) -> None:
    fields = config().to_dict() | {"dropout": 0.1, "attention_dropout": 0.2}
    model = RTDetrV2ForObjectDetection(RTDetrV2Config.from_dict(fields)).train()
    assert "dropout, attention_dropout" in caplog.text
    assert torch.equal(model(images()).logits, model(images()).logits)


def test_meta_device() -> None:
    with torch.device("meta"):
        model = RTDetrV2ForObjectDetection(config())
    assert next(model.parameters()).is_meta
    model.to_empty(device="cpu")
    model.load_state_dict(facade().state_dict())
    torch.testing.assert_close(model.eval()(images()).logits, facade()(images()).logits)


def test_missing_entries_get_fresh_values(tmp_path: Path) -> None:
    facade().save_pretrained(tmp_path)
    model = RTDetrV2ForObjectDetection.from_pretrained(
        tmp_path, id2label={i: str(i) for i in range(7)}, ignore_mismatched_sizes=True
    )
    heads = model.model.decoder.dec_score_head
    assert heads[0].weight.shape == (7, 32) and heads[0].weight.std() > 0.01
    torch.testing.assert_close(heads[0].bias.sigmoid(), torch.full((7,), 0.01))
    kept = facade().model.decoder.dec_bbox_head[0].layers[0].weight
    assert torch.equal(model.model.decoder.dec_bbox_head[0].layers[0].weight, kept)
    assert model(images()).logits.isfinite().all()


@pytest.mark.slow
def test_device_map(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    facade().save_pretrained(tmp_path)
    places = {"model.network.backbone": "cpu", "model.network.encoder": "cpu", "model.network.decoder": "disk"}
    for device_map in ("auto", places):
        model = RTDetrV2ForObjectDetection.from_pretrained(
            tmp_path, device_map=device_map, offload_folder=tmp_path / "offloaded"
        )
        with torch.no_grad():
            torch.testing.assert_close(model(images()).logits, facade()(images()).logits)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.rand(1, 3, 100, 130), "multiples of 32, got 100x130"),
        (torch.rand(1, 1, 64, 64), r"expected float images \(batch, 3, height, width\)"),
        (torch.rand(1, 4, 64, 64), r"got torch.float32 \(1, 4, 64, 64\)"),
        (torch.rand(3, 64, 64), "expected float images"),
        (torch.rand(0, 3, 64, 64), "got an empty batch"),
        (torch.rand(1, 3, 64, 64).numpy(), "expected pixel_values as a tensor, got ndarray"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "got torch.uint8"),
    ],
)
def test_images_that_do_not_fit(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        facade()(pixels)


def test_arguments_that_do_not_fit() -> None:
    model = facade().train()
    with pytest.raises(InputError, match="inputs_embeds is not supported"):
        model(images(), inputs_embeds=torch.rand(1, 2, 3))
    with pytest.raises(InputError, match=r"labels\[1\]: expected tensors 'class_labels' and 'boxes', got \['boxes'\]"):
        model(images(), labels=[*labels(1), {"boxes": torch.rand(1, 4)}])
    with pytest.raises(InputError, match=r"label 5 is outside 0\.\.4"):
        model(images(1), labels=[{"class_labels": torch.tensor([5]), "boxes": torch.full((1, 4), 0.5)}])
    for number in (31.0, torch.nan, -0.2):  # pixels
        boxes = torch.tensor([[0.5, 0.5, 0.1, 0.1], [0.5, 0.5, number, 0.1]])
        with pytest.raises(InputError, match=r"target 0: expected boxes as cxcywh in 0\.\.1"):
            model(images(1), labels=[{"class_labels": torch.tensor([1, 1]), "boxes": boxes}])
    for wrong in (3, ["cat"], {"boxes": torch.rand(1, 4)}):
        with pytest.raises(InputError, match="expected labels as a list with one dict per image"):
            model(images(), labels=wrong)
    for shape in ((2, 1, 64, 96), (2, 64, 64), (1, 64, 96)):
        with pytest.raises(InputError, match=r"expected a pixel_mask \(batch, height, width\) \(2, 64, 96\), got"):
            model(images(), pixel_mask=torch.ones(shape))
    with pytest.raises(InputError, match="expected one target per image"):
        model(images(), labels=labels(1))


def test_an_image_without_objects_however_it_is_written() -> None:
    model = facade().train()
    empty = [{"class_labels": torch.tensor([]), "boxes": torch.tensor([])}, *labels(0)]
    losses = []
    for given in (empty, labels(0, 0)):
        torch.manual_seed(0)
        losses.append(model(images(), labels=given).loss)
    torch.testing.assert_close(*losses)


def test_further_columns_of_a_batch_are_ignored() -> None:
    with torch.no_grad():
        expected = facade()(images()).logits
        assert torch.equal(facade()(images(), image_id=[1, 2], num_items_in_batch=2).logits, expected)


def test_attention_implementations(caplog: pytest.LogCaptureFixture) -> None:
    model = facade()
    transformers.logging.set_verbosity_warning()
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == model.model.config._attn_implementation == "eager"
    assert model.config.backbone_config._attn_implementation == "eager"
    assert not caplog.records
    for change in (
        lambda: model.set_attn_implementation("flex_attention"),
        lambda: RTDetrV2ForObjectDetection._from_config(config(), attn_implementation="flash_attention_2"),
    ):
        with pytest.raises(ConfigError, match="expected attn_implementation 'sdpa' or 'eager', got 'fl"):
            change()


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_stock_configuration_keeps_its_attention(implementation: str, tmp_path: Path) -> None:
    facade().save_pretrained(tmp_path)
    given = transformers.RTDetrV2Config.from_dict(config().to_dict(), attn_implementation=implementation)
    for build in (
        RTDetrV2ForObjectDetection,
        RTDetrV2ForObjectDetection._from_config,
        lambda given: RTDetrV2ForObjectDetection.from_pretrained(tmp_path, config=given),
    ):
        assert build(given).config._attn_implementation == implementation
    given._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match="expected attn_implementation 'sdpa' or 'eager', got 'flash_attention_2'"):
        RTDetrV2ForObjectDetection(given)


def test_one_pixel_box_and_mask() -> None:
    model = facade().train()
    box = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 1 / 96, 1 / 64]])}]
    output = model(images(1), pixel_mask=torch.ones(1, 64, 96, dtype=torch.int64), labels=box)
    assert output.loss.isfinite() and output.content_share_hw.tolist() == [[1, 1]]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize("options", [{}, {"use_reentrant": True}, {"use_reentrant": False}])
def test_gradient_checkpointing(options: dict[str, bool]) -> None:
    """Same loss, gradients and running statistics; it can be turned off, and a copy keeps it for itself."""
    models = [facade(decoder={"num_denoising": 10}, backbone={"freeze_at": 0}).train() for _ in range(2)]
    models[1].activation_checkpointing_enable(options or None)
    assert models[1].is_activation_checkpointing and not models[0].is_activation_checkpointing
    for model in models:
        torch.manual_seed(0)
        model(images(), labels=labels(3, 1)).loss.backward()
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert (first.grad is None) == (second.grad is None), name
        if first.grad is not None:
            rounding = 1e-5 * first.grad.abs().max().item()
            torch.testing.assert_close(second.grad, first.grad, atol=rounding, rtol=1e-5, msg=name)
    for (name, first), second in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(second, first, msg=name)
    twin = copy.deepcopy(models[1])
    layer = twin.model.decoder.decoder.layers[0]
    assert layer._gradient_checkpointing_func.args[1] is layer
    models[1].activation_checkpointing_disable()
    assert not models[1].is_activation_checkpointing and twin.is_activation_checkpointing


def test_gradient_checkpointing_of_some_layers() -> None:
    """Transformers counts stages, fusion blocks and decoder layers, and saves the model whole, switched on or not."""
    model = facade()
    expected, names = model(images()).logits, list(model.state_dict())
    model.activation_checkpointing_enable(every_n_layers=3)
    parts = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    assert set(parts) == set(recomputed_parts(model.model.network)) and len(parts) > 8
    assert [part.gradient_checkpointing for part in parts] == [i % 3 == 0 for i in range(len(parts))]
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert torch.equal(again(images()).logits, expected) and list(again.state_dict()) == names
    again.train()(images(), labels=labels(1, 1)).loss.backward()


def test_export_of_the_network_inside(tmp_path: Path) -> None:
    model = facade()
    model.activation_checkpointing_enable()
    onnx = export(model.to_detector(device="cpu").network, tmp_path / "model.onnx")
    program = export(model.model.network, tmp_path / "model.pt2", options=ExportOptions(format="torch"))
    assert onnx.num_nodes and program.num_nodes


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_gradient_checkpointing_by_its_old_name() -> None:
    model = facade()
    model.gradient_checkpointing_enable()
    model.gradient_checkpointing_enable()
    assert model.is_activation_checkpointing
    model.train()(images(), labels=labels(1, 1)).loss.backward()


def test_fuse(tmp_path: Path) -> None:
    model = facade(backbone={"freeze_norm": True})
    fused = model.fuse()
    with torch.no_grad():
        torch.testing.assert_close(fused(images()).logits, model(images()).logits, atol=1e-5, rtol=0)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    with pytest.raises(WeightsError, match="fused model"):
        fused.save_pretrained(tmp_path / "fused")
    model.save_pretrained(tmp_path / "whole")  # the original is as it was


def test_trim_decoder(tmp_path: Path) -> None:
    """r50vd_m's case: evaluated before its last layer. The trimmed model is the same for stock transformers."""
    model = facade(decoder={"num_layers": 3, "eval_idx": 1})
    trimmed = model.trim_decoder()
    with torch.no_grad():
        expected = model(images())
        assert torch.equal(trimmed(images()).logits, expected.logits)
    assert (trimmed.config.decoder_layers, trimmed.config.eval_idx) == (2, -1)
    assert (model.config.decoder_layers, model.config.eval_idx) == (3, 1)
    trimmed.save_pretrained(tmp_path)
    stock = transformers.RTDetrV2ForObjectDetection.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(stock(images()).logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(stock(images()).pred_boxes, expected.pred_boxes, atol=1e-5, rtol=0)
    again = RTDetrV2ForObjectDetection.from_pretrained(tmp_path)
    torch.testing.assert_close(again(images()).logits, expected.logits)


@pytest.mark.slow
def test_r50vd_m() -> None:
    """Six layers in training, three in evaluation; a configuration without eval_idx runs six."""
    network = build_model("rtdetrv2_r50vd_m", num_classes=5).eval()
    fill(network)
    model = facade_of(network)
    assert model.config.eval_idx == 2 and model.config.backbone_freeze_at == 0
    assert not any(p.requires_grad for p in model.model.backbone.conv1.parameters())
    output = model(images(1))
    torch.testing.assert_close(output.logits, network(images(1)).logits)
    assert output.intermediate_logits.shape[1] == 3
    model.config.eval_idx = -1
    six = RTDetrV2ForObjectDetection(model.config).eval()
    six.load_state_dict(model.state_dict())
    assert six(images(1)).intermediate_logits.shape[1] == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder": {"num_points": (1, 2, 3)}},
        {"decoder": {"num_points": (2, 2, 2, 2)}},
        {"decoder": {"query_selection": "one2many"}},
        {"decoder": {"query_selection": "agnostic"}},
        {"decoder": {"learned_queries": True, "num_queries": 12}},
        {"decoder": {"activation": "silu", "query_pos_widths": (32, 32)}},
        {"decoder": {"sampling": "discrete"}},
        {"pixel_mean": (0.5, 0.5, 0.5)},
    ],
)
def test_models_that_transformers_does_not_have(changes: dict[str, Any]) -> None:
    """They compute what the network computes, and train."""
    network = small(num_classes=5, **changes)
    model = facade_of(network)
    output, expected = model(images()), network(images())
    assert torch.equal(output.logits, expected.logits) and torch.equal(output.pred_boxes, expected.boxes_cxcywh)
    model.train()(images(), labels=labels(2, 1)).loss.backward()
    model.eval()(images(), labels=labels(2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rtdetrv2_hgnetv2_l", "deim_rtdetrv2_r18vd"])
def test_zoo_models(name: str) -> None:
    network = build_model(zoo.model_config(name)).eval()
    model = facade_of(network)
    assert torch.equal(model(images(1)).logits, network(images(1)).logits)


COMPILE = """
import torch
from tests.hf.pairs import facade, labels
model, pixels = facade(decoder={"num_denoising": 10}).double(), torch.rand(2, 3, 64, 96).double()
with torch.no_grad():
    output = torch.compile(model, backend="aot_eager", fullgraph=True)(pixels)
    torch.testing.assert_close(output.logits, model(pixels).logits)
assert output.enc_outputs_coord_logits.shape == (2, 126, 4)
gradients = []
for one in (model.train(), torch.compile(model, backend="aot_eager")):
    for count in (1, 3, 0):
        torch.manual_seed(0)
        model.zero_grad()
        loss = one(pixels, labels=labels(count, 2)).loss
        loss.backward()
    gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
torch.testing.assert_close(*gradients)
"""


@pytest.mark.slow
def test_compile() -> None:
    """In a process of its own: torch.compile does not see through the checks of shapes in tests."""
    done = subprocess.run([sys.executable, "-c", COMPILE], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "failed while" not in done.stderr  # what the compiler prints about code that it cannot follow


def test_unsupported_configuration() -> None:
    with pytest.raises(ConfigError, match="normalize_before"):
        RTDetrV2ForObjectDetection(RTDetrV2Config(normalize_before=True))
