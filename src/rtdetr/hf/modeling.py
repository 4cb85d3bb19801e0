"""RTDetrV2Model and RTDetrV2ForObjectDetection: transformers classes around the network of this library.

In memory there is one `rtdetr.models.RTDETR` (`model.model.network`) with published entry names; files have the names
of transformers. docs/huggingface.md lists the differences from transformers and their reasons.
"""

import copy
import itertools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn, Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers import RTDetrV2Config as StockConfig

from rtdetr.errors import ConfigError
from rtdetr.hf.arguments import check_images, content_share_hw, targets_of
from rtdetr.hf.backbone import AutoBackboneMaps, build_network
from rtdetr.hf.checkpointing import count_batches_once
from rtdetr.hf.configuration import RTDetrV2Config, categories_of, own_config
from rtdetr.hf.loading import HuggingFaceFiles
from rtdetr.hf.losses import loss_terms
from rtdetr.hf.outputs import (
    RTDetrV2ModelOutput,
    RTDetrV2ObjectDetectionOutput,
    fields_of,
    lazy_token_boxes,
    supervised,
    without_look_forward_twice,
)
from rtdetr.models import RTDETR, fuse
from rtdetr.runtimes.torch_detector import TorchDetector
from rtdetr.structures import LayerOutput, RTDETROutput, Target, Trace
from rtdetr.weights import default_categories

logger = logging.getLogger(__name__)


class Results(NamedTuple):
    """Result of one forward pass: input of the loss, predictions to return, and fields of `RTDetrV2ModelOutput`."""

    output: RTDETROutput
    last: LayerOutput
    fields: dict[str, Any]
    make_token_boxes: Callable[[], Tensor]


class RTDetrV2PreTrainedModel(HuggingFaceFiles, PreTrainedModel):
    """Base class of both models."""

    config: RTDetrV2Config
    config_class = RTDetrV2Config
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # lets the Trainer average over accumulated batches
    _supports_sdpa = True
    _no_split_modules = ["PResNet", "HGNetv2", "TimmBackbone", "AutoBackboneMaps", "HybridEncoder", "RTDETRDecoder"]  # noqa: RUF012

    def __init__(self, config: StockConfig) -> None:
        super().__init__(own_config(config))

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **options: Any) -> str:
        """Refuse other implementations early; the message of transformers links to a page that does not exist."""
        if attn_implementation not in (None, "sdpa", "eager"):
            raise ConfigError(f"expected attn_implementation 'sdpa' or 'eager', got {attn_implementation!r}")
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **options)

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **options: Any) -> None:
        """Choose "sdpa" or "eager"; an external backbone that does not support the choice keeps its own.

        Raises:
            ConfigError: unknown attention implementation.
        """
        chosen = {"": attn_implementation} if isinstance(attn_implementation, str) else attn_implementation
        super().set_attn_implementation(chosen, *args, **options)
        if chosen is attn_implementation:
            return
        backbone = self.base.network.backbone
        if isinstance(backbone, AutoBackboneMaps):
            backbone.set_attention(chosen[""])
        else:  # it has no attention
            described: Any = self.config.backbone_config
            described._attn_implementation_internal = chosen[""]

    @property
    def base(self) -> "RTDetrV2Model":
        """The model without a loss: this model, or the one inside."""
        model = self.base_model
        assert isinstance(model, RTDetrV2Model)
        return model

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialize entries that were not loaded from a file with those of a newly built network.

        Transformers calls this after building, when all entries are initialized, and after loading.
        """
        tensors = dict(itertools.chain(self.base.network.named_parameters(), self.base.network.named_buffers()))
        missing = {name: x for name, x in tensors.items() if not getattr(x, "_is_hf_initialized", False)}
        if not missing:
            return
        fresh = build_network(self.config)
        values = dict(itertools.chain(fresh.named_parameters(), fresh.named_buffers()))
        for name, tensor in missing.items():
            tensor.copy_(values[name])

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuse `torch.jit.script`; see `RTDETR`."""
        self.base.network.__prepare_scriptable__()

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, every_n_layers)
        count_batches_once(self, gradient_checkpointing_func)

    def fuse(self) -> Self:
        """Return a channels-last copy for inference, with norms and RepVGG branches folded into convolutions.

        It is faster and gives the same results up to rounding. It cannot be trained or saved.
        """
        twin = copy.deepcopy(self).eval()
        twin.base.network = fuse(twin.base.network).to(memory_format=torch.channels_last)
        return twin.requires_grad_(False)

    def trim_decoder(self) -> Self:
        """Return a copy without the decoder layers after the evaluated one; its results are the same.

        Transformers always evaluates the last layer, so it gives the same results with the saved copy.
        """
        layers = self.config.eval_idx % self.config.decoder_layers + 1
        twin = copy.deepcopy(self)
        network, decoder = twin.base.network, twin.base.network.decoder
        for modules in (decoder.decoder.layers, decoder.dec_score_head, decoder.dec_bbox_head):
            del modules[layers:]
        twin.config.decoder_layers, twin.config.eval_idx = layers, -1
        network.config = network.config.replace(decoder={"num_layers": layers, "eval_idx": -1})
        decoder.config = network.config.decoder
        return twin


