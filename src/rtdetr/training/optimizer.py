"""AdamW over the parameter groups of a recipe: which parameter trains at which rate and with how much weight decay."""

import re

import torch
from torch import nn

from rtdetr.config import Recipe
from rtdetr.errors import ConfigError


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW with one group for each of the recipe's groups, in their order, and a last one for the rest.

    A group holds the trainable parameters whose name its pattern matches (`re.search`), in the order of
    `named_parameters`. A group that matches nothing is kept, since the state of an optimiser is indexed by the position
    of each parameter and a published checkpoint has the empty group too. Each group remembers its rate as
    `initial_lr`; the schedule scales that one (`rtdetr.training.schedule`).

    Raises:
        ConfigError: a pattern is no regular expression, or two patterns match the same parameter.
    """
    patterns = [_compile(group.pattern) for group in recipe.groups]
    members: list[list[nn.Parameter]] = [[] for _ in (*patterns, "the rest")]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matches = [index for index, pattern in enumerate(patterns) if pattern.search(name)]
        if len(matches) > 1:
            first, second = (recipe.groups[index].pattern for index in matches[:2])
            raise ConfigError(
                f"recipe groups: expected at most one pattern to match parameter {name!r}, "
                f"but both {first!r} and {second!r} do. Narrow one of them."
            )
        members[matches[0] if matches else -1].append(parameter)

    groups = [
        {
            "params": parameters,
            "lr": recipe.lr if group is None or group.lr is None else group.lr,
            "weight_decay": recipe.weight_decay if group is None or group.weight_decay is None else group.weight_decay,
        }
        for group, parameters in zip((*recipe.groups, None), members, strict=True)
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=_can_fuse(model)
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"recipe groups: {pattern!r} is no regular expression: {error}.") from None


def _can_fuse(model: nn.Module) -> bool:
    """The fused step is several times faster than the loop over tensors and computes the same update."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
