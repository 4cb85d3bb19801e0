"""Box geometry on tensors: format conversion, IoU and GIoU."""

import torch
from jaxtyping import Float
from torch import Tensor


def cxcywh_to_xyxy(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Convert center and size to corners, in any unit."""
    center, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat([center - half, center + half], dim=-1)


def xyxy_to_cxcywh(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Convert corners to center and size, in any unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], dim=-1)


def box_iou_giou(
    first_xyxy: Float[Tensor, "*#n 4"], second_xyxy: Float[Tensor, "*#n 4"]
) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
    """Return element-wise IoU and generalized IoU (GIoU) of boxes, with broadcasting.

    Differs: published code builds the N x N matrix and takes its diagonal; this gives the same values in O(N). For a
    pair of empty boxes, where the formula divides by zero, IoU and GIoU are 0.
    Source: arXiv 1902.09630.
    """
    low = torch.maximum(first_xyxy[..., :2], second_xyxy[..., :2])
    high = torch.minimum(first_xyxy[..., 2:], second_xyxy[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = _area(first_xyxy) + _area(second_xyxy) - intersection
    low = torch.minimum(first_xyxy[..., :2], second_xyxy[..., :2])
    high = torch.maximum(first_xyxy[..., 2:], second_xyxy[..., 2:])
    hull = (high - low).clamp(min=0).prod(-1)
    iou = intersection / union.where(union > 0, torch.ones_like(union))
    return iou, iou - (hull - union) / hull.where(hull > 0, torch.ones_like(hull))


def _area(boxes_xyxy: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n"]:
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).prod(-1)
