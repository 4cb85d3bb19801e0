"""Positions and anchors of tokens, as constants for a fixed size or computed by the graph from the image's shape."""

from typing import NamedTuple

import numpy as np
import torch
from onnx import TensorProto

from rtdetr.config import STRIDES
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.models import RTDETR
from rtdetr.models.decoder import level_sizes
from rtdetr.models.positions import BASE_SIZE, EPS, sine_position_code

COARSEST = STRIDES[-1]
# the anchor of an invalid token: infinity in the network, here a number in the range of 16 bits; its sigmoid is 1
INVALID_ANCHOR = 1e4


class Tokens(NamedTuple):
    """Names of values that describe the s tokens of all maps, finest map first.

    position: float (tokens of the coarsest map, d), the encoder's position embedding.
    coarse_hw: height and width of the coarsest map, numbers or the name of an int64 (2,).
    coarse_count: number of tokens of the coarsest map, a number or the name of an int64 (1,).
    anchors: float32 (s, 4), logits of cxcywh.
    valid: float (s, 1), 1 if the anchor is valid, otherwise 0.
    sizes_wh: int64 (2, l), widths and heights of the maps.
    starts: int64 (1, l), first token of each map.
    count: int64, s.
    batch: int64, the number of images; None: one.
    """

    position: str
    coarse_hw: tuple[int, int] | str
    coarse_count: int | str
    anchors: str
    valid: str
    sizes_wh: str
    starts: str
    count: str
    batch: str | None


def fixed_tokens(g: GraphBuilder, network: RTDETR, size_hw: tuple[int, int], batch: str | None) -> Tokens:
    """Return the tokens of images of one size."""
    decoder, encoder = network.decoder, network.encoder.config
    sizes = level_sizes(size_hw, len(decoder.config.num_points))
    height, width = sizes[len(STRIDES) - 1]
    device = torch.device("cpu")
    anchors, valid = decoder.anchors_at(sizes, device, torch.float32)
    code = sine_position_code(height, width, encoder.width, encoder.temperature, device)
    areas = np.array([h * w for h, w in sizes])
    return Tokens(
        position=g.constant(code[0].numpy(), g.dtype),
        coarse_hw=(height, width),
        coarse_count=height * width,
        anchors=g.constant(anchors[0].masked_fill(~valid[0], INVALID_ANCHOR).numpy(), np.float32),
        valid=g.constant(valid[0].numpy(), g.dtype),
        sizes_wh=g.constant([[w for _, w in sizes], [h for h, _ in sizes]]),
        starts=g.constant([np.cumsum(areas) - areas]),
        count=g.constant(areas.sum()),
        batch=batch,
    )


def dynamic_tokens(g: GraphBuilder, network: RTDETR, shape: str, batch: str | None) -> Tokens:
    """Return the tokens of images of any size; `shape` is the shape of the images, int64 (4,)."""
    levels = len(network.decoder.config.num_points)
    coarse_hw = g.op("Div", g.op("Gather", shape, g.constant([2, 3])), g.constant([COARSEST]))
    sizes_wh = _sizes_wh(g, coarse_hw, levels)
    widths, heights = g.split(sizes_wh, (1, 1), axis=0)
    areas = g.op("Mul", widths, heights)
    ends = g.op("CumSum", areas, g.constant(1))
    starts = g.op("Sub", ends, areas)
    count = g.op("ReduceSum", areas, keepdims=0)
    centers, level = _centers(g, sizes_wh, starts, ends, count)
    anchors, valid = _anchors(g, centers, level, levels)
    return Tokens(
        position=_position_code(g, coarse_hw, network),
        coarse_hw=coarse_hw,
        coarse_count=g.op("ReduceProd", coarse_hw, keepdims=1),
        anchors=anchors,
        valid=valid,
        sizes_wh=sizes_wh,
        starts=starts,
        count=count,
        batch=batch,
    )


