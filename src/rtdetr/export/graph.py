"""The network to export: a fused copy with pre- and postprocessing. Models do not depend on any export format."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtdetr.errors import ConfigError, ExportError
from rtdetr.export.options import ExportOptions
from rtdetr.models import RTDETR, fuse, postprocess
from rtdetr.models.decoder import level_sizes
from rtdetr.models.deformable_attention import DeformableAttention


def prepared(model: RTDETR, options: ExportOptions) -> RTDETR:
    """Return a fused float32 copy with the layers, queries and sampling of `options`.

    Decoder layers after the evaluated one are removed. The model's own number of queries is limited to the number of
    tokens of an image of `input_size`.

    Raises:
        ConfigError: more layers than the model has, or more queries than an image has tokens.
    """
    network = fuse(model).float().cpu()
    decoder = network.decoder
    available = len(decoder.decoder.layers)
    if options.num_layers is not None and options.num_layers > available:
        raise ConfigError(
            f"num_layers (--layers): expected at most {available}, which the model has, got {options.num_layers}"
        )
    count = options.num_layers or decoder.config.eval_idx % available + 1
    decoder.config = decoder.config.replace(num_layers=count, eval_idx=count - 1)
    for layers in (decoder.decoder.layers, decoder.dec_score_head, decoder.dec_bbox_head):
        del layers[count:]
    if options.sampling is not None:
        for module in decoder.modules():
            if isinstance(module, DeformableAttention):
                module.sampling = options.sampling
    sizes = level_sizes(input_size(network, options), len(decoder.config.num_points))
    tokens = sum(height * width for height, width in sizes)
    if options.num_queries is not None and options.num_queries > tokens:
        height, width = input_size(network, options)
        raise ConfigError(
            f"num_queries (--queries): expected at most {tokens}, the number of tokens of an image of "
            f"{height}x{width}, got {options.num_queries}"
        )
    network.num_queries = min(options.num_queries or network.num_queries, tokens)
    return network


def input_size(network: RTDETR, options: ExportOptions) -> tuple[int, int]:
    """Height and width of the network's input: the fixed size, or the default one if sizes are dynamic."""
    return options.size_hw or network.config.eval_size_hw or (640, 640)


class ExportGraph(nn.Module):
    """A network from images to detections, for exporters that trace PyTorch modules.

    Inputs: `images` float32 (b, c, h, w) in [0, 1] and, for "boxes", `orig_target_sizes` int64 (b, 2) as (width,
    height). With `preprocess` the only input is `images` uint8 (1, h, w, c) of any size.
    Outputs: for "boxes" `labels` int64 (b, n), `boxes` float32 (b, n, 4) as xyxy in pixels and `scores` float32 (b, n);
    for "raw" `logits` float32 (b, q, k) and `boxes` float32 (b, q, 4) as normalized cxcywh.

    Args:
        network: result of `prepared`; may have been converted to another dtype.
        preprocess: resize and scale in the graph.
        postprocess: "boxes" or "raw".
        one_label: for "boxes", return only the best class of each query.
        size_hw: the network's input size, needed if the graph resizes.
    """

    def __init__(
        self,
        network: RTDETR,
        *,
        preprocess: bool = False,
        postprocess: str = "boxes",
        one_label: bool = False,
        size_hw: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if preprocess and (size_hw is None or postprocess != "boxes"):
            raise ExportError("a graph that resizes needs size_hw and postprocess='boxes'")
        self.network = copy.deepcopy(network).eval()
        self.size_hw = size_hw if preprocess else None
        self.postprocess = postprocess
        self.one_label = one_label

    def forward(self, images: Tensor, orig_target_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs described in the class docstring."""
        if self.size_hw is not None:
            orig_target_sizes = torch.tensor([[images.shape[2], images.shape[1]]], device=images.device)
            planes = images.permute(0, 3, 1, 2).float()
            resized = F.interpolate(planes, self.size_hw, mode="bilinear", align_corners=False, antialias=True)
            images = resized.round().clamp(0, 255) / 255
        logits, boxes = self.network(images)[:2]
        logits, boxes = logits.float(), boxes.float()
        if self.postprocess == "raw":
            return logits, boxes
        assert orig_target_sizes is not None  # the exporter gives both inputs
        return postprocess(logits, boxes, sizes_wh=orig_target_sizes, one_label=self.one_label)
