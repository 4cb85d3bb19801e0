"""OpenVINO IR: the ONNX graph, converted and folded, as an `.xml` file with its `.bin` beside it.

The description of the model is in the IR's `rt_info` under "rtdetr". Its precision is the one that the network is
verified in; for bfloat16 and float16 the weights are stored in 16 bits. Detectors choose theirs by the processor.
"""

import hashlib
from pathlib import Path
from typing import Any

import openvino

from rtdetr.errors import ExportError
from rtdetr.export.graph import prepared
from rtdetr.export.onnx import build_onnx
from rtdetr.export.options import ExportOptions, ExportResult
from rtdetr.files import files_together, refusal
from rtdetr.models import RTDETR
from rtdetr.runtimes.metadata import KEY, WEIGHTS_KEY, ExportMetadata
from rtdetr.runtimes.openvino_core import openvino_core

_TO_COME = "0" * 64  # in place of the hash of weights that are not written yet
_GRAPH_OPSET = 18  # of the ONNX graph in between; OpenVINO 2025.1 and before cannot read GridSample of opset 20


def export_openvino(model: RTDETR, path: Path, *, options: ExportOptions, metadata: ExportMetadata) -> ExportResult:
    """Write an `.xml` file and its `.bin`.

    Args:
        model: the network; it is copied.
        path: the `.xml` file to write.
        options: as for every format; `opset` means nothing here.
        metadata: stored in the file.

    Raises:
        ExportError: settings that this format has not, or the files cannot be written.
    """
    if options.precision == "int8":
        raise ExportError("int8 needs pictures to calibrate on: rtdetr quantize MODEL DATA --format openvino")
    converted = convert(model, options)
    save_ir(converted, path, metadata=metadata, half=options.precision != "fp32")
    size = path.stat().st_size + path.with_suffix(".bin").stat().st_size
    return ExportResult(path, size, count_operations(converted), metadata)


def convert(model: RTDETR, options: ExportOptions) -> openvino.Model:
    """Build the network as an OpenVINO model in float32, without metadata."""
    graph_options = options.replace(format="onnx", precision="fp32", opset=_GRAPH_OPSET)
    graph = build_onnx(prepared(model, graph_options), graph_options)
    return openvino_core().read_model(graph.SerializeToString(), b"")


def save_ir(model: openvino.Model, path: Path, *, metadata: ExportMetadata, half: bool) -> None:
    """Write a model as IR; a reader meets the old pair of files or the new one.

    Args:
        model: gets the metadata.
        path: the `.xml` file.
        metadata: what the file says about itself.
        half: store float weights in 16 bits.

    Raises:
        ExportError: not an `.xml` file, or the files cannot be written.
    """
    if path.suffix.lower() != ".xml":
        raise ExportError(f"OpenVINO models are files .xml with a .bin beside them, got {path}")
    model.set_rt_info(metadata.to_json(), [KEY])
    model.set_rt_info(_TO_COME, [WEIGHTS_KEY])
    with files_together(path, error=ExportError) as new:
        try:
            openvino.save_model(model, new.with_suffix(".xml"), compress_to_fp16=half)  # it takes no .XML
            new.with_suffix(".xml").replace(new)
        except RuntimeError as failure:
            raise ExportError(refusal(new, failure)) from None
        sha256 = hashlib.sha256(new.with_suffix(".bin").read_bytes()).hexdigest()
        new.write_bytes(new.read_bytes().replace(_TO_COME.encode(), sha256.encode()))


def count_operations(model: openvino.Model) -> int:
    """Operations of a graph; constants, also those that are widened when they are read, inputs and outputs are none."""
    return sum(not _is_value(op) for op in model.get_ops())


def _is_value(op: Any) -> bool:
    kind = op.get_type_name()
    if kind == "Convert":
        return op.input_value(0).get_node().get_type_name() == "Constant"
    return kind in ("Constant", "Parameter", "Result")
