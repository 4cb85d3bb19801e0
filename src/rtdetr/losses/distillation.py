"""Knowledge distillation: loss terms that make a network agree with a trained one, its teacher.

- Guided: the student also decodes the teacher's queries (their tokens and reference boxes) and learns to predict the
  teacher's class probabilities and boxes for them, in every decoder layer and in the encoder proposals. No matching is
  needed, because both answer the same queries. Source: arXiv 2211.08071 (KD-DETR).
- Matched: the teacher's detections are matched to the student's queries, as annotated objects are, and the matched
  queries learn the class probabilities and boxes of these detections. Source: arXiv 2211.10156 (DETRDistill).
- Maps: the spatial attention of the encoder maps, the mean square over the channels, so that widths may differ.
  Source: arXiv 1612.03928.

Classes are compared by the quality focal loss (arXiv 2006.04388): cross-entropy with the teacher's probability, times
the difference to the power of gamma. Box losses are weighted by the teacher's score, above a minimum. Sums over the
queries are divided by the sum of these scores, about the number of objects that the teacher sees.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rtdetr.boxes import box_iou_giou, cxcywh_to_xyxy
from rtdetr.config import DistillationConfig
from rtdetr.devices import at_least_float32, not_compiled
from rtdetr.losses.matcher import Match, Matcher
from rtdetr.structures import Guidance, GuidedQueries, LayerOutput, RTDETROutput


class Distillation:
    """Weighted loss terms of a teacher, `loss_guided_*`, `loss_matched_*` and `loss_maps`, each summed over the layers.

    Everything is computed in float32 or wider.

    Args:
        config: weights and parameters of the terms.
        matcher: assigns the teacher's detections to the student's queries.
    """

    def __init__(self, config: DistillationConfig, *, matcher: Matcher) -> None:
        self.config = config
        self.matcher = matcher

    @not_compiled
    def __call__(
        self, output: RTDETROutput, guidance: Guidance, *, total_score: float, num_images: float
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms of a batch, or of a part of one.

        Args:
            output: of the student, in train mode, with the teacher's queries.
            guidance: of the teacher, for the same images.
            total_score: `score` of the whole batch over all processes, at least 1, divided by the number of processes.
            num_images: images of the whole batch; in distributed training: the mean over all processes.
        """
        config = self.config
        terms: dict[str, Tensor] = {}
        with torch.autocast(output.logits.device.type, enabled=False):
            if config.guided_weight:
                terms |= self._guided(output, guidance, config.guided_weight / total_score)
            if config.matched_weight:
                terms |= self._matched(output, guidance, config.matched_weight / total_score)
            if config.maps_weight:
                maps = attention_loss(output.encoder_maps, guidance.encoder_maps)
                terms["loss_maps"] = config.maps_weight / num_images * maps
        return terms

    def queries(self, guidance: Guidance) -> GuidedQueries:
        """Return the teacher's queries that the student must decode: none if the guided terms have no weight."""
        tokens, boxes_cxcywh = guidance.queries
        return guidance.queries if self.config.guided_weight else GuidedQueries(tokens[:, :0], boxes_cxcywh[:, :0])

    def score(self, guidance: Guidance) -> float:
        """Return the sum of the teacher's scores that are high enough to count."""
        return self._counting(guidance.scores).sum().item()

    def _counting(self, scores: Tensor) -> Tensor:
        """Return scores, 0 for those that are too low to count."""
        return scores * (scores >= self.config.min_score)

    def _guided(self, output: RTDETROutput, guidance: Guidance, weight: float) -> dict[str, Tensor]:
        """Every layer answers the teacher's queries, in their order."""
        total: dict[str, Tensor] = {}
        for i, layer in enumerate(output.guided):
            expected = guidance.probabilities
            if i == 0 and output.class_agnostic_encoder:  # the proposals have one class
                if len(guidance.labels) < output.logits.shape[-1]:
                    continue  # a proposal of an object that the teacher does not know is not wrong
                logits, expected = layer.logits, expected.amax(-1, keepdim=True)
            else:
                logits = layer.logits[..., guidance.labels]
            scores = self._counting(guidance.scores)
            found = self._terms(logits, layer.boxes_cxcywh, expected, guidance.boxes_cxcywh, scores)
            total = _added(total, found, suffix="guided", weight=weight)
        return total

    def _matched(self, output: RTDETROutput, guidance: Guidance, weight: float) -> dict[str, Tensor]:
        """Match the teacher's detections to the own queries of every layer."""
        scores = guidance.scores
        image, query = (scores >= self.config.min_score).nonzero(as_tuple=True)
        expected, boxes = guidance.probabilities[image, query], guidance.boxes_cxcywh[image, query]
        counts = torch.bincount(image, minlength=len(scores)).tolist()
        layers = [LayerOutput(output.logits, output.boxes_cxcywh), *output.auxiliary]
        labels = guidance.labels[expected.argmax(-1)]
        total: dict[str, Tensor] = {}
        for layer, pairs in zip(layers, self.matcher(layers, labels, boxes, counts), strict=True):
            found = self._terms(*_at(layer, pairs, guidance.labels), *(x[pairs.object] for x in (expected, boxes)))
            total = _added(total, found, suffix="matched", weight=weight)
        return total

    def _terms(
        self,
        logits: Float[Tensor, "*n c"],
        boxes_cxcywh: Float[Tensor, "*n 4"],
        expected: Float[Tensor, "*n c"],
        expected_cxcywh: Float[Tensor, "*n 4"],
        scores: Float[Tensor, "*n"] | None = None,
    ) -> dict[str, Tensor]:
        """Sums over all predictions; box losses are weighted by the scores, by default the highest probabilities."""
        wide = at_least_float32(logits.dtype)
        logits, predicted, expected, target = (x.to(wide) for x in (logits, boxes_cxcywh, expected, expected_cxcywh))
        scores = expected.amax(-1) if scores is None else scores.to(wide)
        difference = (expected - logits.detach().sigmoid()).abs().pow(self.config.gamma)
        entropy = F.binary_cross_entropy_with_logits(logits, expected, weight=difference, reduction="sum")
        pairs = (cxcywh_to_xyxy(x.flatten(0, -2)) for x in (predicted, target))
        giou = box_iou_giou(*pairs)[1].view_as(scores)
        return {
            "classification": self.config.classification_weight * entropy,
            "bbox": self.config.bbox_weight * (scores * (predicted - target).abs().sum(-1)).sum(),
            "giou": self.config.giou_weight * (scores * (1 - giou)).sum(),
        }


def attention_loss(
    maps: tuple[Float[Tensor, "b _ _ _"], ...], expected: tuple[Float[Tensor, "b _ _ _"], ...]
) -> Float[Tensor, ""]:
    """Squared distance of the normalized spatial attention of each map, summed over images and maps."""
    return torch.stack(
        [(_attention(own) - _attention(other)).square().sum() for own, other in zip(maps, expected, strict=True)]
    ).sum()


def _attention(x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b n"]:
    return F.normalize(x.to(at_least_float32(x.dtype)).square().mean(1).flatten(1), dim=1)


def _at(layer: LayerOutput, pairs: Match, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of these labels and the boxes of matched queries."""
    return layer.logits[pairs.image, pairs.query][:, labels], layer.boxes_cxcywh[pairs.image, pairs.query]


def _added(total: dict[str, Tensor], found: dict[str, Tensor], *, suffix: str, weight: float) -> dict[str, Tensor]:
    """Add weighted terms to a total."""
    named = {f"loss_{suffix}_{name}": weight * value for name, value in found.items()}
    return {name: value + total[name] if total else value for name, value in named.items()}
