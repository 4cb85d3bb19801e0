"""Training only a part of a model: the rest becomes constant, batch norms and their running statistics as well."""

from torch import nn

from rtdetr.errors import ConfigError
from rtdetr.models import RTDETR
from rtdetr.models.layers import FrozenBatchNorm2d


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
    for module in _frozen_modules(model, part):
        module.requires_grad_(False)
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(parent, name, _constant(child))


def _frozen_modules(model: RTDETR, part: str | int) -> list[nn.Module]:
    if part == "backbone":
        return [model.backbone]
    if part == "encoder":
        return [model.backbone, model.encoder]
    if not isinstance(part, int) or not 0 <= part <= 4:
        raise ConfigError(f"freeze: expected 'backbone', 'encoder' or a number of stages from 0 to 4, got {part!r}")
    stem, stages = model.backbone.children()
    return [stem, *list(stages.children())[:part]]


def _constant(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    """A batch norm with the same values that never change; the count of batches, which nothing uses, is left out."""
    frozen = FrozenBatchNorm2d(norm.num_features).to(norm.weight.device)
    frozen.load_state_dict(norm.state_dict())
    return frozen.train(norm.training)
