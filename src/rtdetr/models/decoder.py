"""The transformer decoder: query selection, denoising queries, and layers that refine the boxes iteratively.

Source: arXiv 2304.08069 section 4.3 and arXiv 2407.17140 section 3. Published class name: RTDETRTransformerv2.
"""

import copy
import functools
import math
from collections import OrderedDict
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rtdetr.config import STRIDES, DecoderConfig, ModelConfig
from rtdetr.devices import at_least_float32
from rtdetr.models.deformable_attention import DeformableAttention
from rtdetr.models.denoising import make_denoising_queries
from rtdetr.models.layers import MLP, ConvNorm, SelfAttention, activate, finite, linears, map_to_tokens
from rtdetr.models.positions import SizesHW, inverse_sigmoid, make_anchors
from rtdetr.models.query_selection import select_queries, take
from rtdetr.structures import DenoisingMeta, GuidedQueries, LayerOutput, RTDETROutput, Target, Trace

PRIOR = 0.01  # initial probability of every class


class DecoderLayer(nn.Module):
    """Post-norm layer: self-attention of the queries, deformable attention to the maps, feed-forward network."""

    def __init__(self, config: DecoderConfig, *, version: str) -> None:
        super().__init__()
        width = config.width
        self.self_attn = SelfAttention(width, config.num_heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn = DeformableAttention(config, version=version)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.norm3 = nn.LayerNorm(width)
        self.activation = config.activation
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        position: Float[Tensor, "b q d"],
        reference_cxcywh: Float[Tensor, "b q 4"],
        memory: Float[Tensor, "b s d"],
        sizes_hw: SizesHW,
        allowed: Bool[Tensor, "q q"] | None = None,
        trace: Trace | None = None,
    ) -> Float[Tensor, "b q d"]:
        keep_own = keep_cross = None
        if trace is not None and trace.with_attentions:
            keep_own = functools.partial(trace.keep, trace.self_attentions, (2, 3))
            keep_cross = functools.partial(trace.keep, trace.cross_attentions, (1,))
        x = self.norm1(finite(x + self.self_attn(x, position, allowed=allowed, keep=keep_own)))
        x = self.norm2(finite(x + self.cross_attn(x + position, reference_cxcywh, memory, sizes_hw, keep=keep_cross)))
        return self.norm3(finite(x + self.linear2(activate(self.linear1(x), self.activation))))


class DecoderLayers(nn.Module):
    """The decoder layers, initialized with equal weights."""

    def __init__(self, config: DecoderConfig, *, version: str) -> None:
        super().__init__()
        first = DecoderLayer(config, version=version)
        self.layers = nn.ModuleList(copy.deepcopy(first) if i else first for i in range(config.num_layers))


class ScoredTokens(NamedTuple):
    """The encoder's tokens: features, class logits before the sigmoid, and anchors as logits."""

    features: Float[Tensor, "b s d"]
    logits: Float[Tensor, "b s k"]
    anchors: Float[Tensor, "1 s 4"]


