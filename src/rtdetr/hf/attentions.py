"""Attention weights and inner states for whoever asks: computed again from a trace, since the network keeps none."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtdetr.devices import at_least_float32
from rtdetr.models import RTDETR
from rtdetr.models.decoder import RTDETRDecoder
from rtdetr.models.deformable_attention import DeformableAttention
from rtdetr.models.layers import SelfAttention, map_to_tokens, tokens_to_map
from rtdetr.models.positions import sine_position_code
from rtdetr.structures import Trace


def encoder_fields(network: RTDETR, trace: Trace, *, attentions: bool, hidden_states: bool) -> dict[str, Any]:
    """Fields of the attention layers on the coarsest map: `encoder_hidden_states` and `encoder_attentions`."""
    encoder = network.encoder
    x = trace.coarsest_map
    assert x is not None
    height, width = x.shape[-2:]
    wide = at_least_float32(x.dtype)
    code = sine_position_code(height, width, x.shape[1], encoder.config.temperature, x.device, wide).to(x.dtype)
    tokens = map_to_tokens(x)
    states, weights = [tokens], []
    attending: Any = encoder.encoder[0]
    for layer in attending.layers:
        if attentions:
            weights.append(self_attention_weights(layer.self_attn, tokens, code, None))
        tokens = layer(tokens, code)
        states.append(tokens)
    maps = tuple(tokens_to_map(state, height, width) for state in states)
    return ({"encoder_hidden_states": maps} if hidden_states else {}) | (
        {"encoder_attentions": tuple(weights)} if attentions else {}
    )


def decoder_attentions(decoder: RTDETRDecoder, trace: Trace, *, first: int) -> dict[str, Any]:
    """Fields `decoder_attentions` and `cross_attentions` of the layers that ran, for the queries from `first` on."""
    own, cross = [], []
    layers: Any = zip(decoder.decoder.layers, trace.contents[:-1], trace.references_cxcywh[:-1], strict=False)
    for layer, content, reference in layers:
        position = decoder.query_pos_head(reference.to(content.dtype))
        weights = self_attention_weights(layer.self_attn, content, position, trace.allowed)
        own.append(weights[:, :, first:, first:])
        attended = layer.norm1(content + layer.self_attn(content, position, allowed=trace.allowed))
        cross.append(deformable_attention_weights(layer.cross_attn, attended + position)[:, first:])
    return {"decoder_attentions": tuple(own), "cross_attentions": tuple(cross)}


def self_attention_weights(module: SelfAttention, x: Tensor, position: Tensor, allowed: Tensor | None) -> Tensor:
    """Share of each token (b, heads, s, s) in what each token reads; rows add up to 1."""
    width = x.shape[-1]
    projected = F.linear(x + position, module.in_proj_weight[: 2 * width], module.in_proj_bias[: 2 * width])
    query, key = projected.unflatten(-1, (2, module.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (b, h, s, d/h)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(-1)


def deformable_attention_weights(module: DeformableAttention, query: Tensor) -> Tensor:
    """Share of each sampled point (b, q, heads, points); they add up to 1."""
    return module.attention_weights(query).unflatten(-1, (module.num_heads, sum(module.num_points))).softmax(-1)
