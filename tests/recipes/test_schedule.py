"""Learning rate factors at the characteristic steps of both schedules."""

import math

import pytest
import torch

from rtdetr.config import Recipe
from rtdetr.recipes.schedule import lr_factor, set_learning_rate

COSINE = Recipe(epochs=12, schedule="flat_cosine", warmup_iterations=20, flat_epochs=4, no_augmentation_epochs=2)


@pytest.mark.parametrize(
    ("iteration", "factor"), [(0, 1 / 2000), (1, 2 / 2000), (1998, 1999 / 2000), (1999, 1.0), (2000, 1.0), (10**6, 1.0)]
)
def test_constant_with_linear_warmup(iteration, factor):
    assert lr_factor(Recipe(), iteration, iterations_per_epoch=7) == factor


@pytest.mark.parametrize("schedule", ["constant", "flat_cosine"])
def test_no_warmup(schedule):
    recipe = Recipe(warmup_iterations=0, schedule=schedule, flat_epochs=3)
    assert lr_factor(recipe, 0, iterations_per_epoch=10) == 1.0


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [
        (0, 0.0),
        (10, 0.25),
        (19, (19 / 20) ** 2),
        (20, 1.0),
        (39, 1.0),
        (40, 1.0),  # the cosine begins at its top
        (70, 0.75),
        (99, 0.5 + 0.25 * (1 + math.cos(math.pi * 59 / 60))),
        (100, 0.5),
        (119, 0.5),
        (500, 0.5),
    ],
)
def test_flat_cosine(iteration, factor):
    assert lr_factor(COSINE, iteration, iterations_per_epoch=10) == pytest.approx(factor, abs=1e-15)


def test_flat_cosine_without_a_cosine_part():
    recipe = COSINE.replace(flat_epochs=10)
    factors = {i: lr_factor(recipe, i, iterations_per_epoch=10) for i in (99, 100)}
    assert factors == {99: 1.0, 100: 0.5}


def test_every_group_keeps_its_own_rate():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": [p], "lr": lr, "initial_lr": lr} for p, lr in zip(parameters, (1e-4, 1e-5), strict=True)]
    optimizer = torch.optim.AdamW(groups)
    for iteration in range(5):  # set from the initial rates, so calling it often changes nothing
        rates = set_learning_rate(optimizer, Recipe(), iteration=iteration, iterations_per_epoch=100)
    # recorded from the published implementation after four steps
    assert rates == pytest.approx([2.5e-07, 2.5e-08], rel=1e-12)
    assert [group["lr"] for group in optimizer.param_groups] == rates


def test_steps_fall_at_the_milestones():
    recipe = Recipe(schedule="steps", milestones=(6, 8), milestone_factor=0.1, warmup_iterations=20)
    factors = [lr_factor(recipe, i, iterations_per_epoch=10) for i in (0, 19, 59, 60, 79, 80, 500)]
    assert factors == pytest.approx([0.05, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("warmup", [0, 7, 10, 11, 25, 30])
def test_milestones_of_published_files_wait_for_the_end_of_warm_up(warmup):
    """The published loop: a step of warm-up after each iteration, one of MultiStepLR after epochs that it has left."""
    recipe = Recipe(
        schedule="steps",
        milestones=(2, 3),
        milestone_factor=0.1,
        warmup_iterations=warmup,
        milestones_after_warmup=True,
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.1)
    iteration = 0
    for _ in range(9):
        for _ in range(10):
            expected = steps.get_last_lr()[0] * (min(1.0, (iteration + 1) / warmup) if warmup else 1.0)
            assert lr_factor(recipe, iteration, iterations_per_epoch=10) == pytest.approx(expected), iteration
            iteration += 1
            optimizer.step()
        if iteration >= warmup:
            steps.step()
    assert lr_factor(recipe, iteration, iterations_per_epoch=10) == pytest.approx(0.01)
