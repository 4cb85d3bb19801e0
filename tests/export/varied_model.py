"""Networks with random weights whose scores and boxes differ from query to query, and how to compare two outputs."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from rtdetr.config import ModelConfig
from rtdetr.models import RTDETR, build_model
from rtdetr.models.deformable_attention import DeformableAttention


def varied_model(name: str | ModelConfig = "test-tiny", **changes) -> RTDETR:
    """A model in eval mode; as built, all its boxes are anchors and all its scores alike."""
    torch.manual_seed(0)
    model = build_model(name, **changes).eval()
    decoder = model.decoder
    with torch.no_grad():
        for parameter in (*decoder.dec_bbox_head.parameters(), *decoder.enc_bbox_head.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for head in (decoder.enc_score_head, *decoder.dec_score_head):
            head.weight.normal_(0, 0.3)
        for module in decoder.modules():
            if isinstance(module, DeformableAttention):
                module.sampling_offsets.weight.normal_(0, 0.1)
    return model


def assert_same_queries(found, expected, *, atol: float) -> None:
    """Compare logits and normalized boxes of each image as sets of queries: close scores may change places."""
    assert [np.shape(x) for x in found] == [np.shape(x) for x in expected]
    for one, other in zip(
        *(np.concatenate([np.asarray(x) for x in pair], -1) for pair in (found, expected)), strict=True
    ):
        distance = np.abs(one[:, None] - other[None]).max(-1)
        rows, columns = linear_sum_assignment(distance)
        assert distance[rows, columns].max() < atol


def assert_same_detections(found, expected, *, atol: float) -> None:
    """Compare labels, boxes in pixels and scores of each image as sets, but for those that tie with the last one."""
    assert [np.shape(x) for x in found] == [np.shape(x) for x in expected]
    for (labels, boxes, scores), (labels2, boxes2, scores2) in zip(
        zip(*map(np.asarray, found), strict=True), zip(*map(np.asarray, expected), strict=True), strict=True
    ):
        assert np.abs(np.sort(scores) - np.sort(scores2)).max() < atol
        # a hundredth of a pixel counts as much as 1e-5 of a score
        distance = np.maximum(np.abs(boxes[:, None] - boxes2[None]).max(-1) * 1e-3, np.abs(scores[:, None] - scores2))
        distance += labels[:, None] != labels2[None]
        rows, columns = linear_sum_assignment(distance)
        sure = scores[rows] > scores.min() + atol
        assert sure.any() or len(np.unique(scores)) == 1
        assert distance[rows, columns][sure].max(initial=0) < atol
