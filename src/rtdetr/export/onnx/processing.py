"""Preprocessing and postprocessing in the ONNX graph: image to network input, logits and boxes to detections."""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto
from torch import Tensor

from rtdetr.detections import MAX_DETECTIONS
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.decoder import rows_of


def resize(g: GraphBuilder, image: str, size_hw: tuple[int, int]) -> tuple[str, str]:
    """Convert uint8 (1, h, w, c) to float32 (1, c, *size_hw) in [0, 1]; also return the size, int64 (1, 2) as (w, h).

    Bilinear with antialiasing, rounded to integers after each pass, like `rtdetr.preprocessing.resize`. Implemented as
    two matrix products, because engines other than ONNX Runtime ignore the antialiasing of Resize.
    """
    planes = g.op("Cast", g.transpose(image, 0, 3, 1, 2), to=TensorProto.FLOAT)
    shape = g.op("Shape", image)
    vertical, horizontal = (
        _resize_weights(g, g.op("Gather", shape, g.constant(axis)), side)
        for axis, side in zip((1, 2), size_hw, strict=True)
    )
    half = g.constant(0.5, np.float32)
    narrowed = g.op("Floor", g.op("Add", g.op("MatMul", planes, g.transpose(horizontal, 1, 0)), half))
    pixels = g.op("Floor", g.op("Add", g.op("MatMul", vertical, narrowed), half))
    images = g.op("Div", pixels, g.constant(255.0, np.float32))
    return images, g.op("Gather", shape, g.constant([[2, 1]]))


def _resize_weights(g: GraphBuilder, length: str, side: int) -> str:
    """Weights of `length` input pixels for each of `side` output pixels, float32 (side, length)."""
    one, half = g.constant(1.0, np.float32), g.constant(0.5, np.float32)
    extent = g.op("Cast", length, to=TensorProto.FLOAT)
    centers = g.op("Mul", g.constant((np.arange(side)[:, None] + 0.5) / side, np.float32), extent)
    reach = g.op("Max", g.op("Div", extent, g.constant(side, np.float32)), one)
    pixels = g.op("Cast", g.op("Range", g.constant(0), length, g.constant(1)), to=TensorProto.FLOAT)
    distance = g.op("Abs", g.op("Sub", g.op("Add", pixels, half), centers))
    shares = g.op("Relu", g.op("Sub", one, g.op("Div", distance, reach)))
    return g.op("Div", shares, g.op("ReduceSum", shares, g.constant([1]), keepdims=1))


def normalize(g: GraphBuilder, images: str, mean: Tensor | None, deviation: Tensor | None) -> str:
    """Subtract the mean of each channel and divide by its standard deviation, if the network does so."""
    images = g.narrow(images)
    if mean is not None:
        images = g.op("Sub", images, g.weight(mean, "pixel_mean"))
    if deviation is not None:
        images = g.op("Div", images, g.weight(deviation, "pixel_std"))
    return images


def raw_outputs(g: GraphBuilder, logits: str, boxes: str, *, num_queries: int, num_classes: int) -> None:
    """Add the outputs `logits` (b, q, k) and normalized `boxes` (b, q, 4), float32."""
    g.op("Reshape", g.wide(logits), g.constant((-1, num_queries, num_classes)), name="logits")
    g.op("Reshape", boxes, g.constant((-1, num_queries, 4)), name="boxes")


class Best(NamedTuple):
    """The best detections of each image, best first, as values of the graph.

    logits: float32 (b, n).
    rows: indices of their queries among the queries of all images, int64 (b, n).
    count: n.
    """

    logits: str
    rows: str
    count: int


def best_pairs(g: GraphBuilder, logits: str, *, num_queries: int, num_classes: int, batch: str | None) -> Best:
    """Return the best query-class pairs; adds the output `labels`."""
    pairs = num_queries * num_classes
    count = min(MAX_DETECTIONS, pairs)
    flat = g.wide(g.reshape(logits, (-1, pairs)))
    best, index = g.top_k(flat, count, ("best_logits", "best_index"))
    classes = g.constant(num_classes)
    query = g.op("Div", index, classes)
    g.op("Mod", index, classes, name="labels")
    return Best(best, rows_of(g, query, batch, g.constant(num_queries)), count)


def best_queries(g: GraphBuilder, logits: str, *, num_queries: int, num_classes: int, batch: str | None) -> Best:
    """Return the best queries, each with its best class; adds the output `labels`."""
    count = min(MAX_DETECTIONS, num_queries)
    rows = g.wide(g.reshape(logits, (-1, num_classes)))
    highest, label = g.top_k(rows, 1, ("class_logit", "class_label"))
    by_image = g.reshape(highest, (-1, num_queries))
    best, query = g.top_k(by_image, count, ("best_logits", "best_query"))
    chosen = rows_of(g, query, batch, g.constant(num_queries))
    g.op("Gather", g.reshape(label, (-1,)), chosen, axis=0, name="labels")
    return Best(best, chosen, count)


def detections(
    g: GraphBuilder, found: Best, boxes: str, sizes_wh: str, *, nms_iou: float | None, num_classes: int
) -> None:
    """Add the outputs `boxes` in pixels and `scores` of the best detections; see `rtdetr.models.postprocess`."""
    center, extent = g.split(g.op("Gather", boxes, found.rows, axis=0), (2, 2), axis=2)
    half = g.op("Mul", extent, g.constant(0.5, np.float32))
    corners = g.op("Concat", g.op("Sub", center, half), g.op("Add", center, half), axis=2)
    sides = g.op("Cast", sizes_wh, to=TensorProto.FLOAT)
    scale = g.reshape(g.op("Concat", sides, sides, axis=1), (-1, 1, 4))
    g.op("Mul", corners, scale, name="boxes")
    if nms_iou is None:
        g.op("Sigmoid", found.logits, name="scores")
        return
    scores = g.op("Sigmoid", found.logits)
    g.op("Mul", scores, _nms_mask(g, scores, found.count, num_classes, nms_iou), name="scores")


def _nms_mask(g: GraphBuilder, scores: str, count: int, num_classes: int, nms_iou: float) -> str:
    """Return 1 for detections that per-class NMS keeps and 0 for the others, float32 (b, n)."""
    own_class = g.op("Equal", g.reshape("labels", (-1, 1, count)), g.constant(np.arange(num_classes).reshape(1, -1, 1)))
    # one row per class, in which detections of other classes have a score below the threshold
    by_class = g.op("Where", own_class, g.reshape(scores, (-1, 1, count)), g.constant(-1.0, np.float32))
    limits = g.constant([count]), g.constant([nms_iou], np.float32), g.constant([0.0], np.float32)
    kept = g.op("NonMaxSuppression", "boxes", by_class, *limits)  # (m, 3): image, class, detection
    index = g.op("Gather", kept, g.constant([0, 2]), axis=1)
    zeros = g.op("Mul", scores, g.constant(0.0, np.float32))
    ones = g.op(
        "Cast", g.op("Greater", g.op("Gather", kept, g.constant(0), axis=1), g.constant(-1)), to=TensorProto.FLOAT
    )
    return g.op("ScatterND", zeros, index, ones)
