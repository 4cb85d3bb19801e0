"""Deformable attention as ONNX operators, with GridSample, or with Gather for engines without GridSample.

Coordinates are float32 in every graph: in 16 bits they are off by whole pixels.
"""

from typing import NamedTuple

import numpy as np
import torch
from onnx import TensorProto

from rtdetr.export.onnx.builder import GRID_SAMPLE_LINEAR_OPSET, GraphBuilder
from rtdetr.export.onnx.layers import apply, linear
from rtdetr.export.onnx.tokens import Tokens
from rtdetr.models.deformable_attention import OFFSET_SCALE, DeformableAttention

Values = list[str] | str  # values of one layer: maps (b, d, h, w) for GridSample, tokens (b, s, d) for Gather


class SamplingInput(NamedTuple):
    """Input of deformable attention: queries (b * q, d), float32 boxes (b * q, 4), q, and the module's name."""

    query: str
    boxes: str
    num_queries: int
    name: str


class PointLevels(NamedTuple):
    """Properties of the map of each point of each head, broadcast to points (n, h * p, 2, corners), x before y.

    extent: float32 (1, h * p, 2, 1), width and height.
    last: float32, width and height minus 1.
    line: int64 (1, h * p, 1, 1), number of rows of `Gather`'s table per line of pixels.
    first: int64, row of the map's first pixel for this head.
    """

    extent: str
    last: str
    line: str
    first: str


def sample(g: GraphBuilder, module: DeformableAttention, source: SamplingInput, values: Values, tokens: Tokens) -> str:
    """Add deformable attention: return the rows (b * q, d) that a layer samples from its values."""
    if isinstance(values, str):
        return _by_gather(g, module, source, values, tokens)
    return _by_grid(g, module, source, values)


def _by_grid(g: GraphBuilder, module: DeformableAttention, source: SamplingInput, values: list[str]) -> str:
    """Bilinear sampling with GridSample, all heads of all images as one batch."""
    query, boxes, num_queries, name = source
    heads, points = module.num_heads, module.num_points
    total, channels = sum(points), module.value_proj.out_features // heads
    # offsets and weights are sorted by head, so that one transpose handles both
    both = g.reshape(_projected(g, module, query, name, by_head=True), (-1, num_queries, heads, 3 * total))
    offsets, weights = g.split(g.transpose(both, 0, 2, 1, 3), (2 * total, total), axis=3)
    # grid coordinates are in -1..1, box coordinates in 0..1; the factor of the offsets is folded into their weights
    columns = g.constant([2, 3] * total + [0, 1] * total)
    per_point = g.reshape(g.op("Gather", boxes, columns, axis=1), (-1, 1, num_queries, 4 * total))
    extent, center = g.split(per_point, (2 * total, 2 * total), axis=3)
    two, one = g.constant(2.0, np.float32), g.constant(1.0, np.float32)
    origin = g.op("Sub", g.op("Mul", center, two), one)
    grid = g.op("Add", g.op("Mul", g.wide(offsets), extent), origin)
    grid = g.reshape(grid, (-1, num_queries, total, 2))  # (b * h, q, p, 2)
    mode = "linear" if g.opset >= GRID_SAMPLE_LINEAR_OPSET else "bilinear"
    sampled = []
    for value, locations in zip(values, g.split(grid, points, axis=2), strict=True):
        planes = g.wide(g.reshape(value, (-1, channels, 0, 0)))  # (b * h, c, height, width)
        sampled.append(g.op("GridSample", planes, locations, mode=mode, padding_mode="zeros", align_corners=0))
    shares = g.reshape(g.op("Softmax", weights, axis=-1), (-1, 1, num_queries, total))
    weighted = g.op("Mul", g.op("Concat", *sampled, axis=3), g.wide(shares))
    summed = g.op("ReduceSum", weighted, g.constant([3]), keepdims=0)  # (b * h, c, q)
    rows = g.transpose(g.reshape(summed, (-1, heads * channels, num_queries)), 0, 2, 1)
    return _output(g, module, rows, name)


