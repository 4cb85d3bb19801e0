"""Hungarian matching of predictions to objects, for all supervised layers of a batch at once.

Source: arXiv 2005.12872 section 3.1 with the focal class cost of arXiv 2304.08069.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rtdetr.boxes import box_iou_giou, cxcywh_to_xyxy
from rtdetr.config import LossConfig
from rtdetr.devices import at_least_float32
from rtdetr.structures import LayerOutput

EPS = 1e-8


class Match(NamedTuple):
    """Matched pairs of one layer: image, query and object (an index into the batch's concatenated objects) of each."""

    image: Int64[Tensor, " m"]
    query: Int64[Tensor, " m"]
    object: Int64[Tensor, " m"]


Matcher = Callable[[list[LayerOutput], Tensor, Tensor, list[int]], list[Match]]
"""Called with layers, labels, boxes and counts as `HungarianMatcher` is."""


class HungarianMatcher:
    """Assigns to each object of an image the query that costs least over all objects, layer by layer.

    Args:
        config: weights of the three costs and the focal parameters.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    @torch.no_grad()
    def __call__(
        self,
        layers: list[LayerOutput],
        labels: Int64[Tensor, " n"],
        boxes_cxcywh: Float[Tensor, "n 4"],
        counts: list[int],
    ) -> list[Match]:
        """Return the pairs of each layer.

        Costs are computed object by object with the queries of its own image only, in float32 or wider, element-wise,
        and cross to the host once. A cost that is not finite counts as very high, so that a NaN prediction is never
        preferred.

        Args:
            layers: predictions with logits (b, q, k) and normalized boxes; the number of queries may differ.
            labels: objects of all images, one after the other.
            boxes_cxcywh: their normalized boxes.
            counts: objects of each image.
        """
        device = labels.device
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64)).to(device)
        costs = [_cost(layer, image, labels, boxes_cxcywh, self.config) for layer in layers]
        host = torch.cat([cost.flatten() for cost in costs]).cpu().numpy()
        matches, offset = [], 0
        for cost in costs:
            block = host[offset : offset + cost.numel()].reshape(cost.shape)
            offset += cost.numel()
            matches.append(_assign(block, counts))
        return [Match(*(torch.from_numpy(x).to(device, non_blocking=True) for x in m)) for m in matches]


def _cost(
    layer: LayerOutput, image: Tensor, labels: Tensor, boxes_cxcywh: Tensor, config: LossConfig
) -> Float[Tensor, "n q"]:
    """Cost of every object with every query of its image."""
    wide = at_least_float32(layer.logits.dtype)
    # the logits of each object's class: (n, q)
    logits = layer.logits[image, :, labels].to(wide)
    predicted = layer.boxes_cxcywh[image].to(wide)  # (n, q, 4)
    target = boxes_cxcywh.to(wide)[:, None]  # (n, 1, 4)
    probability = logits.sigmoid()
    alpha, gamma = config.match_alpha, config.match_gamma
    positive = alpha * (1 - probability) ** gamma * -(probability + EPS).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + EPS).log()
    distance = (predicted - target).abs().sum(-1)
    _, giou = box_iou_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target))
    cost = (
        config.match_bbox_cost * distance
        + config.match_class_cost * (positive - negative)
        - config.match_giou_cost * giou
    )
    return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)


def _assign(cost: np.ndarray, counts: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve each image; pairs in the order of the queries. With more objects than queries, some stay unmatched."""
    images, queries, objects = [], [], []
    start = 0
    for i, count in enumerate(counts):
        query, local = linear_sum_assignment(cost[start : start + count].T)
        images.append(np.full(len(query), i, dtype=np.int64))
        queries.append(query)
        objects.append(local + start)
        start += count
    if not images:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty
    return np.concatenate(images), np.concatenate(queries), np.concatenate(objects)
