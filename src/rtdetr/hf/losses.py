"""Training loss of the `rtdetr.hf` models: the published loss, or that of transformers, with transformers names."""

import torch
import torch.distributed
import transformers
from torch import Tensor

from rtdetr.config import LossConfig
from rtdetr.devices import not_compiled
from rtdetr.losses import Criterion
from rtdetr.structures import RTDETROutput, Target


def criterion_of(config: transformers.RTDetrV2Config) -> Criterion:
    """Build the loss of a configuration; terms have transformers names, with the encoder as the last `_aux_`."""
    loss = LossConfig(
        classification_weight=config.weight_loss_vfl,
        bbox_weight=config.weight_loss_bbox,
        giou_weight=config.weight_loss_giou,
        alpha=config.focal_loss_alpha,
        gamma=config.focal_loss_gamma,
        match_class_cost=config.matcher_class_cost,
        match_bbox_cost=config.matcher_bbox_cost,
        match_giou_cost=config.matcher_giou_cost,
        match_alpha=config.matcher_alpha,
        match_gamma=config.matcher_gamma,
    )
    return Criterion(loss, encoder_is_auxiliary=True)


@not_compiled
def loss_terms(output: RTDETROutput, targets: list[Target], config: transformers.RTDetrV2Config) -> dict[str, Tensor]:
    """Return the weighted terms: loss_vfl, loss_bbox, loss_giou, and the same with `_aux_0`, ... and `_dn_0`, ...

    They are normalized by the number of objects: the mean over all processes, or that of this process only if
    `transformers_compatible_loss` is set. Without `auxiliary_loss`, only the first three are returned.
    """
    if not config.auxiliary_loss:
        output = output._replace(auxiliary=(), encoder=(), denoising=(), denoising_meta=None)
    num_boxes = float(sum(len(target["labels"]) for target in targets))
    if not getattr(config, "transformers_compatible_loss", False):
        num_boxes = _mean_over_processes(num_boxes, output.logits.device)
    return criterion_of(config)(output, targets, num_boxes=num_boxes)


def _mean_over_processes(number: float, device: torch.device) -> float:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return number
    total = torch.tensor(number, device=device)
    torch.distributed.all_reduce(total)
    return total.item() / torch.distributed.get_world_size()
