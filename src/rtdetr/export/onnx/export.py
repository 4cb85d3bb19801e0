"""A network as an ONNX model: `build_onnx` in memory; `export_onnx`: as a file.

The graph is built operator by operator from the fused modules. torch's own exporter gives about twice the operators,
bound to the version of torch and to one operator set, and no say in which numbers stay float32.
"""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from rtdetr._version import __version__
from rtdetr.errors import ExportError
from rtdetr.export.graph import INPUT_NAMES, OUTPUT_NAMES, input_size, prepared
from rtdetr.export.onnx import decoder, ends, layers
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.tokens import fixed_tokens, free_tokens
from rtdetr.export.options import ExportOptions, ExportResult
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import KEY, ExportMetadata

_INSTEAD = (
    "ONNX Runtime has no bfloat16 convolutions: OpenVINO runs fp32 files in bf16 where the machine can. "
    "INT8 needs a dataset to calibrate on: rtdetr quantize MODEL DATA --format onnx"
)


def export_onnx(model: RTDETR, path: Path, *, options: ExportOptions, metadata: ExportMetadata) -> ExportResult:
    """Write a network as an ONNX file, once onnx's own checker has accepted it.

    Inputs and outputs are those of `rtdetr.export.graph.ExportGraph`.

    Args:
        model: the network; it is copied.
        path: the file, .onnx.
        options: size, free axes, precision and what belongs into the graph.
        metadata: stored in the file under the key "rtdetr".

    Raises:
        ConfigError: more layers than the model has.
        ExportError: what `build_onnx` raises, a graph that the checker refuses, or a file that cannot be written.
    """
    proto = build_onnx(prepared(model, options), options)
    helper.set_model_props(proto, {KEY: metadata.to_json()})
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"onnx {onnx.__version__} refuses the graph: {reason}") from error
    data = proto.SerializeToString()
    write_atomically(path, lambda file: file.write_bytes(data), error=ExportError)
    return ExportResult(path, len(data), len(proto.graph.node), metadata)


def build_onnx(network: RTDETR, options: ExportOptions) -> onnx.ModelProto:
    """Build the graph of a network from `prepared`; without metadata.

    Raises:
        ExportError: a module without an ONNX form, or a precision or opset that this format does not have.
    """
    newest = onnx.defs.onnx_opset_version()
    if options.opset > newest:
        raise ExportError(f"the installed onnx knows opsets up to {newest}, got {options.opset}")
    if options.precision not in ("fp32", "fp16"):
        raise ExportError(f"expected precision fp32 or fp16 for ONNX, got {options.precision!r}; {_INSTEAD}")
    g = GraphBuilder(opset=options.opset, half=options.precision == "fp16")
    size_hw = input_size(network, options)
    picture, sizes_wh = INPUT_NAMES
    images = picture
    if options.preprocess:
        images, sizes_wh = ends.resized(g, picture, size_hw)
    shape = g.op("Shape", picture) if options.dynamic_batch or options.dynamic_size else ""
    batch = g.op("Gather", shape, g.constant(0)) if options.dynamic_batch else None
    tokens = free_tokens(g, network, shape, batch) if options.dynamic_size else fixed_tokens(g, network, size_hw, batch)
    x = ends.normalized(g, images, network.pixel_mean, network.pixel_std)
    example = torch.zeros(1 + options.dynamic_batch, network.config.in_channels, *size_hw)
    maps = layers.backbone(g, network.backbone, x, "backbone", example=example)
    maps = layers.encoder(g, network.encoder, maps, tokens)
    logits, boxes = decoder.decoder(g, network.decoder, maps, tokens, gather=options.gathers)
    counts = {"num_queries": network.num_queries, "num_classes": network.config.num_classes}
    if options.postprocess == "raw":
        ends.raw_outputs(g, logits, boxes, **counts)
    else:
        best = ends.best_queries if options.one_label else ends.best_pairs
        found = best(g, logits, batch=batch, **counts)
        ends.detections(g, found, boxes, sizes_wh, nms_iou=options.nms_iou, num_classes=network.config.num_classes)
    proto = g.model(
        inputs=_inputs(network, options, size_hw), outputs=_outputs(network, options), name=network.config.name
    )
    proto.producer_name, proto.producer_version = "rtdetr", __version__
    return proto


def _inputs(network: RTDETR, options: ExportOptions, size_hw: tuple[int, int]) -> list[onnx.ValueInfoProto]:
    channels = network.config.in_channels
    images, sizes = INPUT_NAMES
    if options.preprocess:
        return [helper.make_tensor_value_info(images, TensorProto.UINT8, (1, "height", "width", channels))]
    batch = "batch" if options.dynamic_batch else 1
    height, width = ("height", "width") if options.dynamic_size else size_hw
    inputs = [helper.make_tensor_value_info(images, TensorProto.FLOAT, (batch, channels, height, width))]
    if options.postprocess == "boxes":
        inputs.append(helper.make_tensor_value_info(sizes, TensorProto.INT64, (batch, 2)))
    return inputs


def _outputs(network: RTDETR, options: ExportOptions) -> list[onnx.ValueInfoProto]:
    batch = "batch" if options.dynamic_batch else 1
    queries, classes = network.num_queries, network.config.num_classes
    count = min(ends.MAX_DETECTIONS, queries if options.one_label else queries * classes)
    shapes: dict[str, tuple[int, ...]] = {"labels": (count,), "boxes": (count, 4), "scores": (count,)}
    if options.postprocess == "raw":
        shapes = {"logits": (queries, classes), "boxes": (queries, 4)}
    return [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT, (batch, *shapes[name])
        )
        for name in OUTPUT_NAMES[options.postprocess]
    ]
