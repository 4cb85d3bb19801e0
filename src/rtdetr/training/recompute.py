"""Gradient checkpointing: activations inside a part of the network are computed again in the backward pass, not kept.

Source: arXiv 1604.06174, through `torch.utils.checkpoint`.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from rtdetr.models import RTDETR
from rtdetr.models.hgnetv2 import HGNetv2


def recompute_activations(model: RTDETR) -> None:
    """Let every backbone stage, fusion block and decoder layer keep its inputs only. Its results stay the same."""
    stages = model.backbone.stages if isinstance(model.backbone, HGNetv2) else model.backbone.res_layers
    parts = [*stages, *model.encoder.fpn_blocks, *model.encoder.pan_blocks, *model.decoder.decoder.layers]
    for part in parts:
        part.forward = _recomputing(part, part.forward)


def _recomputing(part: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]

    def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
        return contextlib.nullcontext(), _counted_once(norms)

    def run(*inputs: Any) -> Any:
        if not (part.training and torch.is_grad_enabled()):
            return forward(*inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    return run


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
