"""Gradient checkpointing as transformers controls it: recomputed modules are `GradientCheckpointingLayer` objects."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rtdetr.models import RTDETR, hgnetv2, presnet
from rtdetr.models.decoder import DecoderLayer
from rtdetr.models.hybrid_encoder import CSPRepLayer
from rtdetr.models.recompute import checkpointed, recomputed_parts


class PResNetStage(GradientCheckpointingLayer, presnet.Stage):
    """A stage of `PResNet`."""


class HGNetv2Stage(GradientCheckpointingLayer, hgnetv2.Stage):
    """A stage of `HGNetv2`."""


class FusionBlock(GradientCheckpointingLayer, CSPRepLayer):
    """A fusion block of the encoder."""


class CheckpointedDecoderLayer(GradientCheckpointingLayer, DecoderLayer):
    """A layer of the decoder."""


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    presnet.Stage: PResNetStage,
    hgnetv2.Stage: HGNetv2Stage,
    CSPRepLayer: FusionBlock,
    DecoderLayer: CheckpointedDecoderLayer,
}


def make_switchable(network: RTDETR) -> None:
    """Give each of the `recomputed_parts` the class by which transformers recognizes it."""
    for part in recomputed_parts(network):
        part.__class__ = _CLASSES.get(type(part), type(part))


def count_batches_once(model: nn.Module, checkpoint: Callable[..., Any]) -> None:
    """Make the parts of a model use `checkpoint` so that batch norms do not count the second pass over a batch."""
    for part in model.modules():
        if isinstance(part, GradientCheckpointingLayer):
            vars(part)["_gradient_checkpointing_func"] = functools.partial(checkpointed, checkpoint, part)
