"""Learning rate schedules. The rate is a pure function of the step number, so checkpoints need not store it."""

import math

import torch

from rtdetr.config import Recipe


def lr_factor(recipe: Recipe, iteration: int, *, iterations_per_epoch: int) -> float:
    """Return the factor in [0, 1] of each group's learning rate in the step `iteration`, counted from 0 over the run.

    `constant`: linear warm-up (i + 1) / warmup_iterations, then 1.
    `steps`: the same warm-up, times `milestone_factor` for each milestone passed (`milestone_epochs`).
    `flat_cosine`: quadratic warm-up (i / warmup_iterations)^2, then 1 until `flat_epochs`, then half a cosine
    to `final_lr_factor`, which stays for the last `no_augmentation_epochs`.

    Source: RT-DETRv2 (arXiv 2407.17140) and DEIM (arXiv 2412.04234).
    """
    warmup = recipe.warmup_iterations
    if recipe.schedule != "flat_cosine":
        epochs = milestone_epochs(recipe, iterations_per_epoch=iterations_per_epoch)
        past = sum(iteration >= epoch * iterations_per_epoch for epoch in epochs)
        falling = recipe.milestone_factor**past if recipe.schedule == "steps" else 1.0
        return falling * (min(1.0, (iteration + 1) / warmup) if warmup else 1.0)
    if iteration < warmup:
        return (iteration / warmup) ** 2
    flat_end = (recipe.flat_epochs or 0) * iterations_per_epoch
    cosine_end = (recipe.epochs - recipe.no_augmentation_epochs) * iterations_per_epoch
    if iteration < flat_end:
        return 1.0
    final = recipe.final_lr_factor
    if iteration >= cosine_end:
        return final
    cosine = 0.5 * (1.0 + math.cos(math.pi * (iteration - flat_end) / (cosine_end - flat_end)))
    return final + (1.0 - final) * cosine


def milestone_epochs(recipe: Recipe, *, iterations_per_epoch: int) -> tuple[int, ...]:
    """Return the epochs, counted from 0, at the start of which the learning rate is multiplied by `milestone_factor`.

    With `milestones_after_warmup`, they are delayed by the number of epochs that end during warm-up, because the
    published loop does not step its MultiStepLR in these epochs.
    """
    if not recipe.milestones_after_warmup:
        return recipe.milestones
    delay = max(math.ceil(recipe.warmup_iterations / iterations_per_epoch) - 1, 0)
    return tuple(milestone + delay for milestone in recipe.milestones)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, recipe: Recipe, *, iteration: int, iterations_per_epoch: int
) -> list[float]:
    """Set the learning rate of each group for the step `iteration` and return the rates in group order.

    The published code advances its warm-up after each step: its rates after n steps are those set here for iteration n.
    """
    factor = lr_factor(recipe, iteration, iterations_per_epoch=iterations_per_epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return [group["lr"] for group in optimizer.param_groups]
