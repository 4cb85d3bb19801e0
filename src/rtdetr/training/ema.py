"""Exponential moving average (EMA) of a model's weights. Evaluation and released weights use the average."""

import copy
import math
from typing import Any, Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class ModelEMA(Generic[Model]):
    """A copy of a model in eval mode that averages the model's state over the training steps.

    After training step n = 1, 2, ... each floating state entry v, float buffers included, becomes
    `v * d + (1 - d) * model` with d = decay * (1 - exp(-n / warmup)); integer and boolean entries do not change.
    The number of updates is saved, so a resumed run continues with the same d.

    Attributes:
        module: the averaged model; eval mode, no gradients.
        decay: the limit of d; read at each update, so it may be changed during a run.
        warmup: number of updates after which d reaches 63 % of `decay`; 0: d is `decay` from the first update on.
        updates: number of updates so far.

    Source: RT-DETR's published training recipe (arXiv 2304.08069, section 5.1).
    """

    def __init__(self, model: Model, *, decay: float = 0.9999, warmup: int = 2000) -> None:
        self.module: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.updates = 0

    def decay_at(self, updates: int) -> float:
        """Return d for an update, counted from 1."""
        return self.decay * (1.0 - math.exp(-updates / self.warmup)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average with the model's current state."""
        self.updates += 1
        decay = self.decay_at(self.updates)
        source = model.state_dict()
        averaged = {key: value for key, value in self.module.state_dict().items() if value.is_floating_point()}
        values = list(averaged.values())
        if decay == 0.0:  # the formula would turn the infinite entries of stored anchors into NaN
            torch._foreach_copy_(values, [source[key] for key in averaged])
            return
        # Two rounded steps, as in the formula: a fused multiply-add differs in the last bit from published averages.
        torch._foreach_mul_(values, decay)
        torch._foreach_add_(values, torch._foreach_mul([source[key] for key in averaged], 1.0 - decay))

    def state_dict(self) -> dict[str, Any]:
        """Return the published layout: the averaged state under "module" and the count under "updates"."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state (strict)."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])
