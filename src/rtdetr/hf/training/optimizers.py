"""A recipe in the words of Trainer: optimizer, schedule of the rate, and the arguments that follow from it."""

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


def build_optimizers(model: nn.Module, recipe: Recipe, *, steps_per_epoch: int) -> tuple[torch.optim.AdamW, LambdaLR]:
    """Return the optimizer and the schedule of a recipe, as `Trainer(optimizers=...)` takes them.

    The parameters are in the recipe's groups: the backbone at its own rate, norms without weight decay.

    Args:
        model: a model of `rtdetr.hf`; it may be moved to another device later.
        recipe: rates, weight decay, groups and schedule.
        steps_per_epoch: optimizer steps an epoch, which the schedule counts its epochs in.

    Raises:
        ConfigError: patterns of the recipe's groups that cannot be, or match the same parameter.
    """
    # recipes name the parts of the network, which the Hugging Face classes hold below prefixes of their own
    network = next((module for module in model.modules() if isinstance(module, RTDETR)), model)
    optimizer = build_optimizer(network, recipe)
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(recipe, step, iterations_per_epoch=steps_per_epoch))


def training_arguments(recipe: Recipe, *, num_processes: int = 1) -> dict[str, Any]:
    """Return the values of `transformers.TrainingArguments` that follow from a recipe and from our helpers.

    `TrainingArguments("runs/x", **training_arguments(recipe), eval_strategy="epoch", ...)`

    Args:
        recipe: batch size over all processes, epochs, clipping.
        num_processes: processes that share a batch (`WORLD_SIZE` under torchrun).

    Raises:
        ConfigError: the batch cannot be shared out evenly.
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
        "remove_unused_columns": False,  # Trainer would drop the labels, whose names it does not know
        "batch_eval_metrics": True,  # or it keeps what every evaluation batch gave
    }
