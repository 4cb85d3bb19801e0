"""A few steps with Trainer and with a loop: average, checkpoints, resuming, groups, accumulation, awkward batches."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from rtdetr import zoo
from rtdetr.config import Recipe
from rtdetr.data import DetectionDataset
from rtdetr.errors import ConfigError
from rtdetr.hf.modeling import RTDetrV2ForObjectDetection
from rtdetr.hf.training import (
    AugmentationSchedule,
    AugmentedDataset,
    AverageWeights,
    CocoMetric,
    EvaluationDataset,
    build_optimizers,
    collate,
    training_arguments,
)
from rtdetr.training import build_optimizer
from tests.coco_files import many_images, write_dataset
from tests.hf.training_parts import SIZE_HW, dataset, recipe, tiny_model

STEPS_PER_EPOCH = 3

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    return dataset(tmp_path_factory.mktemp("data"))


def make_trainer(
    folder: Path,
    data: DetectionDataset,
    one: Recipe,
    *,
    model: RTDetrV2ForObjectDetection | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    **arguments: Any,
) -> Trainer:
    model = model or tiny_model()
    images, metric = AugmentedDataset(data, one), CocoMetric(data)
    settings: dict[str, Any] = {"logging_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder), **training_arguments(one), **settings | arguments),
        train_dataset=images,
        eval_dataset=EvaluationDataset(data, SIZE_HW),
        data_collator=collate,
        optimizers=build_optimizers(model, one, steps_per_epoch=STEPS_PER_EPOCH),
        callbacks=[AugmentationSchedule(images), AverageWeights(one), *callbacks],
        compute_metrics=metric,
        preprocess_logits_for_metrics=metric.collect,
    )


def states_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_trainer_evaluates_and_saves_the_average_and_resumes_exactly(tmp_path: Path, data: DetectionDataset) -> None:
    one = recipe(epochs=2).replace(ema_decay=0.6, ema_warmup=0)
    arguments = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path / "whole", data, one, **arguments)
    raw_after: dict[int, dict[str, torch.Tensor]] = {}

    class Raw(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raw_after[state.global_step] = copy.deepcopy(kwargs["model"].state_dict())

    evaluated: dict[int, dict[str, torch.Tensor]] = {}

    class Evaluated(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            evaluated[state.global_step] = copy.deepcopy(kwargs["model"].state_dict())

    whole.add_callback(Raw())
    whole.add_callback(Evaluated())
    whole.train()
    name = "model.network.decoder.enc_output.proj.weight"
    average = raw_after[0][name]
    for step in range(1, 5):
        average = 0.6 * average + 0.4 * raw_after[step][name]
        if step in evaluated:
            assert torch.allclose(evaluated[step][name], average, atol=1e-7)
            assert not torch.allclose(evaluated[step][name], raw_after[step][name], atol=1e-7)
    assert states_equal(whole.model.state_dict(), evaluated[6])  # the run leaves the average

    reopened = RTDetrV2ForObjectDetection.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    found, expected = reopened.state_dict()[name], evaluated[4][name]
    assert torch.equal(found, expected)

    again = make_trainer(tmp_path / "again", data, one, **arguments)  # from the middle of an epoch
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert states_equal(again.model.state_dict(), whole.model.state_dict())
    assert again.state.log_history[-2]["eval_map"] == whole.state.log_history[-2]["eval_map"]


@pytest.mark.slow
def test_the_model_has_the_best_average_after_a_run(tmp_path: Path, data: DetectionDataset) -> None:
    one = recipe(epochs=2)
    arguments = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, data, one, metric_for_best_model="loss", **arguments)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint or "")
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses))
    reopened = RTDetrV2ForObjectDetection.from_pretrained(best)
    kept = {key: value for key, value in reopened.state_dict().items() if value.is_floating_point()}
    assert all(torch.equal(value, trainer.model.state_dict()[key]) for key, value in kept.items())


def test_accumulated_batches_are_averaged(tmp_path: Path, data: DetectionDataset) -> None:
    one = recipe().replace(accumulate=2, clip_max_norm=0.0, flip=0.0, augmentation_stop_epoch=0, multiscale_sizes=())
    model = tiny_model(num_denoising=0)  # which draws random numbers
    found: dict[str, torch.Tensor] = {}
    parts: list[dict[str, Any]] = []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            found.update({n: p.grad.clone() for n, p in kwargs["model"].named_parameters() if p.grad is not None})

    twin = copy.deepcopy(model).train()
    hook = model.register_forward_pre_hook(lambda m, a, k: parts.append(k), with_kwargs=True)
    trainer = make_trainer(tmp_path, data, one, model=model, callbacks=(Gradients(),), max_steps=1)
    trainer.train()
    hook.remove()
    assert len(parts) == 2
    for part in parts:
        (twin(**part).loss / 2).backward()
    expected = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5), name


def test_a_run_without_any_object(tmp_path: Path) -> None:
    content = many_images(4)
    content["annotations"] = []
    nothing = DetectionDataset(*write_dataset(tmp_path / "data", content))
    trainer = make_trainer(tmp_path / "out", nothing, recipe(4, epochs=1))
    result = trainer.train()
    assert math.isfinite(result.training_loss)
    numbers = trainer.evaluate()
    assert numbers["eval_map"] == -1 and math.isfinite(numbers["eval_loss"])


def test_a_custom_loop_learns(data: DetectionDataset) -> None:
    one = recipe(epochs=6).replace(lr=1e-3, backbone_lr=1e-3, warmup_iterations=0)
    model, images = tiny_model(), EvaluationDataset(data, SIZE_HW)
    optimizer, scheduler = build_optimizers(model, one, steps_per_epoch=STEPS_PER_EPOCH)
    batch = next(iter(DataLoader(images, batch_size=4, collate_fn=collate)))
    losses = []
    for _ in range(12):
        loss = model.train()(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), one.clip_max_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.93 * sum(losses[:3])


@pytest.mark.parametrize("name", ["rtdetrv2_r18vd", "rtdetrv2_r50vd"])
def test_groups_and_rates_are_those_of_the_recipe(name: str) -> None:
    model, one = tiny_model(), zoo.recipe(name)
    optimizer, scheduler = build_optimizers(model, one, steps_per_epoch=10)
    expected = build_optimizer(model.model.network, one)
    assert len(optimizer.param_groups) == len(expected.param_groups) > 1
    for group, other in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in other["params"]]
        assert (group["initial_lr"], group["weight_decay"]) == (other["lr"], other["weight_decay"])
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    for step in range(5):  # published warm-up: (i + 1) / 2000
        assert scheduler.get_last_lr()[-1] == pytest.approx(one.lr * (step + 1) / 2000)
        optimizer.step()
        scheduler.step()


def test_finetuning_groups_by_module() -> None:
    model, one = tiny_model(), recipe()
    optimizer, _ = build_optimizers(model, one, steps_per_epoch=10)
    backbone = {id(p) for p in model.model.backbone.parameters() if p.requires_grad}
    norms = {id(p) for n, p in model.named_parameters() if n.endswith("bias") or ".norm" in n}
    rates = {}
    for group in optimizer.param_groups:
        members = {id(p) for p in group["params"]}
        assert members <= backbone or not members & backbone
        assert group["weight_decay"] == 0 or not members & norms
        rates[bool(members & backbone)] = group["initial_lr"]
    assert rates == {True: one.backbone_lr, False: one.lr}


def test_mistakes_are_named(tmp_path: Path, data: DetectionDataset) -> None:
    with pytest.raises(ConfigError, match="multiple of 3 processes x 1 parts"):
        training_arguments(recipe(), num_processes=3)
    one, model = recipe(), tiny_model()
    with pytest.raises(ConfigError, match=r"Trainer\(optimizers=\.\.\.\)"):
        Trainer(
            model=model,
            args=TrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
            callbacks=[AverageWeights(one)],
        )
