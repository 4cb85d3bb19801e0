"""Contrastive denoising: noisy copies of the ground truth as extra queries in training.

Source: arXiv 2203.03605 section 3.3; layout of the published RT-DETRv2 implementation.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rtdetr.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from rtdetr.config import DecoderConfig
from rtdetr.devices import not_compiled
from rtdetr.models.positions import inverse_sigmoid
from rtdetr.structures import DenoisingMeta, Target

PLACEHOLDER = (0.5, 0.5, 0.1, 0.1)  # keeps the embedding in the graph if no image has an object


class DenoisingQueries(NamedTuple):
    """Extra queries in front of the matching queries, and the attention mask (True: may attend)."""

    content: Float[Tensor, "b n d"]
    reference_logits: Float[Tensor, "b n 4"]
    allowed: Bool[Tensor, "m m"]
    meta: DenoisingMeta


@not_compiled
def make_denoising_queries(
    targets: list[Target],
    embedding: nn.Embedding,
    config: DecoderConfig,
    *,
    num_queries: int,
) -> DenoisingQueries:
    """Build the denoising queries of a batch.

    Each group contains every object twice: as a positive (noise below half the box size) and as a negative (noise above
    it). Noise is drawn in float32 from torch's default generator of the embedding's device.

    Differs: if an image has more than `num_denoising` objects, a random selection of `num_denoising` is used, so there
    are never more than 2 * num_denoising queries. Published code uses all objects, as does `denoise_every_object`.
    `box_noise_scale` 0 works.

    Args:
        targets: ground truth of each image.
        embedding: num_classes + 1 rows; the last one stands for "no object".
        config: num_denoising, label_noise_ratio and box_noise_scale.
        num_queries: matching queries that follow the denoising ones.
    """
    device = embedding.weight.device
    counts = [len(target["labels"]) for target in targets]
    limit = max(counts) if config.denoise_every_object else config.num_denoising
    chosen = [_choose(count, limit, device) for count in counts]
    most = max(len(index) for index in chosen)
    groups = max(1, config.num_denoising // most) if most else 1
    size = max(most, 1)
    labels, boxes, real = _padded(targets, chosen, size, embedding.num_embeddings - 1, device)
    if most == 0:
        boxes[:] = boxes.new_tensor(PLACEHOLDER)
    labels, boxes, real = (x.repeat(1, 2 * groups, *[1] * (x.ndim - 2)) for x in (labels, boxes, real))
    negative = (torch.arange(2 * size * groups, device=device) // size) % 2 == 1
    positives = tuple(
        (torch.arange(groups, device=device)[:, None] * 2 * size + torch.arange(len(index), device=device)).flatten()
        for index in chosen
    )
    labels = _noisy_labels(labels, real, config.label_noise_ratio, embedding.num_embeddings - 1)
    boxes = _noisy_boxes(boxes, negative, config.box_noise_scale)
    meta = DenoisingMeta(positives, tuple(chosen), groups, 2 * size * groups)
    allowed = _allowed(meta.num_queries, num_queries, 2 * size, device)
    return DenoisingQueries(embedding(labels), inverse_sigmoid(boxes), allowed, meta)


def _choose(count: int, limit: int, device: torch.device) -> Tensor:
    """Return the indices of the objects that get denoising queries: all, or a random `limit` of them, ascending."""
    if count <= limit:
        return torch.arange(count, device=device)
    return torch.randperm(count, device=device)[:limit].sort().values


def _padded(
    targets: list[Target], chosen: list[Tensor], size: int, no_object: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return padded labels (b, g), boxes (b, g, 4) float32, and a mask of real entries (b, g)."""
    labels = torch.full((len(targets), size), no_object, dtype=torch.int64, device=device)
    boxes = torch.zeros(len(targets), size, 4, device=device)
    real = torch.zeros(len(targets), size, dtype=torch.bool, device=device)
    for i, (target, index) in enumerate(zip(targets, chosen, strict=True)):
        labels[i, : len(index)] = target["labels"][index]
        boxes[i, : len(index)] = target["boxes"][index].float()
        real[i, : len(index)] = True
    return labels, boxes, real


def _noisy_labels(labels: Tensor, real: Tensor, ratio: float, num_classes: int) -> Tensor:
    """Replace the class of half of `ratio` of the real entries by a random one, possibly the same."""
    if ratio <= 0:
        return labels
    swap = torch.rand(labels.shape, device=labels.device) < ratio * 0.5
    other = torch.randint(0, num_classes, labels.shape, dtype=torch.int32, device=labels.device)
    return torch.where(swap & real, other.long(), labels)


def _noisy_boxes(boxes: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Move every corner coordinate by up to half the box size (positives), or by 1/2 to 1 times the size (negatives).

    The corners of a negative may change places; its size is then clipped to the smallest value of the inverse sigmoid,
    as published.
    """
    if scale <= 0:
        return boxes
    reach = boxes[..., 2:].repeat(1, 1, 2) * 0.5 * scale
    sign = torch.randint(0, 2, boxes.shape, dtype=boxes.dtype, device=boxes.device) * 2 - 1
    part = torch.rand(boxes.shape, device=boxes.device) + negative[:, None].to(boxes.dtype)
    return xyxy_to_cxcywh((cxcywh_to_xyxy(boxes) + sign * part * reach).clamp(0, 1))


def _allowed(num_denoising: int, num_queries: int, group: int, device: torch.device) -> Tensor:
    """Attention mask: matching queries attend to each other, denoising queries to their group and matching queries."""
    index = torch.arange(num_denoising + num_queries, device=device)
    block = torch.where(index < num_denoising, index // group, -1)
    return (block[:, None] == block[None]) | (block[None] == -1)
