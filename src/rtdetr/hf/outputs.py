"""Model outputs: the fields of transformers in the same order, filled from a forward pass of our network.

Shapes: b images, q queries, width d, l decoder layers run, k classes, s tokens of all feature maps. Boxes are cxcywh in
0..1.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from rtdetr.models.decoder import RTDETRDecoder
from rtdetr.models.positions import inverse_sigmoid
from rtdetr.structures import LayerOutput, RTDETROutput, Trace


class TokenBoxes(ModelOutput):
    """Output with the field `enc_outputs_coord_logits`, which is computed on access.

    The boxes of all tokens take 3 % of the time of a small model and are rarely used. They are not a key of the
    dictionary, but part of the tuple.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        raise TypeError("use one of the two classes below")  # as ModelOutput of transformers does

    @property
    def enc_outputs_coord_logits(self) -> Tensor | None:
        """Boxes of all tokens before the sigmoid, (b, s, 4), without a gradient."""
        make = self.__dict__.get("_make_token_boxes")
        return None if make is None else make()

    def with_token_boxes(self, make: Callable[[], Tensor]) -> Self:
        """Set the function that computes the field, and return self."""
        vars(self)["_make_token_boxes"] = make
        return self

    def __getitem__(self, key: Any) -> Any:
        return self.enc_outputs_coord_logits if key == "enc_outputs_coord_logits" else super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a field, including `enc_outputs_coord_logits`."""
        return self[key] if key in self or key == "enc_outputs_coord_logits" else default

    def to_tuple(self) -> tuple[Any, ...]:
        """Return all fields that are not None, in the order of transformers."""
        values = dict(self.items())
        last = [
            self.enc_outputs_coord_logits,
            values.pop("denoising_meta_values", None),
            values.pop("content_share_hw", None),
        ]
        return (*values.values(), *(value for value in last if value is not None))


@dataclass
class RTDetrV2ModelOutput(TokenBoxes):
    """All outputs except the detections. Fields that RT-DETRv2 lacks, or that were not requested, are None.

    last_hidden_state: (b, q, d), from the evaluated layer.
    intermediate_hidden_states, intermediate_logits, intermediate_reference_points: (b, l, q, d), (b, l, q, k) and
        (b, l, q, 4), the predictions of each layer.
    intermediate_predicted_corners, initial_reference_points: None; fields of other detectors.
    decoder_hidden_states: l + 1 tensors (b, q, d), the first one before the first layer. On request.
    decoder_attentions: l tensors (b, heads, q, q); cross_attentions: l tensors (b, q, heads, points). On request.
    encoder_last_hidden_state: three feature maps (b, d, height, width), finest first.
    encoder_hidden_states: the coarsest feature map before and after each attention layer. On request.
    encoder_attentions: (b, heads, tokens, tokens) per attention layer. On request.
    init_reference_points: (b, q, 4), the initial boxes of the queries, before the sigmoid.
    enc_topk_logits, enc_topk_bboxes: (b, q, k) and (b, q, 4), the proposals that became queries.
    enc_outputs_class: (b, s, k), the class logits of all tokens; enc_outputs_coord_logits: see `TokenBoxes`.
    denoising_meta_values: in training, dn_positive_idx (one tensor per image), dn_num_group and dn_num_split (numbers
        of denoising and other queries).
    """

    last_hidden_state: Tensor | None = None
    intermediate_hidden_states: Tensor | None = None
    intermediate_logits: Tensor | None = None
    intermediate_reference_points: Tensor | None = None
    intermediate_predicted_corners: Tensor | None = None
    initial_reference_points: Tensor | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: list[Tensor] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    init_reference_points: Tensor | None = None
    enc_topk_logits: Tensor | None = None
    enc_topk_bboxes: Tensor | None = None
    enc_outputs_class: Tensor | None = None
    denoising_meta_values: dict[str, Any] | None = None


@dataclass
class _Detections(ModelOutput):
    """The fields that precede those of `RTDetrV2ModelOutput`."""

    loss: Tensor | None = None
    loss_dict: dict[str, Tensor] | None = None
    logits: Tensor | None = None
    pred_boxes: Tensor | None = None
    auxiliary_outputs: list[dict[str, Tensor]] | None = None


@dataclass
class RTDetrV2ObjectDetectionOutput(RTDetrV2ModelOutput, _Detections):
    """Detections, the loss if labels were given, and the fields of `RTDetrV2ModelOutput`.

    Pipelines of transformers build a new output from this one and their own entries, and split it by image along the
    first axis of every entry. That output therefore contains only those fields that are tensors.

    loss: the sum of the weighted terms in `loss_dict`.
    logits: (b, q, k) before the sigmoid, without a "no object" class.
    pred_boxes: (b, q, 4).
    auxiliary_outputs: with labels, dicts of logits and pred_boxes of all layers but the last, then of the proposals.
    content_share_hw: with a pixel_mask, (b, 2), the shares of height and width that are not padding; transformers has
        no such field.
    """

    content_share_hw: Tensor | None = None

    def __post_init__(self) -> None:
        own = {field.name for field in fields(self)}
        entries: Any = self.loss  # a dictionary is passed as the first field
        if isinstance(entries, dict) and not entries.keys() <= own:
            self.loss: Any = {key: x for key, x in entries.items() if key not in own or isinstance(x, Tensor)}
        super().__post_init__()


def supervised(output: RTDETROutput, trace: Trace, decoder: RTDETRDecoder) -> RTDETROutput:
    """Add to an evaluation output what a training output has: all layers that ran, and the proposals."""
    assert trace.proposals is not None
    earlier = zip(decoder.dec_score_head, trace.contents[1:-1], trace.references_cxcywh[1:-1], strict=False)
    return output._replace(
        auxiliary=tuple(LayerOutput(score(content), boxes) for score, content, boxes in earlier),
        encoder=(trace.proposals,),
        class_agnostic_encoder=decoder.config.query_selection == "agnostic",
    )


def without_look_forward_twice(output: RTDETROutput, trace: Trace, decoder: RTDETRDecoder) -> RTDETROutput:
    """Return the same values, with no gradient from the boxes of a layer to the box head of the previous layer."""
    boxes = []
    for head, content, reference in zip(
        decoder.dec_bbox_head, trace.contents[1:], trace.references_cxcywh[:-1], strict=True
    ):
        boxes.append((head(content).to(reference.dtype) + inverse_sigmoid(reference)).sigmoid())
    split = output.denoising_meta.num_queries if output.denoising_meta else 0
    return output._replace(
        boxes_cxcywh=boxes[-1][:, split:],
        auxiliary=tuple(
            LayerOutput(layer.logits, x[:, split:]) for layer, x in zip(output.auxiliary, boxes[:-1], strict=True)
        ),
        denoising=tuple(
            LayerOutput(layer.logits, x[:, :split]) for layer, x in zip(output.denoising, boxes, strict=False)
        ),
    )


def fields_of(output: RTDETROutput, trace: Trace) -> tuple[RTDETROutput, LayerOutput, dict[str, Any]]:
    """Collect the fields of `RTDetrV2ModelOutput` that are always present.

    Args:
        output: of a forward pass in training, or of `supervised`.
        trace: of the same forward pass.

    Returns:
        The output with predictions that are views of the fields, so that gradients of a loss pass through the fields;
        the predictions of the last layer to return; and the fields.
    """
    assert trace.proposals is not None and trace.reference_logits is not None and trace.token_logits is not None
    layers = [*output.auxiliary, LayerOutput(output.logits, output.boxes_cxcywh)]
    num_noisy = output.denoising_meta.num_queries if output.denoising_meta and trace.with_denoising else 0
    if num_noisy:
        layers = [
            LayerOutput(*(torch.cat(pair, dim=1) for pair in zip(noisy, layer, strict=True)))
            for noisy, layer in zip(output.denoising, layers, strict=True)
        ]
    logits, boxes = (torch.stack(predictions, dim=1) for predictions in zip(*layers, strict=True))
    layers = [LayerOutput(*layer) for layer in zip(logits.unbind(1), boxes.unbind(1), strict=True)]
    matching = [LayerOutput(*(x[:, num_noisy:] for x in layer)) for layer in layers]
    output = output._replace(
        logits=matching[-1].logits, boxes_cxcywh=matching[-1].boxes_cxcywh, auxiliary=tuple(matching[:-1])
    )
    if num_noisy:
        output = output._replace(denoising=tuple(LayerOutput(*(x[:, :num_noisy] for x in layer)) for layer in layers))
    return (
        output,
        layers[-1],
        {
            "last_hidden_state": trace.contents[-1],
            "intermediate_hidden_states": torch.stack(trace.contents[1:], dim=1),
            "intermediate_logits": logits,
            "intermediate_reference_points": boxes,
            "encoder_last_hidden_state": trace.encoder_maps,
            "init_reference_points": trace.reference_logits,
            "enc_topk_logits": trace.proposals.logits,
            "enc_topk_bboxes": trace.proposals.boxes_cxcywh,
            "enc_outputs_class": trace.token_logits,
            "denoising_meta_values": _denoising_meta(output),
        },
    )


def lazy_token_boxes(trace: Trace, decoder: RTDETRDecoder) -> Callable[[], Tensor]:
    """Return a function that computes `enc_outputs_coord_logits`; it keeps only the tensors it needs from the trace."""
    assert trace.token_features is not None and trace.anchors is not None
    return functools.partial(_token_boxes, trace.token_features, trace.anchors, decoder)


@torch.no_grad()
def _token_boxes(features: Tensor, anchors: Tensor, decoder: RTDETRDecoder) -> Tensor:
    """Compute the boxes without a gradient, because nothing is trained on them."""
    anchors = anchors.clamp(max=torch.finfo(anchors.dtype).max)  # invalid anchors are infinite
    dtype = next(decoder.enc_bbox_head.parameters()).dtype  # may differ from the features after autocast
    return decoder.enc_bbox_head(features.to(dtype)).to(anchors.dtype) + anchors


def _denoising_meta(output: RTDETROutput) -> dict[str, Any] | None:
    meta = output.denoising_meta
    if meta is None:
        return None
    return {
        "dn_positive_idx": meta.positive_indices,
        "dn_num_group": meta.num_groups,
        "dn_num_split": [meta.num_queries, output.logits.shape[1]],
    }
