"""Convert a network to an ONNX model: `build_onnx` in memory, `write_onnx` to a file.

The graph is built operator by operator from the fused modules. torch's own exporter produces about twice as many
operators, depends on the torch version and one opset, and does not let us choose which values stay float32.
"""

from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper

from rtdetr._version import __version__
from rtdetr.detections import MAX_DETECTIONS
from rtdetr.errors import ExportError
from rtdetr.export.job import Job, input_size
from rtdetr.export.onnx import decoder, layers, processing
from rtdetr.export.onnx.builder import GraphBuilder
from rtdetr.export.onnx.tokens import dynamic_tokens, fixed_tokens
from rtdetr.export.options import ExportOptions
from rtdetr.files import write_bytes
from rtdetr.models import RTDETR
from rtdetr.runtimes.graph_form import IMAGES, OUTPUTS, SIZES
from rtdetr.runtimes.metadata import KEY


def write_onnx(job: Job, file: Path) -> int:
    """Write an `.onnx` file after onnx's own checker has accepted it; return the number of operators.

    Inputs and outputs are those of `torch_export.ExportGraph`; the metadata is stored under the key "rtdetr".

    Raises:
        ExportError: as for `build_onnx`, or the checker rejects the graph, or the file cannot be written.
    """
    proto = build_onnx(job.network, job.options)
    helper.set_model_props(proto, {KEY: job.metadata.to_json()})
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"onnx {onnx.__version__} rejects the graph: {reason}") from error
    write_bytes(file, proto.SerializeToString(), error=ExportError)
    return len(proto.graph.node)


def build_onnx(network: RTDETR, options: ExportOptions, *, merge_convolutions: bool = True) -> onnx.ModelProto:
    """Build the graph of a network from `prepared`, without metadata.

    All formats based on an ONNX graph use this function: ONNX, OpenVINO and TensorRT, also in INT8.

    Args:
        network: the network; it is not modified.
        options: precision "fp16" builds a graph in half precision, any other precision one in float32.
        merge_convolutions: see `GraphBuilder`; which is faster depends on the engine.

    Raises:
        ExportError: a module cannot be converted to ONNX, or the installed onnx does not support the opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if options.opset_or_default > newest:
        raise ExportError(f"the installed onnx supports opsets up to {newest}, got {options.opset}")
    half = options.precision == "fp16"
    g = GraphBuilder(opset=options.opset_or_default, half=half, merge_convolutions=merge_convolutions)
    size_hw = input_size(network, options)
    images, sizes_wh = IMAGES, SIZES
    if options.preprocess:
        images, sizes_wh = processing.resize(g, IMAGES, size_hw)
    shape = g.op("Shape", IMAGES) if options.dynamic_batch or options.dynamic_size else ""
    batch = g.op("Gather", shape, g.constant(0)) if options.dynamic_batch else None
    if options.dynamic_size:
        tokens = dynamic_tokens(g, network, shape, batch)
    else:
        tokens = fixed_tokens(g, network, size_hw, batch)
    x = processing.normalize(g, images, network.pixel_mean, network.pixel_std)
    example = torch.zeros(1 + options.dynamic_batch, network.config.in_channels, *size_hw)
    maps = layers.backbone(g, network.backbone, x, "backbone", example=example)
    maps = layers.encoder(g, network.encoder, maps, tokens)
    logits, boxes = decoder.decoder(g, network.decoder, maps, tokens, gather=options.gathers)
    counts = {"num_queries": network.num_queries, "num_classes": network.config.num_classes}
    if options.postprocess == "raw":
        processing.raw_outputs(g, logits, boxes, **counts)
    else:
        best = processing.best_queries if options.one_label else processing.best_pairs
        found = best(g, logits, batch=batch, **counts)
        processing.detections(
            g, found, boxes, sizes_wh, nms_iou=options.nms_iou, num_classes=network.config.num_classes
        )
    proto = g.model(
        inputs=_inputs(network, options, size_hw), outputs=_outputs(network, options), name=network.config.name
    )
    proto.producer_name, proto.producer_version = "rtdetr", __version__
    return proto


def _inputs(network: RTDETR, options: ExportOptions, size_hw: tuple[int, int]) -> list[onnx.ValueInfoProto]:
    channels = network.config.in_channels
    if options.preprocess:
        return [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, (1, "height", "width", channels))]
    batch = "batch" if options.dynamic_batch else 1
    height, width = ("height", "width") if options.dynamic_size else size_hw
    inputs = [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, (batch, channels, height, width))]
    if options.postprocess == "boxes":
        inputs.append(helper.make_tensor_value_info(SIZES, TensorProto.INT64, (batch, 2)))
    return inputs


def _outputs(network: RTDETR, options: ExportOptions) -> list[onnx.ValueInfoProto]:
    batch = "batch" if options.dynamic_batch else 1
    queries, classes = network.num_queries, network.config.num_classes
    count = min(MAX_DETECTIONS, queries if options.one_label else queries * classes)
    shapes: dict[str, tuple[int, ...]] = {"labels": (count,), "boxes": (count, 4), "scores": (count,)}
    if options.postprocess == "raw":
        shapes = {"logits": (queries, classes), "boxes": (queries, 4)}
    return [
        helper.make_tensor_value_info(
            name, TensorProto.INT64 if name == "labels" else TensorProto.FLOAT, (batch, *shapes[name])
        )
        for name in OUTPUTS[options.postprocess]
    ]
