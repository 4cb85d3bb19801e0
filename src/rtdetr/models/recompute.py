"""Gradient checkpointing: activations inside a part of the network are computed again in the backward pass, not kept.

Source: arXiv 1604.06174, through `torch.utils.checkpoint`.
"""

import contextlib
import functools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from rtdetr.models import RTDETR
from rtdetr.models.hgnetv2 import HGNetv2
from rtdetr.models.presnet import PResNet


def recompute_activations(model: RTDETR) -> None:
    """Let each of the `recomputed_parts` keep its inputs only. Its results stay the same."""
    for part in recomputed_parts(model):
        part.forward = types.MethodType(_recomputing, part)  # a copy of a model gets a method of its own part


def keep_activations(model: RTDETR) -> None:
    """Undo `recompute_activations`; no effect on a model that it was not called for."""
    for part in recomputed_parts(model):
        part.__dict__.pop("forward", None)


def recomputed_parts(model: RTDETR) -> list[nn.Module]:
    """Backbone stages, fusion blocks and decoder layers, whose insides are worth more memory than time."""
    backbone = model.backbone
    if isinstance(backbone, HGNetv2):
        stages = [*backbone.stages]
    else:
        stages = [*backbone.res_layers] if isinstance(backbone, PResNet) else [backbone]
    return [*stages, *model.encoder.fpn_blocks, *model.encoder.pan_blocks, *model.decoder.decoder.layers]


def _recomputing(part: nn.Module, *inputs: Any) -> Any:
    """Stand in for the `forward` of a part."""
    forward = functools.partial(type(part).forward, part)
    if not (part.training and torch.is_grad_enabled()):
        return forward(*inputs)
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _counted_once(norms)

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _counted_once(norms: list[_BatchNorm]) -> Iterator[None]:
    """Keep the second pass over a batch out of the running statistics."""
    former = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, former, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
