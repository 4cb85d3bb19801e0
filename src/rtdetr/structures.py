"""What the network returns and the criterion reads. Boxes here are normalised cxcywh."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Target(TypedDict):
    """Ground truth of one image: `labels` int64 (n,) in 0..num_classes-1, `boxes` float (n, 4) normalised cxcywh."""

    labels: Int64[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]


class LayerOutput(NamedTuple):
    """Predictions of one decoder layer or of the encoder: logits before the sigmoid, boxes normalised cxcywh."""

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

    Queries m are all that ran, denoising ones first. `contents` and `references_cxcywh` hold what each decoder layer
    started from, and at the end what the last one made of it.
    """

    coarsest_map: Float[Tensor, "b c h w"] | None = None  # what the encoder's attention layers start from
    encoder_maps: list[Tensor] = field(default_factory=list)  # finest first
    token_features: Float[Tensor, "b s d"] | None = None  # of every encoder token, before the proposals' heads
    token_logits: Float[Tensor, "b s k"] | None = None
    anchors: Float[Tensor, "1 s 4"] | None = None  # logits of every token's anchor
    proposals: LayerOutput | None = None
    reference_logits: Float[Tensor, "b m 4"] | None = None
    allowed: Bool[Tensor, "m m"] | None = None
    contents: list[Tensor] = field(default_factory=list)
    references_cxcywh: list[Tensor] = field(default_factory=list)

    def enter(self, content: Float[Tensor, "b m d"], reference_cxcywh: Float[Tensor, "b m 4"]) -> None:
        """Note what the next layer starts from."""
        self.contents.append(content)
        self.references_cxcywh.append(reference_cxcywh)