def _by_gather(g: GraphBuilder, module: DeformableAttention, source: SamplingInput, value: str, tokens: Tokens) -> str:
    """Bilinear or discrete sampling with one Gather for all heads, levels and corners."""
    query, boxes, num_queries, name = source
    heads, total = module.num_heads, sum(module.num_points)
    channels = module.value_proj.out_features // heads
    levels = _point_levels(g, module, tokens)
    both = _projected(g, module, query, name, by_head=False)
    offsets, weights = g.split(both, (heads * total * 2, heads * total), axis=1)
    center, extent = g.split(g.reshape(boxes, (-1, 2, 2)), (1, 1), axis=1)  # (b * q, 1, 2)
    moved = g.op("Mul", g.wide(g.reshape(offsets, (-1, heads * total, 2))), extent)
    locations = g.reshape(g.op("Add", moved, center), (-1, heads * total, 2, 1))
    shares = g.op("Softmax", g.reshape(weights, (-1, heads, total)), axis=-1)
    shares = g.reshape(shares, (-1, heads * total, 1, 1))
    position = g.op("Mul", locations, levels.extent)
    if module.sampling == "discrete":
        corners = 1
        pixels = _inside(g, g.op("Floor", g.op("Add", position, g.constant(0.5, np.float32))), levels)
    else:
        corners = 4
        pixels, corner_shares = _corners(g, g.op("Sub", position, g.constant(0.5, np.float32)), levels)
        shares = g.op("Mul", corner_shares, shares)
    columns, lines = g.split(g.op("Cast", pixels, to=TensorProto.INT64), (1, 1), axis=2)
    lines = g.reshape(lines, (0, 0, -1, 1))  # broadcast with columns (b * q, h * p, 1, corners)
    across = g.op("Add", g.op("Mul", columns, g.constant(heads)), levels.first)
    table = g.op("Add", g.op("Mul", lines, levels.line), across)
    table = g.reshape(table, (-1, num_queries * heads * total * corners))  # (b, ...)
    if tokens.batch is not None:
        images = g.op("Range", g.constant(0), tokens.batch, g.constant(1))
        rows_each = g.op("Mul", tokens.count, g.constant(heads))
        table = g.op("Add", table, g.op("Mul", g.reshape(images, (-1, 1)), rows_each))
    value = g.reshape(value, (-1, channels))  # (b * s * h, c)
    picked = g.op("Gather", value, g.reshape(table, (-1,)), axis=0)
    picked = g.reshape(picked, (-1, total * corners, channels))  # (b * q * h, p * corners, c)
    summed = g.op("MatMul", g.reshape(shares, (-1, 1, total * corners)), picked)
    return _output(g, module, summed, name)


def _point_levels(g: GraphBuilder, module: DeformableAttention, tokens: Tokens) -> PointLevels:
    heads = module.num_heads
    level_of_point = [level for level, count in enumerate(module.num_points) for _ in range(count)] * heads
    head_of_point = np.repeat(np.arange(heads), sum(module.num_points)).reshape(1, -1, 1, 1)
    sizes = g.op("Gather", tokens.sizes_wh, g.constant(level_of_point), axis=1)  # (2, h * p)
    extent = g.reshape(g.op("Cast", g.transpose(sizes, 1, 0), to=TensorProto.FLOAT), (1, -1, 2, 1))
    widths = g.op("Gather", sizes, g.constant([0]), axis=0)
    starts = g.op("Gather", tokens.starts, g.constant(level_of_point), axis=1)
    scaled = g.op("Mul", g.reshape(starts, (1, -1, 1, 1)), g.constant(heads))
    return PointLevels(
        extent=extent,
        last=g.op("Sub", extent, g.constant(1.0, np.float32)),
        line=g.op("Mul", g.reshape(widths, (1, -1, 1, 1)), g.constant(heads)),
        first=g.op("Add", scaled, g.constant(head_of_point)),
    )


def _corners(g: GraphBuilder, position: str, levels: PointLevels) -> tuple[str, str]:
    """Return the lower and upper pixel (b * q, h * p, 2, 2) around a position, and the corner weights (.., y, x)."""
    around = g.op("Add", g.op("Floor", position), g.constant([0.0, 1.0], np.float32))
    pixels = _inside(g, around, levels)
    distance = g.op("Abs", g.op("Sub", around, position))
    shares = g.op("Sub", g.constant(1.0, np.float32), distance)
    shares = g.op("Where", g.op("Equal", around, pixels), shares, g.constant(0.0, np.float32))  # zero outside the map
    share_x, share_y = g.split(g.narrow(shares), (1, 1), axis=2)
    return pixels, g.op("Mul", g.reshape(share_y, (0, 0, -1, 1)), share_x)


def _inside(g: GraphBuilder, pixels: str, levels: PointLevels) -> str:
    """Clamp pixel coordinates to the map."""
    return g.op("Min", g.op("Max", pixels, g.constant(0.0, np.float32)), levels.last)


def _projected(g: GraphBuilder, module: DeformableAttention, query: str, name: str, *, by_head: bool) -> str:
    """Compute sampling offsets and attention logits with one Gemm.

    Offsets are in units of the box or, with `by_head`, of half the box, as grids need. Columns are the offsets of all
    heads, then the logits of all heads; with `by_head`, offsets and logits of the first head, then of the second, ...
    """
    heads = module.num_heads
    factor = module.num_points_scale.repeat(heads).repeat_interleave(2) * OFFSET_SCALE * (2 if by_head else 1)
    offsets, shares = module.sampling_offsets, module.attention_weights
    weight, bias = offsets.weight * factor[:, None], offsets.bias * factor
    if by_head:
        weight = torch.cat([weight.unflatten(0, (heads, -1)), shares.weight.unflatten(0, (heads, -1))], 1).flatten(0, 1)
        bias = torch.cat([bias.view(heads, -1), shares.bias.view(heads, -1)], 1).flatten()
    else:
        weight, bias = torch.cat([weight, shares.weight]), torch.cat([bias, shares.bias])
    return linear(g, query, weight, bias, f"{name}.points")


def _output(g: GraphBuilder, module: DeformableAttention, rows: str, name: str) -> str:
    flat = g.narrow(g.reshape(rows, (-1, module.output_proj.in_features)))
    return apply(g, module.output_proj, flat, f"{name}.output_proj")
