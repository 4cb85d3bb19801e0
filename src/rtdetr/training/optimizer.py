"""The optimizer of a recipe, with the learning rate and weight decay of each parameter group."""

import re
from typing import Any

import torch
from torch import nn

from rtdetr.config import ParameterGroup, Recipe
from rtdetr.errors import ConfigError
from rtdetr.models.layers import SelfAttention
from rtdetr.training.muon import Muon, matrices_of

Groups = list[tuple[ParameterGroup, list[nn.Parameter]]]
_DECAYED = (nn.Conv2d, nn.Linear, SelfAttention)


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return AdamW, or `Muon`, over the trainable parameters, grouped by `Recipe.grouping`.

    "patterns": one group per pattern of the recipe, in order, and a last one for all other parameters. A group contains
    the parameters with names that match its pattern (`re.search`), in the order of `named_parameters`. Empty groups are
    kept, because optimizer state is indexed by position and published checkpoints contain the empty groups too.

    "modules": four groups: backbone and other parameters, each with and without weight decay. Only weights of
    convolutions, linear layers and attention have weight decay. Differs: published patterns match names, and miss norms
    with unusual names.

    With Muon, each group is split in two: parameters updated by AdamW, then matrices updated by Muon.

    The learning rate of each group is stored as `initial_lr`, which the schedule scales (`rtdetr.recipes.schedule`).

    Raises:
        ConfigError: a pattern is not a valid regular expression, or two patterns match the same parameter.
    """
    own = _by_module(model, recipe) if recipe.grouping == "modules" else _by_pattern(model, recipe)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": recipe.lr if group.lr is None else group.lr,
            "weight_decay": recipe.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group, parameters in own
    ]
    options: dict[str, Any] = {
        "lr": recipe.lr,
        "betas": recipe.betas,
        "weight_decay": recipe.weight_decay,
        "fused": _can_fuse(model),
    }
    if recipe.optimizer == "muon":
        optimizer = Muon(_split_matrices(model, groups), **options)
    else:
        optimizer = torch.optim.AdamW(groups, **options)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _by_pattern(model: nn.Module, recipe: Recipe) -> Groups:
    patterns = [_compile_pattern(group.pattern) for group in recipe.groups]
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
    return list(zip((*recipe.groups, ParameterGroup(pattern="")), members, strict=True))


def _by_module(model: nn.Module, recipe: Recipe) -> Groups:
    members: dict[tuple[bool, bool], list[nn.Parameter]]
    members = {(in_backbone, is_decayed): [] for in_backbone in (True, False) for is_decayed in (True, False)}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                is_decayed = isinstance(module, _DECAYED) and name.endswith("weight")
                members[prefix.startswith("backbone."), is_decayed].append(parameter)
    return [
        (
            ParameterGroup(
                pattern="", lr=recipe.backbone_lr if in_backbone else None, weight_decay=None if is_decayed else 0.0
            ),
            parameters,
        )
        for (in_backbone, is_decayed), parameters in members.items()
    ]


def _split_matrices(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    matrices = {id(parameter) for parameter in matrices_of(model)}
    return [
        {**group, "params": [one for one in group["params"] if (id(one) in matrices) == muon], "muon": muon}
        for group in groups
        for muon in (False, True)
    ]


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"recipe groups: {pattern!r} is not a valid regular expression: {error}.") from None


def _can_fuse(model: nn.Module) -> bool:
    """Whether fused AdamW can be used; it computes the same update several times faster."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
