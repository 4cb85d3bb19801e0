"""Layers, backbones and the encoder as ONNX operators: for each module of a fused network, the nodes that compute it.

The output of a module has the module's name in the graph. Maps are (b, c, h, w); tokens are rows (b * s, d), so that a
linear layer is one Gemm.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rtdetr.errors import ExportError
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.tokens import Tokens
from rtdetr.export.torch_onnx import torch_graph
from rtdetr.models.backbone import Backbone
from rtdetr.models.fuse import FusedRepVGG
from rtdetr.models.hgnetv2 import Block, ConvBN, LearnableAffine, LightConv, Stem
from rtdetr.models.hgnetv2 import Stage as HGStage
from rtdetr.models.hybrid_encoder import EncoderLayer, HybridEncoder
from rtdetr.models.layers import MLP, ConvNorm, SelfAttention
from rtdetr.models.presnet import BasicBlock, Bottleneck
from rtdetr.models.presnet import Stage as ResStage


def apply(g: GraphBuilder, module: nn.Module, x: str, name: str) -> str:
    """Add the nodes of a module with one input and one output, which are maps or rows of tokens.

    Raises:
        ExportError: the type of the module is not supported.
    """
    add = _adder(module)
    if add is None:
        raise ExportError(f"cannot export {name}: modules of type {type(module).__name__} have no ONNX conversion")
    with g.scope(name):
        return add(g, module, x, name)


def _adder(module: nn.Module) -> Callable[[GraphBuilder, Any, str, str], str] | None:
    return next((_ADD[kind] for kind in type(module).__mro__ if kind in _ADD), None)


def _is_known(module: nn.Module) -> bool:
    return _adder(module) is not None and all(map(_is_known, module if isinstance(module, nn.Sequential) else ()))


def linear(g: GraphBuilder, x: str, weight: Tensor, bias: Tensor, name: str) -> str:
    """Add a linear layer from rows (n, i) to rows (n, o)."""
    inputs = g.weight(weight, f"{name}.weight"), g.weight(bias, f"{name}.bias")
    return g.op("Gemm", x, *inputs, transB=1, name=name)


def convolution(g: GraphBuilder, module: nn.Conv2d, x: str, name: str) -> str:
    """Add a convolution, with or without bias."""
    inputs = [g.weight(module.weight, f"{name}.weight")]
    if module.bias is not None:
        inputs.append(g.weight(module.bias, f"{name}.bias"))
    top, left = (int(side) for side in module.padding)
    attributes = {"kernel_shape": module.kernel_size, "strides": module.stride, "pads": (top, left, top, left)}
    return g.op("Conv", x, *inputs, group=module.groups, name=name, **attributes)


def backbone(g: GraphBuilder, module: Backbone, x: str, name: str, *, example: Tensor) -> list[str]:
    """Add a backbone; return its maps of strides 8, 16 and 32. Unknown modules are converted by torch's exporter.

    Args:
        g: the graph.
        module: the backbone.
        x: the images.
        name: name of the module.
        example: images of the exported size.
    """
    groups = module.stem_and_stages()
    if not all(_is_known(part) for group in groups for part in group):
        return g.splice(torch_graph(module, example, opset=g.opset, half=g.half, name=name), x)
    names = {part: f"{name}.{path}" for path, part in module.named_modules()}
    maps = []
    for group in groups:
        for part in group:
            x = apply(g, part, x, names[part])
        maps.append(x)
    return maps[-3:]


def encoder(g: GraphBuilder, module: HybridEncoder, maps: list[str], tokens: Tokens) -> list[str]:
    """Add the encoder: from the backbone's maps to fused maps, finest first.

    Consecutive linear operations are merged. In the top-down path, the first convolutions of a fusion block are applied
    to the coarse map before upsampling, at a quarter of the cost, and to the fine map with the input projection folded
    into them.
    """
    name = "encoder"
    last = len(maps) - 1
    coarsest = apply(g, module.input_proj[last], maps[last], f"{name}.input_proj.{last}")
    fused = _attend(g, module, coarsest, tokens)
    laterals: list[str] = []
    for i, fine in enumerate(reversed(maps[:-1])):
        laterals.append(apply(g, module.lateral_convs[i], fused, f"{name}.lateral_convs.{i}"))
        block, path = module.fpn_blocks[i], f"{name}.fpn_blocks.{i}"
        weight, bias, sizes = _entry(block)
        coarse_weight, fine_weight = weight.chunk(2, dim=1)
        coarse = pointwise(g, laterals[-1], coarse_weight, None, sizes, f"{path}.coarse")
        folded = fold_projection(module.input_proj[last - 1 - i], fine_weight, bias)
        finer = pointwise(g, fine, *folded, sizes, f"{path}.fine")
        with g.scope(path):
            entry = [g.op("Add", x, _upsample(g, y)) for x, y in zip(finer, coarse, strict=True)]
            fused = _csp(g, block, entry, path)
    outputs = [fused]
    for i, coarse in enumerate(reversed(laterals)):
        smaller = apply(g, module.downsample_convs[i], outputs[-1], f"{name}.downsample_convs.{i}")
        block, path = module.pan_blocks[i], f"{name}.pan_blocks.{i}"
        with g.scope(path):
            joined = g.op("Concat", smaller, coarse, axis=1)
            outputs.append(_csp(g, block, pointwise(g, joined, *_entry(block), f"{path}.entry"), path))
    return outputs


def pointwise(
    g: GraphBuilder, x: str, weight: Tensor, bias: Tensor | None, sizes: Sequence[int], name: str
) -> list[str]:
    """Add 1x1 convolutions of the same map, with weight (o, i): one per size, or a single one if the graph merges them.

    `parts` returns the outputs one by one in both cases.
    """
    groups = (sum(sizes),) if g.merges_convolutions else tuple(sizes)
    outputs = []
    for i, kernel in enumerate(weight[:, :, None, None].split(groups)):
        own_name = name if len(groups) == 1 else f"{name}.{i}"
        inputs = [g.weight(kernel, f"{own_name}.weight")]
        if bias is not None:
            inputs.append(g.weight(bias.split(groups)[i], f"{own_name}.bias"))
        outputs.append(g.op("Conv", x, *inputs, kernel_shape=(1, 1), name=own_name))
    return outputs


def parts(g: GraphBuilder, maps: Sequence[str], sizes: Sequence[int]) -> tuple[str, ...]:
    """Return the maps of `pointwise`, split if they are merged."""
    return g.split(maps[0], sizes, axis=1) if len(maps) < len(sizes) else tuple(maps)


def fold_projection(projection: nn.Module, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one linear layer equal to a 1x1 projection followed by the given linear layer."""
    conv = projection.conv if isinstance(projection, ConvNorm) else projection
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None  # of a fused model
    return weight @ conv.weight.flatten(1), bias + weight @ conv.bias


