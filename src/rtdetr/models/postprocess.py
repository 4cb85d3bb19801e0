"""Post-processing: the best detections in pixels, without NMS or clipping, as published."""

from jaxtyping import Float, Int64
from torch import Tensor

from rtdetr.boxes import cxcywh_to_xyxy
from rtdetr.detections import MAX_DETECTIONS
from rtdetr.devices import at_least_float32


def postprocess(
    logits: Float[Tensor, "b q k"],
    boxes_cxcywh: Float[Tensor, "b q 4"],
    *,
    sizes_wh: Float[Tensor, "b 2"] | Int64[Tensor, "b 2"],
    max_detections: int = MAX_DETECTIONS,
    one_label: bool = False,
) -> tuple[Int64[Tensor, "b m"], Float[Tensor, "b m 4"], Float[Tensor, "b m"]]:
    """Return labels, boxes (xyxy, pixels of the original image) and scores, best first.

    A detection is a pair of query and class, so one query may give several. There are at most
    min(max_detections, queries * classes) of them.

    Args:
        logits: class scores before the sigmoid.
        boxes_cxcywh: normalized boxes.
        sizes_wh: width and height of the original images.
        max_detections: maximum number of detections per image.
        one_label: return only the best class of each query; then there are at most min(max_detections, queries).
    """
    wide = at_least_float32(logits.dtype)
    scores = logits.to(wide).sigmoid()
    if one_label:
        scores, best = scores.max(-1)
        scores, query = scores.topk(min(max_detections, scores.shape[1]), dim=-1)
        return best.gather(1, query), _pixels(boxes_cxcywh, query, sizes_wh), scores
    labels, query, scores = best_pairs(scores, max_detections)
    return labels, _pixels(boxes_cxcywh, query, sizes_wh), scores


def best_pairs(
    scores: Float[Tensor, "b q k"], most: int
) -> tuple[Int64[Tensor, "b m"], Int64[Tensor, "b m"], Float[Tensor, "b m"]]:
    """Return label, query and score of up to `most` (query, class) pairs, best first."""
    num_classes = scores.shape[-1]
    scores = scores.flatten(1)
    scores, index = scores.topk(min(most, scores.shape[1]), dim=-1)
    return index % num_classes, index // num_classes, scores


def _pixels(boxes_cxcywh: Tensor, query: Tensor, sizes_wh: Tensor) -> Tensor:
    """Return the boxes of the selected queries as corners in pixels."""
    boxes = cxcywh_to_xyxy(boxes_cxcywh) * sizes_wh.to(boxes_cxcywh.dtype).repeat(1, 2)[:, None]
    return boxes.gather(1, query[..., None].expand(-1, -1, 4))
