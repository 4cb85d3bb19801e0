"""The two ends of the ONNX graph: from an image to the network's input, from logits and boxes to detections."""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto
from torch import Tensor

from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.decoder import rows_of

MAX_DETECTIONS = 300


def resized(g: GraphBuilder, image: str, size_hw: tuple[int, int]) -> tuple[str, str]:
    """From uint8 (1, h, w, c) to float32 (1, c, *size_hw) in [0, 1] and the image's size, int64 (1, 2) as (w, h).

    Bilinear with antialiasing, rounded to whole numbers after each pass, as `rtdetr.preprocessing.resize` does. Two
    matrix products do it, because engines other than ONNX Runtime ignore the antialiasing of Resize.
    """
    planes = g.op("Cast", g.transpose(image, 0, 3, 1, 2), to=TensorProto.FLOAT)
    shape = g.op("Shape", image)
    lines, columns = (
        _blend(g, g.op("Gather", shape, g.constant(axis)), side) for axis, side in zip((1, 2), size_hw, strict=True)
    )
    half = g.constant(0.5, np.float32)
    narrowed = g.op("Floor", g.op("Add", g.op("MatMul", planes, g.transpose(columns, 1, 0)), half))
    pixels = g.op("Floor", g.op("Add", g.op("MatMul", lines, narrowed), half))
    images = g.op("Div", pixels, g.constant(255.0, np.float32))
    return images, g.op("Gather", shape, g.constant([[2, 1]]))


def _blend(g: GraphBuilder, length: str, side: int) -> str:
    """How much of each of `length` pixels goes into each of `side` pixels, float32 (side, length)."""
    one, half = g.constant(1.0, np.float32), g.constant(0.5, np.float32)
    extent = g.op("Cast", length, to=TensorProto.FLOAT)
    centers = g.op("Mul", g.constant((np.arange(side)[:, None] + 0.5) / side, np.float32), extent)
    reach = g.op("Max", g.op("Div", extent, g.constant(side, np.float32)), one)
    pixels = g.op("Cast", g.op("Range", g.constant(0), length, g.constant(1)), to=TensorProto.FLOAT)
    distance = g.op("Abs", g.op("Sub", g.op("Add", pixels, half), centers))
    shares = g.op("Relu", g.op("Sub", one, g.op("Div", distance, reach)))
    return g.op("Div", shares, g.op("ReduceSum", shares, g.constant([1]), keepdims=1))


def normalized(g: GraphBuilder, images: str, mean: Tensor | None, deviation: Tensor | None) -> str:
    """Subtract the mean and divide by the deviation of each channel, where the network does so."""
    images = g.narrow(images)
    if mean is not None:
        images = g.op("Sub", images, g.weight(mean, "pixel_mean"))
    if deviation is not None:
        images = g.op("Div", images, g.weight(deviation, "pixel_std"))
    return images


def raw_outputs(g: GraphBuilder, logits: str, boxes: str, *, num_queries: int, num_classes: int) -> None:
    """Logits (b, q, k) and normalized boxes (b, q, 4), float32."""
    g.op("Reshape", g.wide(logits), g.constant((-1, num_queries, num_classes)), name="logits")
    g.op("Reshape", boxes, g.constant((-1, num_queries, 4)), name="boxes")


class Best(NamedTuple):
    """The best detections of each image, best first, as values of the graph.

    logits: float32 (b, n).
    rows: of their queries among those of all images, int64 (b, n).
    count: n.
    """

    logits: str
    rows: str
    count: int


def best_pairs(g: GraphBuilder, logits: str, *, num_queries: int, num_classes: int, batch: str | None) -> Best:
    """The best pairs of a query and a class; adds the output `labels`."""
    pairs = num_queries * num_classes
    count = min(MAX_DETECTIONS, pairs)
    flat = g.wide(g.reshape(logits, (-1, pairs)))
    best, index = g.top_k(flat, count, ("best_logits", "best_index"))
    classes = g.constant(num_classes)
    query = g.op("Div", index, classes)
    g.op("Mod", index, classes, name="labels")
    return Best(best, rows_of(g, query, batch, g.constant(num_queries)), count)


def best_queries(g: GraphBuilder, logits: str, *, num_queries: int, num_classes: int, batch: str | None) -> Best:
    """The best queries, each with its best class; adds the output `labels`."""
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
    """Boxes in pixels and scores of the best detections; see `rtdetr.models.postprocess`."""
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
    g.op("Mul", scores, _survivors(g, scores, found.count, num_classes, nms_iou), name="scores")


def _survivors(g: GraphBuilder, scores: str, count: int, num_classes: int, nms_iou: float) -> str:
    """1 for what non-maximum suppression within each class keeps, else 0; float32 (b, n)."""
    own_class = g.op("Equal", g.reshape("labels", (-1, 1, count)), g.constant(np.arange(num_classes).reshape(1, -1, 1)))
    # one row per class, with the scores of the others' detections below the threshold
    by_class = g.op("Where", own_class, g.reshape(scores, (-1, 1, count)), g.constant(-1.0, np.float32))
    limits = g.constant([count]), g.constant([nms_iou], np.float32), g.constant([0.0], np.float32)
    kept = g.op("NonMaxSuppression", "boxes", by_class, *limits)  # (m, 3): image, class, detection
    place = g.op("Gather", kept, g.constant([0, 2]), axis=1)
    nothing = g.op("Mul", scores, g.constant(0.0, np.float32))
    one_each = g.op(
        "Cast", g.op("Greater", g.op("Gather", kept, g.constant(0), axis=1), g.constant(-1)), to=TensorProto.FLOAT
    )
    return g.op("ScatterND", nothing, place, one_each)