class RTDETRDecoder(nn.Module):
    """Turn encoder maps into detections. `num_queries` can be changed at any time, unless queries are learned."""

    def __init__(self, config: ModelConfig, *, wide_constants: bool = False) -> None:
        super().__init__()
        self.wide_constants = wide_constants
        decoder, width, classes = config.decoder, config.decoder.width, config.num_classes
        self.config, self.num_queries, self.num_classes = decoder, decoder.num_queries, classes
        v2, levels = config.version == "v2", len(decoder.num_points)
        self.eval_sizes_hw: SizesHW | None = None
        self.anchors: Tensor
        self.valid_mask: Tensor
        if v2 and config.eval_size_hw is not None:
            self.eval_sizes_hw = level_sizes(config.eval_size_hw, levels)
            device = torch.empty(0).device  # torch.get_default_device() of torch 2.6 misses `with torch.device(...)`
            anchors, valid = make_anchors(self.eval_sizes_hw, device)
            self.register_buffer("anchors", anchors.clone())
            self.register_buffer("valid_mask", valid.clone())
        self.input_proj = nn.ModuleList(ConvNorm(config.encoder.width, width, 1) for _ in STRIDES)
        self.input_proj.extend(  # levels beyond the encoder's, each half the size of the previous one
            ConvNorm(config.encoder.width if i == 0 else width, width, 3, stride=2)
            for i in range(levels - len(STRIDES))
        )
        self.decoder = DecoderLayers(decoder, version=config.version)
        if decoder.num_denoising > 0:
            self.denoising_class_embed = nn.Embedding(classes + 1, width, padding_idx=classes)
            nn.init.normal_(self.denoising_class_embed.weight[:-1])
        if decoder.learned_queries:
            self.tgt_embed = nn.Embedding(decoder.num_queries, width)
        hidden = decoder.query_pos_widths or (2 * width,)
        self.query_pos_head = MLP((4, *hidden, width), activation=decoder.activation)
        names = ("proj", "norm") if v2 else ("0", "1")
        parts = (nn.Linear(width, width), nn.LayerNorm(width))
        self.enc_output = nn.Sequential(OrderedDict(zip(names, parts, strict=True)))
        self.enc_score_head = nn.Linear(width, 1 if decoder.query_selection == "agnostic" else classes)
        self.enc_bbox_head = MLP((width, width, width, 4), activation=decoder.activation)
        layers = range(decoder.num_layers)
        self.dec_score_head = nn.ModuleList(nn.Linear(width, classes) for _ in layers)
        self.dec_bbox_head = nn.ModuleList(MLP((width, width, width, 4), activation=decoder.activation) for _ in layers)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for score_head in (self.enc_score_head, *linears(self.dec_score_head)):
            nn.init.constant_(score_head.bias, -math.log((1 - PRIOR) / PRIOR))
        for box_head in (self.enc_bbox_head, *self.dec_bbox_head):
            nn.init.zeros_(linears(box_head)[-1].weight)
            nn.init.zeros_(linears(box_head)[-1].bias)
        nn.init.xavier_uniform_(linears(self.enc_output)[0].weight)
        if self.config.learned_queries:
            nn.init.xavier_uniform_(self.tgt_embed.weight)
        for layer in linears(self.query_pos_head):
            nn.init.xavier_uniform_(layer.weight)
        for module in self.input_proj.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def forward(
        self,
        maps: list[Tensor],
        targets: list[Target] | None = None,
        trace: Trace | None = None,
        guide: GuidedQueries | None = None,
    ) -> RTDETROutput:
        """Detect objects in the encoder's maps; in train mode also return the auxiliary outputs for the criterion.

        In train mode, the queries of a teacher are decoded apart from all others: none of them attends to the others.
        """
        memory, sizes_hw = self._flatten(maps)
        tokens = self._score_tokens(memory, sizes_hw, trace)
        index = select_queries(tokens.logits.detach(), self.num_queries, self.config.query_selection)
        content, reference_logits, proposals = self._queries_of(tokens, index)
        allowed = meta = None
        if self.training and targets is not None and self.config.num_denoising > 0:
            queries = make_denoising_queries(
                targets, self.denoising_class_embed, self.config, num_queries=content.shape[1]
            )
            content = torch.cat([queries.content.to(content.dtype), content], dim=1)
            reference_logits = torch.cat([queries.reference_logits.to(reference_logits.dtype), reference_logits], 1)
            allowed, meta = queries.allowed, queries.meta
        if trace is not None:
            trace.num_denoising = meta.num_queries if meta and not trace.with_denoising else 0
            trace.proposals, trace.reference_logits = proposals, reference_logits[:, trace.num_denoising :]
        if not self.training:
            return RTDETROutput(*self._decode_last(content, reference_logits, memory, sizes_hw, trace))
        if guide is None:
            layers = self._decode_all(content, reference_logits, memory, sizes_hw, allowed, trace)
            return self._train_output(layers, proposals, meta)
        guided_content, _, guided_proposals = self._queries_of(tokens, guide.tokens)
        guided_logits = inverse_sigmoid(guide.boxes_cxcywh.to(reference_logits.dtype))
        layers = self._decode_all(
            torch.cat([content, guided_content], 1),
            torch.cat([reference_logits, guided_logits], 1),
            memory,
            sizes_hw,
            _with_separate(allowed, content.shape[1], guide.tokens.shape[1], content.device),
            trace,
        )
        own, guided = zip(*(_split(layer, content.shape[1]) for layer in layers), strict=True)
        return self._train_output(list(own), proposals, meta)._replace(guided=(guided_proposals, *guided))

    def _flatten(self, maps: list[Tensor]) -> tuple[Float[Tensor, "b s d"], SizesHW]:
        """Project the maps to the decoder's width and concatenate their tokens, finest map first."""
        levels = [project(x) for project, x in zip(self.input_proj, maps, strict=False)]
        source = maps[-1]
        for project in self.input_proj[len(maps) :]:
            source = project(source)
            levels.append(source)
        sizes_hw = tuple((x.shape[2], x.shape[3]) for x in levels)
        return torch.cat([map_to_tokens(x) for x in levels], dim=1), sizes_hw

    def anchors_at(self, sizes_hw: SizesHW, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the anchors of these maps: in eval mode the stored ones at their own size, otherwise new ones.

        Stored anchors of a released checkpoint differ slightly from new ones (they are averages of rounded constants);
        its published accuracy was measured with them. 16-bit copies are too coarse and never used.
        """
        if (
            not self.training
            and not torch.jit.is_tracing()  # tracing must work for every size
            and sizes_hw == self.eval_sizes_hw
            and self.anchors.dtype in (torch.float32, torch.float64)
        ):
            return self.anchors.to(dtype), self.valid_mask
        anchors, valid = make_anchors(sizes_hw, device, dtype if self.wide_constants else torch.float32)
        return anchors.to(dtype), valid

    def _score_tokens(self, memory: Tensor, sizes_hw: SizesHW, trace: Trace | None) -> ScoredTokens:
        """Return the features, class logits and anchors of all tokens."""
        wide = at_least_float32(memory.dtype)
        anchors, valid = self.anchors_at(sizes_hw, memory.device, wide)
        features = self.enc_output(memory * valid.to(memory.dtype))
        logits = self.enc_score_head(features)
        if trace is not None:
            trace.token_features, trace.token_logits, trace.anchors = features, logits, anchors
        return ScoredTokens(features, logits, anchors)

    def _queries_of(self, tokens: ScoredTokens, index: Tensor) -> tuple[Tensor, Tensor, LayerOutput]:
        """Return the content and reference logits of queries at these tokens, detached, and their proposals."""
        features = take(tokens.features, index)
        # only the selected tokens need a box: the head is applied per token, so the result is the same
        box_logits = self.enc_bbox_head(features).to(tokens.anchors.dtype) + take(tokens.anchors, index)
        proposals = LayerOutput(take(tokens.logits, index), box_logits.sigmoid())
        if self.config.learned_queries:
            learned, count = self.tgt_embed.weight, index.shape[1]
            if count > len(learned):  # a teacher has more queries
                learned = learned.repeat(math.ceil(count / len(learned)), 1)
            content = learned[:count].expand(len(index), -1, -1).to(features.dtype)
        else:
            content = features.detach()
        return content, box_logits.detach(), proposals

    def _decode_last(
        self, x: Tensor, reference_logits: Tensor, memory: Tensor, sizes_hw: SizesHW, trace: Trace | None
    ) -> LayerOutput:
        """Run the layers up to the evaluated one, and compute class scores for that layer only."""
        last = self.config.eval_idx % len(self.decoder.layers)
        boxes = reference_logits.sigmoid()
        if trace is not None:
            x = trace.keep(trace.contents, (1,), x)
            trace.keep(trace.references_cxcywh, (1,), boxes)
        for i, layer in enumerate(self.decoder.layers[: last + 1]):
            x = layer(x, self.query_pos_head(boxes.to(x.dtype)), boxes, memory, sizes_hw, None, trace)
            x = x if trace is None else trace.keep(trace.contents, (1,), x)
            boxes = (self.dec_bbox_head[i](x).to(boxes.dtype) + inverse_sigmoid(boxes)).sigmoid()
            if trace is not None:
                trace.keep(trace.references_cxcywh, (1,), boxes)
        return LayerOutput(self.dec_score_head[last](x), boxes)

    def _decode_all(
        self,
        x: Tensor,
        reference_logits: Tensor,
        memory: Tensor,
        sizes_hw: SizesHW,
        allowed: Tensor | None,
        trace: Trace | None,
    ) -> list[LayerOutput]:
        """Run every layer and return all outputs.

        The box of a layer is predicted relative to that of the previous layer, with gradient, so that a box head also
        learns from the loss of the next layer ("look forward twice", arXiv 2203.03605). The reference boxes of the
        attention are detached.
        """
        layers: list[LayerOutput] = []
        reference = reference_logits.sigmoid()
        previous = reference
        if trace is not None:
            x = trace.keep(trace.contents, (1,), x)
            trace.keep(trace.references_cxcywh, (1,), reference)
        for i, layer in enumerate(self.decoder.layers):
            x = layer(x, self.query_pos_head(reference.to(x.dtype)), reference, memory, sizes_hw, allowed, trace)
            x = x if trace is None else trace.keep(trace.contents, (1,), x)
            delta = self.dec_bbox_head[i](x).to(reference.dtype)
            emitted = (delta + inverse_sigmoid(previous)).sigmoid()
            layers.append(LayerOutput(self.dec_score_head[i](x), emitted))
            previous = (delta + inverse_sigmoid(reference)).sigmoid()
            reference = previous.detach()
            if trace is not None:
                trace.keep(trace.references_cxcywh, (1,), reference)
        return layers

    def _train_output(
        self, layers: list[LayerOutput], proposals: LayerOutput, meta: DenoisingMeta | None
    ) -> RTDETROutput:
        split = meta.num_queries if meta else 0
        matching = [LayerOutput(o.logits[:, split:], o.boxes_cxcywh[:, split:]) for o in layers]
        noisy = [LayerOutput(o.logits[:, :split], o.boxes_cxcywh[:, :split]) for o in layers] if meta else []
        return RTDETROutput(
            *matching[-1],
            auxiliary=tuple(matching[:-1]),
            encoder=(proposals,),
            denoising=tuple(noisy),
            denoising_meta=meta,
            class_agnostic_encoder=self.config.query_selection == "agnostic",
        )


def _with_separate(allowed: Tensor | None, count: int, extra: int, device: torch.device) -> Bool[Tensor, "q q"]:
    """Extend an attention mask of `count` queries by `extra` ones that attend only to each other."""
    extended = torch.zeros(count + extra, count + extra, dtype=torch.bool, device=device)
    extended[:count, :count] = True if allowed is None else allowed
    extended[count:, count:] = True
    return extended


def _split(layer: LayerOutput, count: int) -> tuple[LayerOutput, LayerOutput]:
    """Return the output of the first `count` queries, and that of the others."""
    logits, boxes = layer
    return LayerOutput(logits[:, :count], boxes[:, :count]), LayerOutput(logits[:, count:], boxes[:, count:])


def level_sizes(image_hw: tuple[int, int], levels: int) -> SizesHW:
    """Return the map sizes of an image: strides 8, 16, 32; further levels halve the size, rounding up."""
    sizes = [(image_hw[0] // stride, image_hw[1] // stride) for stride in STRIDES]
    while len(sizes) < levels:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return tuple(sizes)