def _sizes_wh(g: GraphBuilder, coarse_hw: str, levels: int) -> str:
    """Widths and heights of the maps (2, l): the sides of the coarsest map times 4, 2 and 1; extra levels halve it."""
    wh = g.reshape(g.op("Gather", coarse_hw, g.constant([1, 0])), (2, 1))
    sizes = [g.op("Mul", wh, g.constant([[COARSEST // stride for stride in STRIDES]]))]
    for _ in range(levels - len(STRIDES)):
        wh = g.op("Div", g.op("Add", wh, g.constant([[1]])), g.constant([[2]]))
        sizes.append(wh)
    return g.op("Concat", *sizes, axis=1) if len(sizes) > 1 else sizes[0]


def _centers(g: GraphBuilder, sizes_wh: str, starts: str, ends: str, count: str) -> tuple[str, str]:
    """Center of each token as x and y in 0..1, float32 (2, s), and its level, int64 (s,)."""
    index = g.op("Range", g.constant(0), count, g.constant(1))
    passed = g.op("GreaterOrEqual", g.reshape(index, (-1, 1)), ends)  # (s, l): the levels that end before the token
    level = g.op("ReduceSum", g.op("Cast", passed, to=TensorProto.INT64), g.constant([1]), keepdims=0)
    own_wh = g.op("Gather", sizes_wh, level, axis=1)  # (2, s)
    own_width = g.op("Gather", own_wh, g.constant([0]), axis=0)
    local = g.op("Sub", index, g.op("Gather", starts, level, axis=1))  # (1, s), index within the map
    line, column = g.op("Div", local, own_width), g.op("Mod", local, own_width)
    pixels = g.op("Cast", g.op("Concat", column, line, axis=0), to=TensorProto.FLOAT)
    middle = g.op("Add", pixels, g.constant(0.5, np.float32))
    return g.op("Div", middle, g.op("Cast", own_wh, to=TensorProto.FLOAT)), level


def _anchors(g: GraphBuilder, centers: str, level: str, levels: int) -> tuple[str, str]:
    """Logits of the anchors (s, 4) and their validity (s, 1), like `make_anchors`."""
    sides = g.constant([[BASE_SIZE * 2.0**i for i in range(levels)]] * 2, np.float32)
    boxes = g.op("Concat", centers, g.op("Gather", sides, level, axis=1), axis=0)  # (4, s)
    inside = g.op(
        "And",
        g.op("Greater", boxes, g.constant(EPS, np.float32)),
        g.op("Less", boxes, g.constant(1 - EPS, np.float32)),
    )
    valid = g.reduce("ReduceMin", g.op("Cast", inside, to=TensorProto.FLOAT), 0, keepdims=True)  # (1, s)
    odds = g.op("Div", boxes, g.op("Sub", g.constant(1.0, np.float32), boxes))
    is_valid = g.op("Cast", valid, to=TensorProto.BOOL)
    logits = g.op("Where", is_valid, g.op("Log", odds), g.constant(INVALID_ANCHOR, np.float32))
    return g.transpose(logits, 1, 0), g.narrow(g.reshape(valid, (-1, 1)))


def _position_code(g: GraphBuilder, coarse_hw: str, network: RTDETR) -> str:
    """The sine embedding (s, d) of the coarsest map; cosines are computed as sines shifted by pi / 2."""
    config = network.encoder.config
    quarter = config.width // 4
    omega = 1.0 / config.temperature ** (np.arange(quarter) / quarter)
    none, turn = np.zeros(2 * quarter), np.full(quarter, np.pi / 2)
    phase = np.tile(np.concatenate([np.zeros(quarter), turn]), 2)
    angles = []
    for axis, factors in enumerate((np.concatenate([omega, omega, none]), np.concatenate([none, omega, omega]))):
        side = g.op("Gather", coarse_hw, g.constant(axis))
        indices = g.op("Cast", g.op("Range", g.constant(0), side, g.constant(1)), to=TensorProto.FLOAT)
        shaped = g.reshape(indices, (-1, 1, 1) if axis == 0 else (1, -1, 1))
        angles.append(g.op("Mul", shaped, g.constant(factors, np.float32)))
    turned = g.op("Add", angles[0], g.constant(phase, np.float32))
    code = g.op("Sin", g.op("Add", turned, angles[1]))  # (h, w, d)
    return g.narrow(g.reshape(code, (-1, config.width)))
