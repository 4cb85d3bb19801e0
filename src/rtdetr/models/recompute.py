"""Gradient checkpointing: activations inside parts of the network are recomputed in the backward pass instead of kept.

Source: arXiv 1604.06174, through `torch.utils.checkpoint`.
"""

import contextlib
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from rtdetr.models import RTDETR


def recompute_activations(model: RTDETR) -> None:
    """Make each of the `recomputed_parts` store only its inputs. Results do not change."""
    for part in recomputed_parts(model):
        part.forward = types.MethodType(_recomputing, part)  # copies of a model get their own bound methods


def recomputed_parts(model: RTDETR) -> list[nn.Module]:
    """Return the backbone stages, fusion blocks and decoder layers, which save the most memory per recomputed time."""
    stages = [module for stage in model.backbone.stem_and_stages()[1:] for module in stage] or [model.backbone]
    return [*stages, *model.encoder.fpn_blocks, *model.encoder.pan_blocks, *model.decoder.decoder.layers]


def checkpointed(checkpoint: Callable[..., Any], part: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:
    """Return `checkpoint(forward, *inputs)`, counting each batch once in the running statistics of batch norms.

    Args:
        checkpoint: `torch.utils.checkpoint.checkpoint` with its options, reentrant or not.
        part: the module that `forward` runs.
        forward: a function of the inputs, which runs here and again in the backward pass.
        inputs: positional arguments; tensors in a list or dictionary get no gradient if `checkpoint` is reentrant.
    """
    tensors = (x for x in (*inputs, *part.parameters()) if isinstance(x, Tensor))
    if not any(x.requires_grad for x in tensors):
        return forward(*inputs)  # nothing is kept for the backward pass
    if torch.compiler.is_compiling():  # its second pass does not update the statistics
        return checkpoint(forward, *inputs)
    runs = itertools.count()

    def run(_: Tensor, *inputs: Any) -> Any:
        with _statistics_kept(part) if next(runs) else contextlib.nullcontext():
            return forward(*inputs)

    # reentrant checkpoints give parameters a gradient only if an input has one, and images have none
    return checkpoint(run, torch.empty(0, requires_grad=True), *inputs)


def _recomputing(part: nn.Module, *inputs: Any) -> Any:
    """Replacement for the `forward` of a part."""
    forward = functools.partial(type(part).forward, part)
    if not (part.training and torch.is_grad_enabled()):
        return forward(*inputs)
    return checkpointed(functools.partial(checkpoint, use_reentrant=False), part, forward, *inputs)


@contextlib.contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms unchanged in the block."""
    norms = [module for module in part.modules() if isinstance(module, _BatchNorm)]
    former = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, (momentum, count) in zip(norms, former, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
