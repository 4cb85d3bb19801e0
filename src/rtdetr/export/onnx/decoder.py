"""The decoder as ONNX operators. Queries are rows (b * q, d); reference boxes stay float32 logits between layers.

The network adds box deltas to the `inverse_sigmoid` of a sigmoid; adding to logits needs one operator instead of six.
"""

import math

import numpy as np
import torch

from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.layers import apply, fold_projection, parts, pointwise, self_attention
from rtdetr.export.onnx.sampling import SamplingInput, Values, sample
from rtdetr.export.onnx.tokens import Tokens
from rtdetr.models.decoder import DecoderLayer, RTDETRDecoder
from rtdetr.models.layers import linears

EPS = 1e-5  # of `inverse_sigmoid`: logits are clipped to probabilities in [EPS, 1 - EPS]
NAME = "decoder"


def decoder(
    g: GraphBuilder, module: RTDETRDecoder, maps: list[str], tokens: Tokens, *, gather: bool
) -> tuple[str, str]:
    """Add the decoder: from the encoder's maps to class logits (b * q, k) and boxes.

    Boxes are float32 (b * q, 4), normalized cxcywh.
    """
    layers = _layers(module)
    gather = gather or layers[0].cross_attn.sampling == "discrete"
    values, memory = _project_maps(g, module, maps, gather=gather)
    x, box_logits = _select_queries(g, module, memory, tokens)
    boxes = g.op("Sigmoid", box_logits)
    for i, layer in enumerate(layers):
        position = apply(g, module.query_pos_head, g.narrow(boxes), f"{NAME}.query_pos_head")
        name = f"{NAME}.decoder.layers.{i}"
        with g.scope(name):
            x = _self_attention(g, layer, x, position, module.num_queries, name)
            source = SamplingInput(g.op("Add", x, position), boxes, module.num_queries, f"{name}.cross_attn")
            sampled = sample(g, layer.cross_attn, source, values[i], tokens)
            x = _feed_forward(g, layer, x, sampled, name)
        limit = math.log((1 - EPS) / EPS)
        bounds = g.constant(-limit, np.float32), g.constant(limit, np.float32)
        delta = g.wide(apply(g, module.dec_bbox_head[i], x, f"{NAME}.dec_bbox_head.{i}"))
        box_logits = g.op("Add", g.op("Clip", box_logits, *bounds), delta)
        boxes = g.op("Sigmoid", box_logits)
    last = len(layers) - 1
    return apply(g, module.dec_score_head[last], x, f"{NAME}.dec_score_head.{last}"), boxes


def _self_attention(g: GraphBuilder, layer: DecoderLayer, x: str, position: str, num_queries: int, name: str) -> str:
    positioned = g.op("Add", x, position)
    attended = self_attention(g, layer.self_attn, x, positioned, num_tokens=num_queries, name=f"{name}.self_attn")
    return apply(g, layer.norm1, g.finite(g.op("Add", x, attended)), f"{name}.norm1")


def _feed_forward(g: GraphBuilder, layer: DecoderLayer, x: str, sampled: str, name: str) -> str:
    x = apply(g, layer.norm2, g.finite(g.op("Add", x, sampled)), f"{name}.norm2")
    hidden = g.activation(apply(g, layer.linear1, x, f"{name}.linear1"), layer.activation)
    forward = apply(g, layer.linear2, hidden, f"{name}.linear2")
    return apply(g, layer.norm3, g.finite(g.op("Add", x, forward)), name)