def _entry(block: Any) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return weight (2 * hidden, i), bias and output channels of a fusion block's first two convolutions."""
    main, side = block.conv1.conv, block.conv2.conv
    weight = torch.cat([conv.weight.flatten(1) for conv in (main, side)])
    return weight, torch.cat([main.bias, side.bias]), (main.out_channels, side.out_channels)


def self_attention(
    g: GraphBuilder, module: SelfAttention, x: str, positioned: str, *, num_tokens: int | str, name: str
) -> str:
    """Add self-attention from rows (b * s, d) to rows.

    Args:
        g: the graph.
        module: the attention module.
        x: the rows.
        positioned: the rows plus their position embedding.
        num_tokens: s, a number or the name of an int64 (1,).
        name: name of the module.
    """
    heads, width = module.num_heads, module.in_proj_weight.shape[1]
    scales = torch.ones(2 * width, 1)
    scales[:width] = (width // heads) ** -0.5  # the scale of the scores is folded into the queries
    weight, bias = module.in_proj_weight, module.in_proj_bias
    query_key = linear(
        g, positioned, weight[: 2 * width] * scales, bias[: 2 * width] * scales[:, 0], f"{name}.query_key"
    )
    value = linear(g, x, weight[2 * width :], bias[2 * width :], f"{name}.value")
    query_key = g.op("Reshape", query_key, g.shape(-1, num_tokens, 2 * heads, width // heads))
    query, key = g.split(query_key, (heads, heads), axis=2)
    query, key = g.transpose(query, 0, 2, 1, 3), g.transpose(key, 0, 2, 3, 1)
    value = g.transpose(g.op("Reshape", value, g.shape(-1, num_tokens, heads, width // heads)), 0, 2, 1, 3)
    shares = g.op("Softmax", g.op("MatMul", query, key), axis=-1)  # (b, h, s, s)
    out = g.transpose(g.op("MatMul", shares, value), 0, 2, 1, 3)
    return apply(g, module.out_proj, g.reshape(out, (-1, width)), f"{name}.out_proj")


def _attend(g: GraphBuilder, module: HybridEncoder, x: str, tokens: Tokens) -> str:
    """Add the encoder layers on the coarsest map."""
    width = module.config.width
    rows = g.transpose(g.reshape(x, (0, 0, -1)), 0, 2, 1)  # (b, s, d)
    layers: Any = module.encoder[0].layers
    for i, layer in enumerate(layers):
        positioned = g.reshape(g.op("Add", rows, tokens.position), (-1, width))
        flat = g.reshape(rows, (-1, width))
        path = f"encoder.encoder.0.layers.{i}"
        with g.scope(path):
            flat = _encoder_layer(g, layer, flat, positioned, tokens, path)
        if i < len(layers) - 1:
            rows = g.op("Reshape", flat, g.shape(-1, tokens.coarse_count, width))
        x = flat
    sides = (tokens.coarse_hw,) if isinstance(tokens.coarse_hw, str) else tokens.coarse_hw
    map_last = g.op("Reshape", x, g.shape(-1, *sides, width))
    return g.op("Transpose", map_last, perm=(0, 3, 1, 2), name="encoder.encoder.0")


def _encoder_layer(g: GraphBuilder, layer: EncoderLayer, x: str, positioned: str, tokens: Tokens, name: str) -> str:
    attended = self_attention(
        g, layer.self_attn, x, positioned, num_tokens=tokens.coarse_count, name=f"{name}.self_attn"
    )
    x = apply(g, layer.norm1, g.finite(g.op("Add", x, attended)), f"{name}.norm1")
    hidden = g.activation(apply(g, layer.linear1, x, f"{name}.linear1"), "gelu")
    forward = apply(g, layer.linear2, hidden, f"{name}.linear2")
    return apply(g, layer.norm2, g.finite(g.op("Add", x, forward)), f"{name}.norm2")


def _upsample(g: GraphBuilder, x: str) -> str:
    """Double the size of a map by nearest-neighbor upsampling."""
    scales = g.constant([1.0, 1.0, 2.0, 2.0], np.float32)
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.op("Resize", x, "", scales, **attributes)


def _window(size: int, stride: int, padding: int) -> dict[str, Any]:
    """Attributes of a square pooling window."""
    return {"kernel_shape": (size, size), "strides": (stride, stride), "pads": (padding,) * 4}


def _sequential(g: GraphBuilder, module: nn.Sequential, x: str, name: str) -> str:
    for child_name, child in module.named_children():
        x = apply(g, child, x, f"{name}.{child_name}")
    return x


def _average_pool(g: GraphBuilder, module: Any, x: str, name: str) -> str:
    # its input maps have even sides, so the rounding of sizes makes no difference
    return g.op("AveragePool", x, name=name, **_window(module.kernel_size, module.stride, 0))


def _max_pool(g: GraphBuilder, module: Any, x: str, name: str) -> str:
    return g.op("MaxPool", x, name=name, **_window(module.kernel_size, module.stride, module.padding))


def _zero_pad(g: GraphBuilder, module: nn.ZeroPad2d, x: str, name: str) -> str:
    left, right, top, bottom = module.padding
    return g.op("Pad", x, g.constant((0, 0, top, left, 0, 0, bottom, right)), name=name)


def _layer_norm(g: GraphBuilder, module: nn.LayerNorm, x: str, name: str) -> str:
    inputs = g.weight(module.weight, f"{name}.weight"), g.weight(module.bias, f"{name}.bias")
    return g.layer_norm(x, *inputs, eps=module.eps, name=name)


def _linear(g: GraphBuilder, module: nn.Linear, x: str, name: str) -> str:
    return linear(g, x, module.weight, module.bias, name)


def _mlp(g: GraphBuilder, module: MLP, x: str, name: str) -> str:
    last = len(module.layers) - 1
    for i, layer in enumerate(module.layers):
        x = apply(g, layer, x, name if i == last else f"{name}.layers.{i}")
        x = g.activation(x, module.activation if i < last else None)
    return x


def _conv_norm(g: GraphBuilder, module: ConvNorm, x: str, name: str) -> str:
    return _conv_activation(g, module.conv, x, module.activation, name)


def _conv_activation(g: GraphBuilder, conv: nn.Conv2d, x: str, activation: str | None, name: str) -> str:
    """Add a convolution and its activation; the last of them has the module's name."""
    if activation is None:
        return convolution(g, conv, x, name)
    return g.activation(convolution(g, conv, x, f"{name}.conv"), activation, name=name)


def _residual(g: GraphBuilder, module: BasicBlock | Bottleneck, x: str, name: str) -> str:
    branch = x
    for child_name, child in module.named_children():
        if child_name.startswith("branch2"):
            branch = apply(g, child, branch, f"{name}.{child_name}")
    short = apply(g, module.short, x, f"{name}.short")
    return g.activation(g.finite(g.op("Add", branch, short)), "relu", name=name)


def _res_stage(g: GraphBuilder, module: ResStage, x: str, name: str) -> str:
    return _blocks(g, module.blocks, x, name)


def _blocks(g: GraphBuilder, blocks: nn.ModuleList, x: str, name: str) -> str:
    """Add consecutive blocks; the output of the last one has the stage's name."""
    for i, block in enumerate(blocks):
        x = apply(g, block, x, name if i == len(blocks) - 1 else f"{name}.blocks.{i}")
    return x


def _rep_vgg(g: GraphBuilder, module: FusedRepVGG, x: str, name: str) -> str:
    x = g.finite(convolution(g, module.conv, x, f"{name}.conv"))
    return g.activation(x, "silu", name=name)


def _csp(g: GraphBuilder, module: Any, entry: Sequence[str], name: str) -> str:
    """Add a fusion block after its first two convolutions; `entry` is their output, from `pointwise`."""
    activated = [g.activation(g.finite(x), module.conv1.activation) for x in entry]
    main, side = parts(g, activated, (module.conv1.conv.out_channels, module.conv2.conv.out_channels))
    main = apply(g, module.bottlenecks, main, f"{name}.bottlenecks")
    if isinstance(module.conv3, nn.Identity):
        return g.finite(g.op("Add", main, side, name=name))
    return apply(g, module.conv3, g.finite(g.op("Add", main, side)), name)


def _conv_bn(g: GraphBuilder, module: ConvBN, x: str, name: str) -> str:
    conv = module.conv
    if isinstance(conv, nn.Sequential):
        x, conv = apply(g, conv[0], x, f"{name}.pad"), conv[1]
    assert isinstance(conv, nn.Conv2d)  # of a fused model
    if not hasattr(module, "lab"):
        return _conv_activation(g, conv, x, module.activation, name)
    x = _conv_activation(g, conv, x, module.activation, f"{name}.act")
    return apply(g, module.lab, x, name)


def _learnable_affine(g: GraphBuilder, module: LearnableAffine, x: str, name: str) -> str:
    scaled = g.op("Mul", x, g.weight(module.scale, f"{name}.scale"))
    return g.op("Add", scaled, g.weight(module.bias, f"{name}.bias"), name=name)


def _hg_stem(g: GraphBuilder, module: Stem, x: str, name: str) -> str:
    x = apply(g, module.stem1, x, f"{name}.stem1")
    padded = g.op("Pad", x, g.constant((0, 0, 0, 0, 0, 0, 1, 1)))
    pooled = g.op("MaxPool", padded, **_window(2, 1, 0))
    branch = apply(g, module.stem2b, apply(g, module.stem2a, x, f"{name}.stem2a"), f"{name}.stem2b")
    x = apply(g, module.stem3, g.op("Concat", pooled, branch, axis=1), f"{name}.stem3")
    return apply(g, module.stem4, x, name)


def _light_conv(g: GraphBuilder, module: LightConv, x: str, name: str) -> str:
    return apply(g, module.conv2, apply(g, module.conv1, x, f"{name}.conv1"), name)


def _hg_block(g: GraphBuilder, module: Block, x: str, name: str) -> str:
    outputs = [x]
    for i, layer in enumerate(module.layers):
        outputs.append(apply(g, layer, outputs[-1], f"{name}.layers.{i}"))
    joined = g.op("Concat", *outputs, axis=1)
    squeezed = apply(g, module.aggregation_squeeze_conv, joined, f"{name}.squeezed")
    if not module.residual:
        return apply(g, module.aggregation_excitation_conv, squeezed, name)
    excited = apply(g, module.aggregation_excitation_conv, squeezed, f"{name}.excited")
    return g.finite(g.op("Add", excited, x, name=name))


def _hg_stage(g: GraphBuilder, module: HGStage, x: str, name: str) -> str:
    if hasattr(module, "downsample"):
        x = apply(g, module.downsample, x, f"{name}.downsample")
    return _blocks(g, module.blocks, x, name)


def _identity(g: GraphBuilder, module: nn.Identity, x: str, name: str) -> str:
    return x


_ADD: dict[type[nn.Module], Callable[[GraphBuilder, Any, str, str], str]] = {
    nn.Identity: _identity,
    nn.Sequential: _sequential,
    nn.Conv2d: convolution,
    nn.AvgPool2d: _average_pool,
    nn.MaxPool2d: _max_pool,
    nn.ZeroPad2d: _zero_pad,
    nn.LayerNorm: _layer_norm,
    nn.Linear: _linear,
    MLP: _mlp,
    ConvNorm: _conv_norm,
    BasicBlock: _residual,
    Bottleneck: _residual,
    ResStage: _res_stage,
    FusedRepVGG: _rep_vgg,
    ConvBN: _conv_bn,
    LearnableAffine: _learnable_affine,
    Stem: _hg_stem,
    LightConv: _light_conv,
    Block: _hg_block,
    HGStage: _hg_stage,
}
