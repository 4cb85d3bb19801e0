"""What the network returns and the criterion reads. Boxes here are normalized cxcywh."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Target(TypedDict):
    """Ground truth of one image: `labels` int64 (n,) in 0..num_classes-1, `boxes` float (n, 4) normalized cxcywh."""

    labels: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]


class LayerOutput(NamedTuple):
    """Predictions of one decoder layer or of the encoder: logits before the sigmoid, boxes normalized cxcywh."""

    logits: Float[Tensor, "b q k"]
    boxes_cxcywh: Float[Tensor, "b q 4"]


class DenoisingMeta(NamedTuple):
    """Where the denoising queries of a batch are: a fact the criterion needs to match them without a matcher.

    positive_indices: one int64 tensor an image, the query positions that carry a real object, ordered by group and
        then by object, so the i-th chosen object of group g stands at entry g * num_chosen + i.
    object_indices: one int64 tensor an image, which of its objects were chosen: all of them unless there are more than
        the block may hold.
    num_groups: copies of the ground truth.
    num_queries: denoising queries an image, padding included.
    """

    positive_indices: tuple[Int64[Tensor, " m"], ...]
    object_indices: tuple[Int64[Tensor, " c"], ...]
    num_groups: int
    num_queries: int


class RTDETROutput(NamedTuple):
    """Everything a forward pass returns.

    logits (b, q, k) and boxes_cxcywh (b, q, 4) come from the evaluated layer in eval mode and from the last layer in
    train mode. The rest is filled in train mode only: `auxiliary` layers 0..n-2, `encoder` the selected proposals,
    `denoising` all n layers on the denoising queries, with `denoising_meta`.
    """

    logits: Float[Tensor, "b q k"]
    boxes_cxcywh: Float[Tensor, "b q 4"]
    auxiliary: tuple[LayerOutput, ...] = ()
    encoder: tuple[LayerOutput, ...] = ()
    denoising: tuple[LayerOutput, ...] = ()
    denoising_meta: DenoisingMeta | None = None
    class_agnostic_encoder: bool = False


@dataclass
class Trace:
    """What a forward pass leaves behind if it is given one: for callers that look inside, nothing the detector needs.

    What is kept is what the pass went on with, not a copy of it: gradients of its results pass through. Queries m are
    the matching ones, with `with_denoising` all that ran, denoising ones first. `contents` and `references_cxcywh` hold
    what each decoder layer started from, and at the end what the last one made of it.
    """

    with_denoising: bool = False
    with_attentions: bool = False  # keep them, which takes attention in plain matrix products
    num_denoising: int = 0  # queries in front of those that are kept
    coarsest_maps: list[Tensor] = field(default_factory=list)  # before and after each of the encoder's attention layers
    encoder_attentions: list[Tensor] = field(default_factory=list)  # of those layers, (b, heads, tokens, tokens)
    encoder_maps: list[Tensor] = field(default_factory=list)  # finest first
    token_features: Float[Tensor, "b s d"] | None = None  # of every encoder token, before the proposals' heads
    token_logits: Float[Tensor, "b s k"] | None = None
    anchors: Float[Tensor, "1 s 4"] | None = None  # logits of every token's anchor
    proposals: LayerOutput | None = None
    reference_logits: Float[Tensor, "b m 4"] | None = None
    contents: list[Tensor] = field(default_factory=list)
    references_cxcywh: list[Tensor] = field(default_factory=list)
    self_attentions: list[Tensor] = field(default_factory=list)  # of each decoder layer, (b, heads, m, m)
    cross_attentions: list[Tensor] = field(default_factory=list)  # of each decoder layer, (b, m, heads, points)

    def keep(self, kept: list[Tensor], query_dims: tuple[int, ...], x: Tensor) -> Tensor:
        """Keep the part of `x` that is to be seen, and return `x` put together with that very part.

        Args:
            kept: one of the lists above.
            query_dims: axes of `x` that are queries, all that ran.
            x: what to keep.
        """
        seen, whole = _split_off(x, self.num_denoising, query_dims)
        kept.append(seen)
        return whole


def _split_off(x: Tensor, first: int, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The part of `x` from `first` on in every axis of `dims`, and `x` made of it and the rest."""
    if first == 0 or not dims:
        return x, x
    head, tail = x.split([first, x.shape[dims[0]] - first], dim=dims[0])
    part, tail = _split_off(tail, first, dims[1:])
    return part, torch.cat([head, tail], dim=dims[0])