def _project_maps(g: GraphBuilder, module: RTDETRDecoder, maps: list[str], *, gather: bool) -> tuple[list[Values], str]:
    """Return the values of each layer, and the tokens (b, s, d) for query selection, without their bias.

    The input projection is folded into the linear layers after it. Where the graph merges convolutions, one per level
    computes the values of all layers.
    """
    width, readers = module.config.width, [layer.cross_attn.value_proj for layer in _layers(module)]
    first = linears(module.enc_output)[0]
    weight = torch.cat([*(reader.weight for reader in readers), first.weight])
    bias = torch.cat([*(reader.bias for reader in readers), torch.zeros(width)])
    sizes = (width,) * (len(readers) + 1)
    levels, projected = [], ""
    for i, project in enumerate(module.input_proj):
        level_weight, level_bias, name = weight, bias, f"{NAME}.input_proj.{i}.values"
        if i < len(maps):
            source, (level_weight, level_bias) = maps[i], fold_projection(project, weight, bias)
        else:  # extra levels are computed from the previous level
            source = projected = apply(g, project, projected or maps[-1], f"{NAME}.input_proj.{i}")
        levels.append(parts(g, pointwise(g, source, level_weight, level_bias, sizes, name), sizes))
    *values, memory = (list(per_layer) for per_layer in zip(*levels, strict=True))
    tokens = _tokens(g, memory)
    return [_tokens(g, one) if gather else one for one in values], tokens


def _tokens(g: GraphBuilder, maps: list[str]) -> str:
    """Return the tokens of all maps, (b, s, d)."""
    return g.transpose(g.op("Concat", *(g.reshape(x, (0, 0, -1)) for x in maps), axis=2), 0, 2, 1)


def _layers(module: RTDETRDecoder) -> list[DecoderLayer]:
    return [layer for layer in module.decoder.layers if isinstance(layer, DecoderLayer)]


def _select_queries(g: GraphBuilder, module: RTDETRDecoder, memory: str, tokens: Tokens) -> tuple[str, str]:
    """Return content (b * q, d) and box logits (b * q, 4) of the selected tokens."""
    width, queries = module.config.width, module.num_queries
    first, norm = linears(module.enc_output)[0], module.enc_output[1]
    bias = g.weight(first.bias, f"{NAME}.enc_output.proj.bias")
    valid = g.op("Add", g.reshape(g.op("Mul", memory, tokens.valid), (-1, width)), bias)
    features = apply(g, norm, valid, f"{NAME}.enc_output")
    logits = apply(g, module.enc_score_head, features, f"{NAME}.enc_score_head")  # (b * s, k)
    method, columns = module.config.query_selection, 1
    if method == "default":
        logits = g.reduce("ReduceMax", logits, -1, keepdims=True)
    elif method == "one2many":
        columns = module.num_classes
    per_image = g.op("Reshape", g.wide(logits), g.shape(-1, _scores_per_image(g, tokens.count, columns)))
    _, index = g.top_k(per_image, queries, ("TopK_values", "TopK_index"))
    if method == "one2many":
        index = g.op("Div", index, g.constant(columns))
    own_index = g.reshape(index, (-1,))
    row = g.reshape(rows_of(g, index, tokens.batch, tokens.count), (-1,))
    content = g.op("Gather", features, row, axis=0)
    delta = g.wide(apply(g, module.enc_bbox_head, content, f"{NAME}.enc_bbox_head"))
    box_logits = g.op("Add", delta, g.op("Gather", tokens.anchors, own_index, axis=0))
    if module.config.learned_queries:
        content = _learned_content(g, module, tokens)
    return content, box_logits


def _scores_per_image(g: GraphBuilder, count: str, columns: int) -> str:
    """Number of scores per image, int64 (1,)."""
    return g.reshape(g.op("Mul", count, g.constant(columns)), (1,))


def _learned_content(g: GraphBuilder, module: RTDETRDecoder, tokens: Tokens) -> str:
    """Return the learned content, the same for every image."""
    content = g.weight(module.tgt_embed.weight[: module.num_queries], f"{NAME}.tgt_embed.weight")
    if tokens.batch is None:
        return content
    copies = g.op("Expand", content, g.shape(g.reshape(tokens.batch, (1,)), 1, 1))
    return g.reshape(copies, (-1, module.config.width))


def rows_of(g: GraphBuilder, index: str, batch: str | None, count: str) -> str:
    """Convert indices (b, n) within an image to indices into the rows of all images, `count` rows per image."""
    if batch is None:
        return index
    images = g.reshape(g.op("Range", g.constant(0), batch, g.constant(1)), (-1, 1))
    return g.op("Add", index, g.op("Mul", images, count))
