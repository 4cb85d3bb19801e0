"""The sampling method of a training checkpoint, which is visible in its optimizer but not in its weights."""

from collections.abc import Sequence
from typing import Literal

import torch

from rtdetr.weights.names import State

_OFFSETS, _ATTENTION = ".cross_attn.sampling_offsets.weight", ".cross_attn.attention_weights.weight"


def trained_sampling(state: State, moments: Sequence[torch.Size]) -> Literal["bilinear", "discrete"] | None:
    """Return the sampling method of a trained model; None if its file does not show it.

    Discrete sampling has no gradient with respect to the sampling offsets, so they are not trained: the optimizer has
    moments for the attention weights of each decoder layer, but none for the offsets.

    Args:
        state: entries under official names.
        moments: shapes of the optimizer's moments; empty if the file has no optimizer.
    """
    offsets, attention = ([key for key in state if key.endswith(end)] for end in (_OFFSETS, _ATTENTION))
    if not offsets:
        return None
    shape = state[offsets[0]].shape
    if sum(value.shape == shape for value in state.values()) > len(offsets):  # ambiguous: others have this shape
        return None
    if sum(moment == state[attention[0]].shape for moment in moments) < len(attention):
        return None
    num_trained = sum(moment == shape for moment in moments)
    if num_trained == len(offsets):
        return "bilinear"
    return None if num_trained else "discrete"
