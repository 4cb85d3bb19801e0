"""The detector: backbone, hybrid encoder and decoder; `build_model` builds it by name."""

from typing import NoReturn

import torch
from torch import Tensor, nn

from rtdetr import zoo
from rtdetr.config import ModelConfig, SizeHW, size_problem
from rtdetr.devices import not_compiled
from rtdetr.errors import ConfigError, ExportError, InputError
from rtdetr.models.backbone import Backbone
from rtdetr.models.backbones import build_backbone, settled
from rtdetr.models.decoder import RTDETRDecoder
from rtdetr.models.hybrid_encoder import HybridEncoder
from rtdetr.structures import GuidedQueries, LayerOutput, RTDETROutput, Target, Trace
from rtdetr.wording import counted


class RTDETR(nn.Module):
    """RT-DETR (v1) or RT-DETRv2, depending on `config.version`.

    Call it with RGB images, float (b, c, h, w) in [0, 1], resized to any height and width that are multiples of 32.
    It returns an `RTDETROutput`: `logits` (b, q, k) before the sigmoid and `boxes_cxcywh` (b, q, 4) normalized to the
    image. In train mode, with targets (labels int64 (n,), boxes float (n, 4) normalized cxcywh, one dict per image), it
    also contains the outputs of the auxiliary layers, the encoder and the denoising queries. `postprocess` turns the
    output into detections. Boxes are float32 or wider, whatever the model's type. Under `torch.jit.trace` the output in
    eval mode is a `LayerOutput` of logits and boxes; the traced network accepts any batch and image size. With queries
    of a teacher (`guide`, train mode only), it also contains the outputs for them.

    Parameter names and their order are those of the published checkpoints. Source: arXiv 2407.17140, arXiv 2304.08069.

    Args:
        config: the network.
        backbone: a backbone to use instead of the one in `config`.
        wide_constants: compute position code and anchors in the network's type if that is wider than float32, as
            transformers does; by default in float32, as the published implementation does.
    """

    def __init__(self, config: ModelConfig, *, backbone: Backbone | None = None, wide_constants: bool = False) -> None:
        super().__init__()
        self.config = config = settled(config)
        self.is_fused = False  # a fused model is for inference only and is never saved
        if backbone is None:  # a given backbone replaces that of the configuration
            backbone = build_backbone(config.backbone, in_channels=config.in_channels)
        self.backbone = backbone
        encoder = HybridEncoder(
            config.encoder,
            in_channels=self.backbone.out_channels,
            version=config.version,
            wide_constants=wide_constants,
        )
        self.pixel_mean: Tensor | None
        self.pixel_std: Tensor | None
        for name in ("pixel_mean", "pixel_std"):  # not in the state dict, whose keys are the published ones
            values = getattr(config, name)
            shaped = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, shaped, persistent=False)
        # initialized after the encoder, registered before it: both orders are the published ones
        self.decoder = RTDETRDecoder(config, wide_constants=wide_constants)
        self.encoder = encoder

    @property
    def num_queries(self) -> int:
        """Number of object queries per image. Can be changed after training."""
        return self.decoder.num_queries

    @num_queries.setter
    def num_queries(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"num_queries must be at least 1, got {count}")
        if self.config.decoder.learned_queries and count > self.config.decoder.num_queries:
            raise ConfigError(
                f"this model learned {counted(self.config.decoder.num_queries, 'query')}, got num_queries={count}"
            )
        self.decoder.num_queries = count

    def train(self, mode: bool = True) -> "RTDETR":
        """Switch between train and eval mode.

        Raises:
            ConfigError: train mode of a fused model.
        """
        if mode and self.is_fused:
            raise ConfigError("a fused model is for inference only; train the original model instead")
        return super().train(mode)

    def forward(
        self,
        images: Tensor,
        targets: list[Target] | None = None,
        trace: Trace | None = None,
        guide: GuidedQueries | None = None,
    ) -> RTDETROutput | LayerOutput:
        self._check(images, targets)
        images = images.to(next(self.parameters()).dtype)
        if self.pixel_mean is not None:
            images = images - self.pixel_mean
        if self.pixel_std is not None:
            images = images / self.pixel_std
        maps = self.encoder(self.backbone(images), trace)
        output = self.decoder(maps, targets, trace, guide)
        if guide is not None:
            output = output._replace(encoder_maps=tuple(maps))
        if torch.jit.is_tracing() and not self.training and trace is None:  # traced functions take tensors only
            return LayerOutput(output.logits, output.boxes_cxcywh)
        return output

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`, which calls this first.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            "torch.jit.script cannot read this network; use torch.jit.trace in eval mode, torch.export, or "
            "rtdetr.export.export for ONNX, OpenVINO and others"
        )

    def _check(self, images: Tensor, targets: list[Target] | None) -> None:
        expected = f"expected float images (batch, {self.config.in_channels}, height, width) in [0, 1]"
        if images.ndim != 4 or images.shape[1] != self.config.in_channels or not images.is_floating_point():
            raise InputError(f"{expected}, got {images.dtype} {tuple(images.shape)}")
        if images.shape[0] == 0:
            raise InputError(f"{expected}, got an empty batch")
        height, width = images.shape[2:]
        if problem := size_problem((height, width)):
            raise InputError(f"{problem}; resize the images")
        if targets is not None:
            self._check_targets(targets, len(images))

    @not_compiled
    def _check_targets(self, targets: list[Target], num_images: int) -> None:
        if len(targets) != num_images:
            raise InputError(
                f"expected one target per image, got {counted(len(targets), 'target')} for "
                f"{counted(num_images, 'image')}"
            )
        for i, target in enumerate(targets):
            self._check_target(i, target["labels"], target["boxes"])

    def _check_target(self, i: int, labels: Tensor, boxes: Tensor) -> None:
        if labels.ndim != 1 or boxes.shape != (len(labels), 4) or labels.dtype != torch.int64:
            raise InputError(
                f"target {i}: expected labels int64 (n,) and boxes (n, 4), "
                f"got labels {labels.dtype} {tuple(labels.shape)} and boxes {tuple(boxes.shape)}"
            )
        if labels.device.type != "cpu" or len(labels) == 0:  # on other devices, reading the values would synchronize
            return
        wrong = ~(boxes.abs().amax(1) <= 2) | (boxes[:, 2:].amin(1) < 0)  # NaN too; boxes may extend beyond the image
        if wrong.any():
            box = boxes[wrong][0].tolist()
            raise InputError(f"target {i}: expected boxes as cxcywh in 0..1 of the image, got {box}")
        if labels.min() < 0 or labels.max() >= self.config.num_classes:
            wrong = labels[(labels < 0) | (labels >= self.config.num_classes)][0].item()
            raise InputError(f"target {i}: label {wrong} is outside 0..{self.config.num_classes - 1}")


def build_model(
    model: str | ModelConfig,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    eval_size_hw: SizeHW | None = None,
    num_queries: int | None = None,
    num_denoising: int | None = None,
    label_noise_ratio: float | None = None,
    box_noise_scale: float | None = None,
) -> RTDETR:
    """Build a detector in train mode with random weights; a timm backbone can be pretrained (`backbone.pretrained`).

    Args:
        model: a name of `list_models()` (or a published short name), or a configuration.
        num_classes: number of classes, without a background class.
        in_channels: number of image channels.
        eval_size_hw: height and width for which anchors are stored; other sizes work as well.
        num_queries: number of object queries per image.
        num_denoising: number of positive denoising queries per image in training; 0 builds the model without them.
        label_noise_ratio: share of denoising labels considered for noise, 0 to 1.
        box_noise_scale: noise of the denoising boxes, in units of half the box size.

    Raises:
        ConfigError: the name is unknown, or a value is invalid.
        WeightsError: pretrained weights cannot be downloaded.
    """
    if not isinstance(model, str | ModelConfig):
        raise ConfigError(f"expected the name of a model or a ModelConfig, got {type(model).__name__}")
    config = zoo.model_config(model) if isinstance(model, str) else model
    top = {"num_classes": num_classes, "in_channels": in_channels, "eval_size_hw": eval_size_hw}
    decoder = {
        "num_queries": num_queries,
        "num_denoising": num_denoising,
        "label_noise_ratio": label_noise_ratio,
        "box_noise_scale": box_noise_scale,
    }
    changes = {key: value for key, value in top.items() if value is not None}
    changes["decoder"] = {key: value for key, value in decoder.items() if value is not None}
    network = RTDETR(config.replace(**changes))
    if config.backbone.is_pretrained:
        network.backbone.load_pretrained()
    return network
