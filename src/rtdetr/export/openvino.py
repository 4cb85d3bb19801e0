"""OpenVINO IR: the ONNX graph, converted and constant-folded, as an `.xml` file with a `.bin` file of the same name.

The metadata is in the IR's `rt_info` under "rtdetr". Its precision is the one in which the network is verified; for
bfloat16 and float16 the weights are stored in 16 bits. Detectors choose their own precision by the processor.
"""

from pathlib import Path
from typing import Any

import openvino

from rtdetr.errors import ExportError
from rtdetr.export.job import Job
from rtdetr.export.onnx import build_onnx
from rtdetr.files import files_together, sha256_of, write_error_message
from rtdetr.runtimes.metadata import KEY, WEIGHTS_KEY, ExportMetadata
from rtdetr.runtimes.openvino_core import openvino_core

_PLACEHOLDER = "0" * 64  # until the weights are written and hashed


def write_openvino(job: Job, file: Path) -> int:
    """Write an `.xml` file and its `.bin` file; return the number of operators.

    Raises:
        ExportError: a module cannot be converted to ONNX, or the files cannot be written.
    """
    model = convert(job)
    save_ir(model, file, metadata=job.metadata, half=job.options.precision in ("fp16", "bf16"))
    return count_operations(model)


def convert(job: Job) -> openvino.Model:
    """Build the network as an OpenVINO model in float32, without metadata."""
    options = job.options.replace(precision="fp32", int8=None, gather_only=job.options.gathers)
    graph = build_onnx(job.network, options, merge_convolutions=False)
    return openvino_core().read_model(graph.SerializeToString(), b"")


def save_ir(model: openvino.Model, path: Path, *, metadata: ExportMetadata, half: bool) -> None:
    """Write a model as IR; readers see either the old pair of files or the new one.

    Args:
        model: the model; the metadata is added to it.
        path: the `.xml` file.
        metadata: description of the model, stored in the file.
        half: store float weights in 16 bits.

    Raises:
        ExportError: the files cannot be written.
    """
    model.set_rt_info(metadata.to_json(), [KEY])
    model.set_rt_info(_PLACEHOLDER, [WEIGHTS_KEY])
    with files_together(path, error=ExportError) as new:
        try:
            openvino.save_model(model, new.with_suffix(".xml"), compress_to_fp16=half)  # rejects .XML
            new.with_suffix(".xml").replace(new)
        except RuntimeError as failure:
            raise ExportError(write_error_message(new, failure)) from None
        sha256 = sha256_of(new.with_suffix(".bin"))
        new.write_bytes(new.read_bytes().replace(_PLACEHOLDER.encode(), sha256.encode()))


def count_operations(model: openvino.Model) -> int:
    """Number of operations in a graph, without constants (including compressed ones), inputs and outputs."""
    return sum(not _is_value(op) for op in model.get_ops())


def _is_value(op: Any) -> bool:
    kind = op.get_type_name()
    if kind == "Convert":
        return op.input_value(0).get_node().get_type_name() == "Constant"
    return kind in ("Constant", "Parameter", "Result")
