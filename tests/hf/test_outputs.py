"""Every output field equals transformers' on the same weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from rtdetr import zoo
from rtdetr.models import build_model
from rtdetr.structures import Trace
from tests.hf.pairs import differences, facade, labels, pair, pair_of
from tests.parity.fill import fill
from tests.weights.small import small

ALWAYS = [
    "logits",
    "pred_boxes",
    "last_hidden_state",
    "intermediate_hidden_states",
    "intermediate_logits",
    "intermediate_reference_points",
    "encoder_last_hidden_state",
    "init_reference_points",
    "enc_topk_logits",
    "enc_topk_bboxes",
    "enc_outputs_class",
]
SIZES = [name for name in zoo.list_models() if name.startswith("rtdetrv2_r")]


def images(height: int = 64, width: int = 96, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def compare(ours: torch.nn.Module, stock: torch.nn.Module, pixels: torch.Tensor, tolerance: float) -> None:
    """All fields, those on request included."""
    with torch.inference_mode():
        got = ours(pixels, output_hidden_states=True, output_attentions=True)
        expected = stock(pixels, output_hidden_states=True, output_attentions=True)
    entries = dict(expected.items())
    boxes = entries.pop("enc_outputs_coord_logits")
    found = differences(dict(got.items()), entries) | differences(got.enc_outputs_coord_logits, boxes, "boxes")
    assert len(found) == 18 + 3 * stock.config.decoder_layers
    worst = max(found, key=lambda name: found[name])
    assert found[worst] < tolerance, f"{worst}: {found[worst]}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_all_fields(dtype: torch.dtype, tolerance: float) -> None:
    ours, stock = pair()
    compare(ours.to(dtype), stock.to(dtype), images().to(dtype), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_every_size(name: str, tmp_path: Path) -> None:
    """In float64: elsewhere rounding swaps queries of nearly equal score."""
    network = build_model(zoo.model_config(name).replace(decoder={"eval_idx": -1, "num_queries": 50})).eval()
    fill(network)
    for key, value in network.state_dict().items():
        if key.endswith("branch2c.norm.weight"):
            value *= 0.2  # else the maps of 33 residual blocks grow until all queries are alike
    ours, stock = pair_of(network, tmp_path)
    compare(ours.double(), stock.double(), images(96, 160, 1).double(), 1e-10)


def test_tuples_and_dictionaries() -> None:
    ours, stock = pair()
    pixels = images()
    assert list(ours(pixels)) == ALWAYS
    for options in ({}, {"output_hidden_states": True}, {"labels": labels(2, 1)}):
        got, expected = ours(pixels, return_dict=False, **options), stock(pixels, return_dict=False, **options)
        assert max(differences(got, expected).values()) < 1e-4
        assert (
            max(differences(ours.model(pixels, return_dict=False), stock.model(pixels, return_dict=False)).values())
            < 1e-4
        )
    output = ours(pixels)
    assert output[0] is output.logits and output["pred_boxes"] is output.pred_boxes
    assert output["enc_outputs_coord_logits"].shape == (2, 126, 4)
    ours.config.return_dict, ours.config.output_hidden_states = False, True
    assert len(ours(pixels)) == len(ALWAYS) + 1 + 2  # boxes of all tokens, states of encoder and decoder


def test_base_model() -> None:
    ours, stock = pair()
    pixels = images()
    got, expected = ours.model(pixels), dict(stock.model(pixels).items())
    expected.pop("enc_outputs_coord_logits")
    assert max(differences(dict(got.items()), expected).values()) < 1e-5
    assert got.enc_outputs_coord_logits.shape == (2, 126, 4)
    assert ours.model.backbone is ours.model.network.backbone
    assert any("backbone" in name for name, _ in ours.named_parameters())


def test_boxes_of_all_tokens_are_computed_when_read() -> None:
    output = facade()(images())
    assert "enc_outputs_coord_logits" not in output and output.get("auxiliary_outputs", 3) == 3
    for value in (output.enc_outputs_coord_logits, output.get("enc_outputs_coord_logits"), output.to_tuple()[-1]):
        assert value is not None and value.shape == (2, 126, 4) and not value.requires_grad


def test_attentions_without_eager() -> None:
    """Weights are computed for whoever asks, whatever kernels the model uses."""
    model = facade()
    assert model.config._attn_implementation == "sdpa"
    output = model(images(), output_attentions=True)
    heads = model.config.decoder_attention_heads
    assert [x.shape for x in output.decoder_attentions] == [(2, heads, 30, 30)] * 2
    assert [x.shape[:3] for x in output.cross_attentions] == [(2, 30, heads)] * 2
    assert [x.shape for x in output.encoder_attentions] == [(2, model.config.encoder_attention_heads, 6, 6)]
    for weights in (*output.decoder_attentions, *output.encoder_attentions, *output.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    model.set_attn_implementation("eager")
    eager = model(images(), output_attentions=True)
    torch.testing.assert_close(eager.logits, output.logits, atol=1e-5, rtol=0)


def test_training_outputs_contain_only_matching_queries() -> None:
    ours, stock = pair()
    ours.train(), stock.train()
    got, expected = ours(images(), labels=labels(3, 1)), stock(images(), labels=labels(3, 1))
    assert got.logits.shape == (2, 30, 5) and expected.logits.shape == (2, 48, 5)
    assert got.denoising_meta_values["dn_num_split"] == expected.denoising_meta_values["dn_num_split"] == [18, 30]
    for name in ("last_hidden_state", "init_reference_points", "logits", "pred_boxes"):
        theirs = getattr(expected, name)[:, 18:]
        torch.testing.assert_close(getattr(got, name), theirs, atol=1e-4, rtol=0)
    attentions = ours(images(), labels=labels(3, 1), output_attentions=True).decoder_attentions
    assert attentions[0].shape == (2, 4, 30, 30)
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones(2, 4, 30))


def test_denoising_queries_in_front_with_the_switch() -> None:
    ours, stock = pair()
    ours.config.transformers_compatible_loss = True
    ours.train(), stock.train()
    torch.manual_seed(0)
    got = ours(images(), labels=labels(3, 1), output_attentions=True, output_hidden_states=True)
    torch.manual_seed(0)
    expected = stock(images(), labels=labels(3, 1), output_attentions=True, output_hidden_states=True)
    entries = dict(expected.items())
    entries.pop("enc_outputs_coord_logits")
    assert got.logits.shape == (2, 48, 5)
    entries["denoising_meta_values"]["dn_positive_idx"] = tuple(entries["denoising_meta_values"]["dn_positive_idx"])
    assert max(differences(dict(got.items()), entries).values()) < 1e-4


INSIDE = [  # what the results are computed with; the rest has no gradient in evaluation
    *("last_hidden_state", "intermediate_logits", "intermediate_reference_points", "encoder_last_hidden_state"),
    *("decoder_hidden_states", "decoder_attentions", "cross_attentions", "encoder_hidden_states", "encoder_attentions"),
]


def inner_gradients(model: torch.nn.Module, **inputs: Any) -> dict[str, torch.Tensor]:
    """Gradient of the loss, or of all scores and boxes, by each tensor of `INSIDE` that has one."""
    output = model(output_hidden_states=True, output_attentions=True, **inputs)
    result = output.loss if "labels" in inputs else output.logits.sigmoid().sum() + output.pred_boxes.sum()
    fields = {name: [output[name]] if torch.is_tensor(output[name]) else output[name] for name in INSIDE}
    tensors = {f"{name}.{i}": x for name, field in fields.items() for i, x in enumerate(field) if x.requires_grad}
    return dict(zip(tensors, torch.autograd.grad(result, tuple(tensors.values())), strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_what_is_inside(training: bool) -> None:
    """The fields are what the results are computed with, as explanations of a detection need it."""
    ours, stock = (model.double().train(training) for model in pair())
    ours.set_attn_implementation("eager")
    ours.config.transformers_compatible_loss = True  # else boxes pass more gradient than in transformers
    found = []
    for model in (ours, stock):
        torch.manual_seed(0)
        inputs = {"labels": [label | {"boxes": label["boxes"].double()} for label in labels(3, 1)]} if training else {}
        found.append(inner_gradients(model, pixel_values=images().double(), **inputs))
    assert len(found[0]) == 15 + training and all(gradient.any() for gradient in found[0].values())
    if training:
        assert max(differences(found[0], found[1]).values()) < 1e-8
    else:
        last = ("last_hidden_state.0", "intermediate_logits.0", "decoder_attentions.1", "cross_attentions.1")
        assert max(differences(*({key: x[key] for key in last} for x in found)).values()) < 1e-10


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_of_what_is_inside_beside_denoising_queries(attention: str) -> None:
    model = facade().train()
    model.set_attn_implementation(attention)
    found = inner_gradients(model, pixel_values=images(), labels=labels(3, 1))
    assert len(found) == 16 and all(gradient.any() for gradient in found.values())
    assert found["decoder_attentions.0"].shape == (2, 4, 30, 30) and found["last_hidden_state.0"].shape[1] == 30


def test_evaluated_layer() -> None:
    """Later layers do not run in evaluation, and all run in training."""
    model = facade(decoder={"num_layers": 3, "eval_idx": 1, "num_denoising": 10})
    output = model(images(), labels=labels(1, 1), output_hidden_states=True)
    assert output.intermediate_logits.shape[1] == 2 and len(output.decoder_hidden_states) == 3
    assert set(output.loss_dict) >= {"loss_vfl_aux_1"} and "loss_vfl_aux_2" not in output.loss_dict
    torch.testing.assert_close(output.logits, output.intermediate_logits[:, -1])
    assert model.train()(images()).intermediate_logits.shape[1] == 3


def test_looking_inside_changes_no_statistics() -> None:
    models = [facade().train() for _ in range(2)]
    for model in models:
        model.set_attn_implementation("eager")  # "sdpa" computes attention otherwise where its weights are asked for
    models[0](images())
    models[1](images(), output_hidden_states=True, output_attentions=True)
    for first, second in zip(models[0].buffers(), models[1].buffers(), strict=True):
        assert torch.equal(first, second)


def test_trace_changes_nothing() -> None:
    network = small()
    trace = Trace()
    traced, plain = network(images(), None, trace), network(images())
    assert torch.equal(traced.logits, plain.logits) and torch.equal(traced.boxes_cxcywh, plain.boxes_cxcywh)
    assert len(trace.contents) == len(trace.references_cxcywh) == 3
    assert torch.equal(trace.references_cxcywh[-1], plain.boxes_cxcywh)


def test_output_can_be_copied() -> None:
    with torch.no_grad():
        output = facade()(images())
    torch.testing.assert_close(copy.deepcopy(output).logits, output.logits)
