"""The training objective: three terms for each of the final, auxiliary, denoising and encoder outputs.

Source: arXiv 2304.08069 section 4 and the published RT-DETRv2 criterion; names of the terms are the published ones.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rtdetr import zoo
from rtdetr.boxes import box_iou_giou, cxcywh_to_xyxy
from rtdetr.config import LossConfig, ModelConfig
from rtdetr.devices import at_least_float32, not_compiled
from rtdetr.losses.classification import CLASSIFICATION_LOSSES, one_hot_rows
from rtdetr.losses.matcher import HungarianMatcher, Match, Matcher
from rtdetr.structures import DenoisingMeta, LayerOutput, RTDETROutput, Target


class Supervised(NamedTuple):
    """One set of predictions with its matched pairs, the suffix of its terms and their normalizer."""

    suffix: str
    layer: LayerOutput
    match: Match
    num_boxes: float
    agnostic: bool = False


class Criterion(nn.Module):
    """Weighted loss terms of a training output; their sum is the loss.

    Everything is computed in float32 or wider, independent of the model's type, and with autocast off.

    Args:
        config: weights and parameters of the terms.
        matcher: assigns objects to predictions; None: `HungarianMatcher(config)`.
        encoder_is_auxiliary: name the encoder's terms as v1 does.
    """

    def __init__(
        self, config: LossConfig, *, matcher: Matcher | None = None, encoder_is_auxiliary: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.matcher = matcher or HungarianMatcher(config)
        self.encoder_is_auxiliary = encoder_is_auxiliary

    @not_compiled
    def forward(
        self, output: RTDETROutput, targets: list[Target], *, num_boxes: float | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Return `loss_vfl` (or `loss_focal`, `loss_mal`), `loss_bbox`, `loss_giou` and their suffixed copies.

        Args:
            output: of a model in train mode.
            targets: ground truth, the same that the model was given.
            num_boxes: what to divide by, at least 1; default: the number of objects in `targets`. In distributed
                training: the mean over all processes.
        """
        with torch.autocast(output.logits.device.type, enabled=False):
            labels = torch.cat([t["labels"] for t in targets])
            boxes = torch.cat([t["boxes"] for t in targets])
            counts = [len(t["labels"]) for t in targets]
            normalizer = max(float(num_boxes if num_boxes is not None else len(labels)), 1.0)
            losses: dict[str, Tensor] = {}
            for item in self._supervised(output, labels, boxes, counts, normalizer):
                losses.update(self._terms(item, labels, boxes))
            return losses

    def _supervised(
        self, output: RTDETROutput, labels: Tensor, boxes: Tensor, counts: list[int], normalizer: float
    ) -> list[Supervised]:
        """Return all supervised outputs with their matches. Class-agnostic proposals match label 0."""
        final = LayerOutput(output.logits, output.boxes_cxcywh)
        shared = self.config.share_matched_indices
        agnostic = output.class_agnostic_encoder
        decoder = [final] if shared else [final, *output.auxiliary]
        matches = self.matcher([*decoder, *([] if agnostic else output.encoder)], labels, boxes, counts)
        if agnostic:
            matches += self.matcher(list(output.encoder), torch.zeros_like(labels), boxes, counts)
        items = [Supervised("", final, matches[0], normalizer)]
        for i, layer in enumerate(output.auxiliary):
            items.append(Supervised(f"_aux_{i}", layer, matches[0] if shared else matches[1 + i], normalizer))
        suffix = f"_aux_{len(output.auxiliary)}" if self.encoder_is_auxiliary else "_enc_0"
        encoder = [
            Supervised(suffix, layer, pairs, normalizer, agnostic)
            for layer, pairs in zip(output.encoder, matches[len(decoder) :], strict=True)
        ]
        denoising = []
        if output.denoising_meta is not None:
            pairs = denoising_match(output.denoising_meta, counts, labels.device)
            divisor = normalizer * output.denoising_meta.num_groups
            denoising = [Supervised(f"_dn_{i}", layer, pairs, divisor) for i, layer in enumerate(output.denoising)]
        items += encoder + denoising if self.encoder_is_auxiliary else denoising + encoder
        return items

    def _terms(self, item: Supervised, labels: Tensor, boxes_cxcywh: Tensor) -> dict[str, Tensor]:
        wide = at_least_float32(item.layer.logits.dtype)
        logits, pairs = item.layer.logits.to(wide), item.match
        predicted = item.layer.boxes_cxcywh[pairs.image, pairs.query].to(wide)
        target = boxes_cxcywh[pairs.object].to(wide)
        iou, giou = box_iou_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(target))
        classes = torch.zeros_like(labels) if item.agnostic else labels
        classification = self._classification(logits, pairs, classes[pairs.object], iou.detach(), giou.detach())
        giou_loss = 1 - giou
        if self.config.boxes_weight_format is not None:
            giou_loss = giou_loss * (iou if self.config.boxes_weight_format == "iou" else giou).detach()
        terms = {
            f"loss_{self.config.classification}": classification * self.config.classification_weight,
            "loss_bbox": (predicted - target).abs().sum() * self.config.bbox_weight,
            "loss_giou": giou_loss.sum() * self.config.giou_weight,
        }
        return {name + item.suffix: value / item.num_boxes for name, value in terms.items()}

    def _classification(
        self, logits: Tensor, pairs: Match, labels: Int64[Tensor, " m"], iou: Tensor, giou: Tensor
    ) -> Tensor:
        one_hot = one_hot_rows(logits.shape, (pairs.image, pairs.query, labels), logits)
        quality = logits.new_zeros(*logits.shape[:2], 1)
        quality[pairs.image, pairs.query, 0] = giou if self.config.boxes_weight_format == "giou" else iou
        return CLASSIFICATION_LOSSES[self.config.classification](logits, one_hot, quality, self.config)


def denoising_match(meta: DenoisingMeta, counts: list[int], device: torch.device) -> Match:
    """Return the matches of denoising queries, which are known by construction."""
    images, queries, objects, start = [], [], [], 0
    for i, count in enumerate(counts):
        query = meta.positive_indices[i]
        images.append(torch.full_like(query, i))
        queries.append(query)
        objects.append(meta.object_indices[i].repeat(meta.num_groups) + start)
        start += count
    return Match(*(torch.cat(x).to(device) for x in (images, queries, objects)))


def build_criterion(model: str | ModelConfig, *, loss: LossConfig | None = None) -> Criterion:
    """Build the criterion of a model.

    Args:
        model: a name of the zoo, or a configuration.
        loss: weights and parameters; default: the published recipe of the named model, else the RT-DETRv2 values.
    """
    config = zoo.model_config(model) if isinstance(model, str) else model
    if loss is None:
        loss = zoo.recipe(model).loss if isinstance(model, str) else LossConfig()
    return Criterion(loss, encoder_is_auxiliary=config.version == "v1")
