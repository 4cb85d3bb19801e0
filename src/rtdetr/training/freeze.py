"""Training only a part of a model: the rest becomes constant, batch norms and their running statistics as well."""

from torch import nn

from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.models.backbone import Backbone
from rtdetr.models.layers import freeze_norms
from rtdetr.wording import counted


def freeze(model: RTDETR, part: str | int) -> None:
    """Stop training of a model's first layers.

    Their parameters need no gradient, and their batch norms become constants, which neither `model.train()` nor a
    synchronization over processes turns back.

    Args:
        model: changed in place, before its optimizer is built.
        part: number of backbone stages, 0 (the stem alone) to 4; "backbone": all of it; "encoder": the backbone and the
            encoder, since nothing that trains can come before a part that does not.

    Raises:
        ConfigError: no such part.
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
    """The modules of the stem and the first stages."""
    if not isinstance(part, int) or not 0 <= part <= 4:
        raise ConfigError(f"freeze: expected 'backbone', 'encoder' or a number of stages from 0 to 4, got {part!r}")
    groups = backbone.stem_and_stages()
    if part >= len(groups) or len(groups) == 1:
        raise ConfigError(
            f"freeze: the backbone has {counted(len(groups) - 1, 'stage')} that can be frozen, got {part}; 'backbone' "
            "freezes all of it"
        )
    return [module for group in groups[: part + 1] for module in group]
