"""Outputs, losses, gradients and optimization steps equal those recorded from the published implementation."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rtdetr import zoo
from rtdetr.losses import build_criterion
from rtdetr.models import build_model, postprocess
from rtdetr.models.positions import repeatable_inverse_sigmoid
from rtdetr.recipes import set_learning_rate
from rtdetr.training import ModelEMA, build_optimizer
from tests.parity.fill import fill, image, targets

RECORDED = Path(__file__).parent / "recorded"
FILES = {
    "rtdetrv2_r18vd": "rtdetrv2_r18vd_120e_coco",
    "rtdetr_r18vd": "rtdetr_r18vd_6x_coco",
    "rtdetrv2_r18vd_dsp": "rtdetrv2_r18vd_dsp_3x_coco",
    "rtdetrv2_r50vd_m": "rtdetrv2_r50vd_m_7x_coco",
    "rtdetrv2_hgnetv2_l": "rtdetrv2_hgnetv2_l_6x_coco",
    "deim_rtdetrv2_r18vd": "deim_r18vd_120e_coco",
}
TRAINED = [name for name in FILES if not name.startswith("deim")]


def slow_but(*fast: object, among: list) -> list:
    """Parameters of a test that is slow but for some of them."""
    return [
        pytest.param(*(one if isinstance(one, tuple) else (one,)), marks=() if one in fast else pytest.mark.slow)
        for one in among
    ]


@functools.cache
def recorded(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    facts = json.loads((RECORDED / f"{FILES[name]}.json").read_text())
    with np.load(RECORDED / f"{FILES[name]}.npz") as arrays:
        return facts, dict(arrays)


def filled(name: str, side: int, **settings: float) -> torch.nn.Module:
    model = build_model(name, eval_size_hw=(side, side), **settings)
    fill(model)
    return model.double()


def parts(full: torch.Tensor, channel_step: int) -> torch.Tensor:
    height, width = full.shape[-2:]
    return full[0, :: max(channel_step, 1), :: max(height // 4, 1), :: max(width // 4, 1)]


@pytest.mark.parametrize(
    ("name", "side"),
    slow_but(
        *((name, 320) for name in ("rtdetrv2_r18vd", "rtdetr_r18vd", "rtdetrv2_r18vd_dsp")),
        among=[(name, side) for name in FILES for side in (640, 320)],
    ),
)
def test_eval_outputs(name: str, side: int) -> None:
    facts, arrays = recorded(name)
    prefix = f"{side}x{side}/"
    wanted = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if not wanted:
        pytest.skip(f"nothing recorded at {side}x{side} for this model")
    model = filled(name, side).eval()
    images = image(side, side)
    with torch.inference_mode():
        output = model(images)
        maps = model.backbone(images)
        found = {f"backbone{i}": parts(x, x.shape[1] // 16) for i, x in enumerate(maps)}
        found |= {f"encoder{i}": parts(x, 16) for i, x in enumerate(model.encoder(maps))}
    found["pred_boxes"], found["pred_logits"] = output.boxes_cxcywh[0, :100], output.logits[0, :100, ::8]
    labels, boxes, scores = postprocess(output.logits, output.boxes_cxcywh, sizes_wh=torch.tensor([[1000, 500]]))
    found |= {"post_labels": labels[0, :100], "post_scores": scores[0, :100]}
    found["post_boxes"] = boxes[0, :100]
    for key, value in wanted.items():
        tolerance = 1e-6 * (1000 if key == "post_boxes" else 1)
        np.testing.assert_allclose(found[key].numpy(), value, rtol=0, atol=tolerance, err_msg=key)
    if f"{prefix}pred_logits_sum" in facts:
        assert output.logits.sum().item() == pytest.approx(facts[f"{prefix}pred_logits_sum"], rel=1e-9)
        assert output.boxes_cxcywh.sum().item() == pytest.approx(facts[f"{prefix}pred_boxes_sum"], rel=1e-9)


@pytest.mark.parametrize("name", FILES)
def test_state_and_parameter_groups(name: str) -> None:
    facts, _ = recorded(name)
    model = build_model(name)
    optimizer = build_optimizer(model, zoo.recipe(name))
    group_of = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    parameters = dict(model.named_parameters())
    found = []
    for key, value in model.state_dict().items():
        trainable = key in parameters and parameters[key].requires_grad
        found.append(
            (key, list(value.shape), trainable, *(group_of[id(parameters[key])] if trainable else (None, None)))
        )
    wanted = []
    for key, shape, *_, trainable, lr, decay in facts["state"]:
        if isinstance(shape, str):
            shape = [int(n) for n in shape.split("x")] if shape else []
        wanted.append((key, shape, trainable, lr, decay))
    assert found == wanted
    assert sum(p.numel() for p in model.parameters()) == facts["num_params"]


@pytest.mark.parametrize(
    ("name", "num_denoising"),
    slow_but(("rtdetrv2_r18vd", 100), among=[(name, number) for name in TRAINED for number in (0, 100)]),
)
def test_losses_and_gradients(name: str, num_denoising: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtdetr.models.denoising.inverse_sigmoid", repeatable_inverse_sigmoid)  # as it was recorded
    facts, arrays = recorded(name)
    wanted = facts[f"train_dn{num_denoising}"]
    model = filled(name, 320, num_denoising=num_denoising, label_noise_ratio=0.0, box_noise_scale=1e-12).train()
    truth = targets(4, 80)
    output = model(image(320, 320, 4), truth)
    losses = build_criterion(name)(output, truth)
    total = sum(losses.values())
    total.backward()
    assert list(losses) == list(wanted["losses"])
    for key, value in wanted["losses"].items():
        assert losses[key].item() == pytest.approx(value, rel=1e-8), key
    assert total.item() == pytest.approx(wanted["total"], rel=1e-8)
    last_boxes = output.boxes_cxcywh[:, -20:].detach().numpy()
    np.testing.assert_allclose(last_boxes, arrays[f"train_dn{num_denoising}/pred_boxes"], rtol=0, atol=1e-6)
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    assert set(norms) == set(wanted["grad_norms"])
    for key, value in wanted["grad_norms"].items():
        assert norms[key] == pytest.approx(value, rel=1e-6, abs=1e-12 * wanted["global_grad_norm"]), key
    if num_denoising:
        meta = output.denoising_meta
        assert meta.num_groups == wanted["dn"]["num_group"]
        assert [meta.num_queries, output.logits.shape[1]] == wanted["dn"]["num_split"]
        assert [len(x) for x in meta.positive_indices] == wanted["dn"]["positive_idx_len"]
        assert meta.positive_indices[0].tolist() == wanted["dn"]["positive_idx0"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_four_optimization_steps(name: str) -> None:
    wanted = recorded(name)[0]["trajectory"]
    recipe = zoo.recipe(name)
    model = filled(name, 320, num_denoising=0).train()
    criterion = build_criterion(name)
    optimizer = build_optimizer(model, recipe)
    ema = ModelEMA(model, decay=recipe.ema_decay, warmup=recipe.ema_warmup)
    truth = [targets(4, 80)[i] for i in (0, 2)]
    for step, (loss_wanted, norm_wanted) in enumerate(wanted["steps"]):
        set_learning_rate(optimizer, recipe, iteration=step, iterations_per_epoch=1000)
        total = sum(criterion(model(image(320, 320, 2), truth), truth).values())
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_max_norm)
        optimizer.step()
        ema.update(model)
        assert total.item() == pytest.approx(loss_wanted, rel=1e-8), step
        assert norm.item() == pytest.approx(norm_wanted, rel=1e-6), step
    set_learning_rate(optimizer, recipe, iteration=len(wanted["steps"]), iterations_per_epoch=1000)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(wanted["lrs_after"], rel=1e-12)
    assert [g["weight_decay"] for g in optimizer.param_groups] == wanted["wds"]
    assert ema.updates == wanted["ema_updates"]
    for key, state in (("model_abs_sum", model.state_dict()), ("ema_abs_sum", ema.module.state_dict())):
        total = sum(v.abs().sum().item() for k, v in state.items() if v.is_floating_point() and "anchors" not in k)
        assert total == pytest.approx(wanted[key], rel=1e-8)
