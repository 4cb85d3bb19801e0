"""Classification losses on logits. Each returns a sum over all entries; the criterion divides by the object count."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rtdetr.config import LossConfig


def varifocal_loss(
    logits: Float[Tensor, "*n k"],
    one_hot: Float[Tensor, "*n k"],
    quality: Float[Tensor, "*n 1"],
    *,
    alpha: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """Binary cross-entropy towards the IoU of the matched box; negatives are weighted by their own score.

    Source: arXiv 2008.13367, with the published RT-DETR weighting.
    """
    target = one_hot * quality
    weight = alpha * logits.detach().sigmoid().pow(gamma) * (1 - one_hot) + target
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")


def matchability_aware_loss(
    logits: Float[Tensor, "*n k"],
    one_hot: Float[Tensor, "*n k"],
    quality: Float[Tensor, "*n 1"],
    *,
    gamma: float,
) -> Float[Tensor, ""]:
    """Binary cross-entropy towards IoU to the power of gamma; matched queries weigh 1. Source: arXiv 2412.04234."""
    target = (one_hot * quality).pow(gamma)
    weight = logits.detach().sigmoid().pow(gamma) * (1 - one_hot) + one_hot
    return F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")


def focal_loss(
    logits: Float[Tensor, "*n k"], one_hot: Float[Tensor, "*n k"], *, alpha: float, gamma: float
) -> Float[Tensor, ""]:
    """Sigmoid focal loss. Source: arXiv 1708.02002."""
    entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    probability = logits.sigmoid()
    miss = probability * (1 - one_hot) + (1 - probability) * one_hot
    balance = alpha * one_hot + (1 - alpha) * (1 - one_hot)
    return (balance * miss.pow(gamma) * entropy).sum()


def one_hot_rows(shape: torch.Size, index: tuple[Tensor, ...], like: Tensor) -> Tensor:
    """Zeros of `shape` in the type of `like`, with ones at `index`."""
    rows = like.new_zeros(shape)
    rows[index] = 1
    return rows


ClassificationLoss = Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]
CLASSIFICATION_LOSSES: dict[str, ClassificationLoss] = {
    "vfl": lambda logits, one_hot, quality, config: varifocal_loss(
        logits, one_hot, quality, alpha=config.alpha, gamma=config.gamma
    ),
    "focal": lambda logits, one_hot, quality, config: focal_loss(
        logits, one_hot, alpha=config.alpha, gamma=config.gamma
    ),
    "mal": lambda logits, one_hot, quality, config: matchability_aware_loss(
        logits, one_hot, quality, gamma=config.gamma
    ),
}
"""By name in `LossConfig.classification`; called with logits and one-hot rows (b, q, k), the overlap (b, q, 1) of each
matched query with its object, 0 elsewhere, and the settings. Returns the sum over all entries."""
