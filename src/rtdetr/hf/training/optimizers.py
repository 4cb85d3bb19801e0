"""Translate a recipe for Trainer: optimizer, learning rate schedule and training arguments."""

from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from rtdetr.config import Recipe
from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.recipes import lr_factor
from rtdetr.training import build_optimizer
from rtdetr.wording import counted


def build_optimizers(
    model: nn.Module, recipe: Recipe, *, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return the optimizer and the learning rate schedule of a recipe, for `Trainer(optimizers=...)`.

    The parameters are in the groups of the recipe: the backbone has its own learning rate, norms have no weight decay.

    Args:
        model: a model of `rtdetr.hf`; it may be moved to another device later.
        recipe: learning rates, weight decay, groups and schedule.
        steps_per_epoch: optimizer steps per epoch, which convert the epochs of the schedule to steps.

    Raises:
        ConfigError: group patterns of the recipe are not valid, or match the same parameter.
    """
    # recipes use module names of the network, which the Hugging Face classes wrap with their own prefixes
    network = next((module for module in model.modules() if isinstance(module, RTDETR)), model)
    optimizer = build_optimizer(network, recipe)
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(recipe, step, iterations_per_epoch=steps_per_epoch))


def training_arguments(recipe: Recipe, *, num_processes: int = 1) -> dict[str, Any]:
    """Return the values of `transformers.TrainingArguments` that a recipe and our helpers require.

    `TrainingArguments("runs/x", **training_arguments(recipe), eval_strategy="epoch", ...)`

    Args:
        recipe: batch size over all processes, epochs and gradient clipping.
        num_processes: processes that share a batch (`WORLD_SIZE` under torchrun).

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    shares = num_processes * recipe.accumulate
    if recipe.batch_size % shares:
        raise ConfigError(
            f"batch_size {recipe.batch_size} must be a multiple of {counted(num_processes, 'process')} x "
            f"{recipe.accumulate} parts (accumulate)"
        )
    return {
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size // shares,
        "gradient_accumulation_steps": recipe.accumulate,
        "max_grad_norm": recipe.clip_max_norm,
        "remove_unused_columns": False,  # Trainer would drop the labels, because it does not know their names
        "batch_eval_metrics": True,  # otherwise Trainer keeps the outputs of all evaluation batches
    }