class RTDetrV2Model(RTDetrV2PreTrainedModel):
    """The network without a loss.

    The input is pixel_values, float (b, c, height, width) in [0, 1] with sides that are multiples of 32; see
    `RTDetrV2ForObjectDetection.forward` for the other arguments. The output is an `RTDetrV2ModelOutput`.
    """

    def __init__(self, config: StockConfig) -> None:
        super().__init__(config)
        names = ("dropout", "attention_dropout", "activation_dropout")
        ignored = [name for name in names if getattr(self.config, name)]
        if ignored:
            logger.warning(
                "RT-DETRv2 is trained without dropout, so %s in the configuration has no effect", ", ".join(ignored)
            )
        self.network = build_network(self.config)
        if isinstance(self.network.backbone, AutoBackboneMaps):
            self.config.backbone_config = self.network.backbone.model.config
        self.gradient_checkpointing = False
        _mark_initialized(self.network)
        self.post_init()

    @property
    def backbone(self) -> nn.Module:
        """Backbone: images to three feature maps."""
        return self.network.backbone

    @property
    def encoder(self) -> nn.Module:
        """Encoder: fuses the feature maps."""
        return self.network.encoder

    @property
    def decoder(self) -> nn.Module:
        """Decoder: feature maps to detections."""
        return self.network.decoder

    def freeze_backbone(self) -> None:
        """Freeze the backbone."""
        self.backbone.requires_grad_(False)

    def unfreeze_backbone(self) -> None:
        """Unfreeze the whole backbone."""
        self.backbone.requires_grad_(True)

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Any]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> RTDetrV2ModelOutput | tuple[Any, ...]:
        """Return all outputs except detections and loss."""
        check_images(pixel_values, encoder_outputs=encoder_outputs, inputs_embeds=inputs_embeds)
        targets = None if labels is None else targets_of(labels)
        _, _, fields, make_token_boxes = self.run(
            pixel_values, targets, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        output = RTDetrV2ModelOutput(**fields).with_token_boxes(make_token_boxes)
        return output if _or_default(return_dict, self.config.return_dict) else output.to_tuple()

    def run(
        self,
        pixel_values: Tensor,
        targets: list[Target] | None,
        *,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> Results:
        """Run the network and collect what both models return."""
        network, decoder = self.network, self.network.decoder
        compatible = self.config.transformers_compatible_loss
        attentions = _or_default(output_attentions, self.config.output_attentions)
        trace = Trace(with_denoising=compatible, with_attentions=attentions)
        given = targets
        if compatible and targets is not None and not any(len(target["labels"]) for target in targets):
            given = None  # transformers makes no denoising queries without objects
        if decoder.config.denoise_every_object < compatible:
            decoder.config = decoder.config.replace(denoise_every_object=True)
        if self.config._attn_implementation == "eager":
            with sdpa_kernel(SDPBackend.MATH):  # plain matrix products
                output = network(pixel_values, given, trace)
        else:
            output = network(pixel_values, given, trace)
        if not self.training:
            output = supervised(output, trace, decoder)
        elif compatible:
            output = without_look_forward_twice(output, trace, decoder)
        output, last, fields = fields_of(output, trace)
        if _or_default(output_hidden_states, self.config.output_hidden_states):
            fields["decoder_hidden_states"] = tuple(trace.contents)
            fields["encoder_hidden_states"] = tuple(trace.coarsest_maps)
        if attentions:
            fields["decoder_attentions"] = tuple(trace.self_attentions)
            fields["cross_attentions"] = tuple(trace.cross_attentions)
            fields["encoder_attentions"] = tuple(trace.encoder_attentions)
        return Results(output, last, fields, lazy_token_boxes(trace, decoder))


class RTDetrV2ForObjectDetection(RTDetrV2PreTrainedModel):
    """The detector, with the training loss."""

    def __init__(self, config: StockConfig) -> None:
        super().__init__(config)
        self.model = RTDetrV2Model(self.config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: list[dict[str, Any]] | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused: Any,
    ) -> RTDetrV2ObjectDetectionOutput | tuple[Any, ...]:
        """Detect objects, and compute the loss if labels are given.

        Args:
            pixel_values: float (b, c, height, width) in [0, 1], both sides multiples of 32.
            pixel_mask: (b, height, width), 1 for image and 0 for padding. As in transformers, the network does not use
                it, but `post_process_object_detection` then undoes the padding.
            encoder_outputs: not supported.
            inputs_embeds: not supported.
            labels: one dict per image with `class_labels`, int64 (n,), and `boxes`, float (n, 4) cxcywh in 0..1.
            output_attentions: also return all attention weights; default: from the configuration.
            output_hidden_states: also return the inputs and outputs of each attention layer.
            return_dict: False returns a tuple of all fields that are not None.
            unused: any other arguments, such as other batch columns; ignored, as in transformers.

        Raises:
            InputError: images, labels or the mask have another form, or an argument is not supported.
        """
        check_images(pixel_values, encoder_outputs=encoder_outputs, inputs_embeds=inputs_embeds)
        targets = None if labels is None else targets_of(labels)
        output, last, fields, make_token_boxes = self.model.run(
            pixel_values, targets, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        if targets is not None:
            terms = loss_terms(output, targets, self.config)
            fields |= {"loss": torch.stack(list(terms.values())).sum(), "loss_dict": terms}
            if self.config.auxiliary_loss:
                auxiliary = [*output.auxiliary, *output.encoder]
                fields["auxiliary_outputs"] = [{"logits": x.logits, "pred_boxes": x.boxes_cxcywh} for x in auxiliary]
        if pixel_mask is not None:
            fields["content_share_hw"] = content_share_hw(pixel_mask, pixel_values)
        result = RTDetrV2ObjectDetectionOutput(logits=last.logits, pred_boxes=last.boxes_cxcywh, **fields)
        result = result.with_token_boxes(make_token_boxes)
        return result if _or_default(return_dict, self.config.return_dict) else result.to_tuple()

    def to_detector(
        self,
        *,
        device: str | torch.device = "auto",
        precision: str = "auto",
        size_hw: tuple[int, int] | None = None,
        one_label: bool = False,
        nms_iou: float | None = None,
    ) -> TorchDetector:
        """Return a detector of this library with a fused copy of the network, for `rtdetr.evaluate` and prediction.

        It stretches images to `size_hw` and divides by 255, whatever the image processor does. See
        `rtdetr.runtimes.torch_detector.TorchDetector` for the arguments and errors.
        """
        network = self.model.network
        return TorchDetector(
            network,
            categories_of(self.config) or default_categories(network.config.num_classes),
            device=device,
            precision=precision,
            size_hw=size_hw,
            one_label=one_label,
            nms_iou=nms_iou,
        )


def _or_default(value: bool | None, default: bool | None) -> bool:
    return bool(default if value is None else value)


def _mark_initialized(network: RTDETR) -> None:
    """Mark all entries as initialized, except on the meta device, where they are about to be read from a file."""
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        if not tensor.is_meta:
            tensor._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]
