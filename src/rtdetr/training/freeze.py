"""Freeze the first layers of a model: their weights, batch norms and running statistics do not change in training."""

from torch import nn

from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.models.backbone import Backbone
from rtdetr.models.layers import freeze_norms
from rtdetr.wording import counted


def freeze(model: RTDETR, part: str | int) -> None:
    """Freeze the first layers of a model.

    Their parameters need no gradient, and their batch norms become constant; `model.train()` and synchronized batch
    norm do not unfreeze them.

    Args:
        model: changed in place; build its optimizer afterwards.
        part: number of backbone stages, 0 (only the stem) to 4; "backbone"; or "encoder", the backbone and the encoder.

    Raises:
        ConfigError: `part` is invalid, or the backbone has fewer stages.
    """
    backbone = model.backbone
    modules = [backbone] if part in ("backbone", "encoder") else _stages(backbone, part)
    for module in modules:
        module.requires_grad_(False)
    backbone.freeze_norms(modules)
    if part == "encoder":
        model.encoder.requires_grad_(False)
        freeze_norms(model.encoder, [model.encoder])


def _stages(backbone: Backbone, part: str | int) -> list[nn.Module]:
    """Return the modules of the stem and the first stages."""
    if not isinstance(part, int) or not 0 <= part <= 4:
        raise ConfigError(f"freeze: expected 'backbone', 'encoder' or a number of stages from 0 to 4, got {part!r}")
    groups = backbone.stem_and_stages()
    if part >= len(groups) or len(groups) == 1:
        raise ConfigError(
            f"freeze: the backbone has {counted(len(groups) - 1, 'stage')} that can be frozen, got {part}; 'backbone' "
            "freezes all of it"
        )
    return [module for group in groups[: part + 1] for module in group]
