"""Data types between network and loss. Boxes are normalized cxcywh."""

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
    """Layout of the denoising queries of a batch, so that the loss can match them without a matcher.

    positive_indices: per image, an int64 tensor of the query positions with a real object, ordered by group and then by
        object: entry g * num_chosen + i is the i-th chosen object of group g.
    object_indices: per image, an int64 tensor of the chosen objects: all of them unless they exceed the maximum.
    num_groups: copies of the ground truth.
    num_queries: denoising queries per image, including padding.
    """

    positive_indices: tuple[Int64[Tensor, " m"], ...]
    object_indices: tuple[Int64[Tensor, " c"], ...]
    num_groups: int
    num_queries: int


class GuidedQueries(NamedTuple):
    """Queries that a teacher selected, for a student that repeats them (`rtdetr.losses.distillation`).

    tokens: encoder token of each query; maps of equal strides have the same tokens in every network.
    boxes_cxcywh: its reference boxes, normalized.
    """

    tokens: Int64[Tensor, "b q"]
    boxes_cxcywh: Float[Tensor, "b q 4"]


class Guidance(NamedTuple):
    """What a teacher detects in a batch.

    queries: the queries that its detections come from.
    probabilities: its class probabilities, for the classes `labels`.
    boxes_cxcywh: its boxes, normalized.
    labels: labels of the student that the teacher knows.
    encoder_maps: its encoder maps, finest first.
    """

    queries: GuidedQueries
    probabilities: Float[Tensor, "b q c"]
    boxes_cxcywh: Float[Tensor, "b q 4"]
    labels: Int64[Tensor, " c"]
    encoder_maps: tuple[Float[Tensor, "b _ _ _"], ...]

    @property
    def scores(self) -> Float[Tensor, "b q"]:
        """The highest class probability of each query."""
        return self.probabilities.amax(-1)


class RTDETROutput(NamedTuple):
    """Output of a forward pass.

    logits (b, q, k) and boxes_cxcywh (b, q, 4) are from layer `eval_idx` in eval mode and from the last layer in train
    mode. The rest is set in train mode only: `auxiliary` from layers 0..n-2, `encoder` from the selected proposals,
    `denoising` from all n layers for the denoising queries, described by `denoising_meta`. With queries of a teacher,
    `guided` has the proposals and the outputs of all n layers for them, and `encoder_maps` the maps, finest first.
    """

    logits: Float[Tensor, "b q k"]
    boxes_cxcywh: Float[Tensor, "b q 4"]
    auxiliary: tuple[LayerOutput, ...] = ()
    encoder: tuple[LayerOutput, ...] = ()
    denoising: tuple[LayerOutput, ...] = ()
    denoising_meta: DenoisingMeta | None = None
    class_agnostic_encoder: bool = False
    guided: tuple[LayerOutput, ...] = ()
    encoder_maps: tuple[Float[Tensor, "b _ _ _"], ...] = ()


@dataclass
class Trace:
    """Records intermediate values of a forward pass: `model(images, trace=Trace())` fills its fields.

    Values are not copies, so gradients of a loss on them reach the network. The m queries are the matching queries;
    with `with_denoising`, all queries, denoising queries first. `contents` and `references_cxcywh` hold the input of
    each decoder layer and, at the end, the output of the last one. Use a new `Trace` for each forward pass.
    """

    with_denoising: bool = False
    with_attentions: bool = False  # record them; attention then uses plain matrix products
    num_denoising: int = 0  # denoising queries, which come before the recorded ones
    coarsest_maps: list[Tensor] = field(default_factory=list)  # before and after each attention layer of the encoder
    encoder_attentions: list[Tensor] = field(default_factory=list)  # per attention layer, (b, heads, tokens, tokens)
    encoder_maps: list[Tensor] = field(default_factory=list)  # finest first
    token_features: Float[Tensor, "b s d"] | None = None  # per encoder token, before the proposal heads
    token_logits: Float[Tensor, "b s k"] | None = None
    anchors: Float[Tensor, "1 s 4"] | None = None  # anchor of each token, as logits
    proposals: LayerOutput | None = None
    reference_logits: Float[Tensor, "b m 4"] | None = None
    contents: list[Tensor] = field(default_factory=list)
    references_cxcywh: list[Tensor] = field(default_factory=list)
    self_attentions: list[Tensor] = field(default_factory=list)  # per decoder layer, (b, heads, m, m)
    cross_attentions: list[Tensor] = field(default_factory=list)  # per decoder layer, (b, m, heads, points)

    def keep(self, kept: list[Tensor], query_dims: tuple[int, ...], x: Tensor) -> Tensor:
        """Record the requested part of `x` and return `x` rebuilt from that same tensor.

        Args:
            kept: one of the lists above.
            query_dims: axes of `x` that are queries, including denoising queries.
            x: tensor to record.
        """
        seen, whole = _split_off(x, self.num_denoising, query_dims)
        kept.append(seen)
        return whole


def _split_off(x: Tensor, first: int, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the part of `x` from `first` on along each axis in `dims`, and `x` rebuilt from it and the rest."""
    if first == 0 or not dims:
        return x, x
    head, tail = x.split([first, x.shape[dims[0]] - first], dim=dims[0])
    part, tail = _split_off(tail, first, dims[1:])
    return part, torch.cat([head, tail], dim=dims[0])
