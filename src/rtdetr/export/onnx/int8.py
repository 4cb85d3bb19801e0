"""INT8 in ONNX: QuantizeLinear and DequantizeLinear around operators, calibrated by ONNX Runtime.

Maps stay in 8 bits from convolution to convolution: sums, activations and pooling are quantized too, because converting
maps to float and back takes longer. Symmetric files are for TensorRT, which decides by itself what runs in 8 bits.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from rtdetr.errors import ExportError
from rtdetr.export.job import Job
from rtdetr.export.onnx.export import write_onnx
from rtdetr.export.samples import Feed
from rtdetr.export.stages import is_quantizable
from rtdetr.files import write_bytes

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_RELU = ("Relu",)  # costs nothing in 8 bits: the range of the values ends at zero
_OF_MAPS = ("Add", "AveragePool", "Concat", "MaxPool", "Mul", "Resize", "Sigmoid", "Split")
_OF_TOKENS = ("encoder.encoder", "decoder.decoder")  # stages whose other operators stay in float


class _Reader(CalibrationDataReader):
    """Iterates over inputs of the graph."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self.feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> Feed | None:  # type: ignore[reportIncompatibleMethodOverride]  # None at the end
        return next(self.feeds, None)


def write_int8_onnx(job: Job, file: Path, stages: Sequence[str], feeds: Sequence[Feed]) -> int:
    """Write an `.onnx` file with the stages in INT8; return the number of operators."""
    write_onnx(job, file)
    graph = onnx.load(file)
    symmetric = job.options.int8_or_default.symmetric
    everywhere = _PRODUCTS if symmetric else (*_PRODUCTS, *_RELU)
    of_maps = [stage for stage in stages if not symmetric and not stage.startswith(_OF_TOKENS)]
    quantized = [
        node.name
        for node in graph.graph.node
        if (node.op_type in everywhere and is_quantizable(node.name, stages))
        or (node.op_type in _OF_MAPS and is_quantizable(node.name, of_maps))
    ]
    if not quantized:
        return len(graph.graph.node)
    with _no_preprocessing_advice():
        quantize_static(
            file,
            file,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=[*_PRODUCTS, *_RELU, *_OF_MAPS],
            nodes_to_quantize=quantized,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits, see `rtdetr.export.quantize`
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,  # TensorRT has no int32 biases
                # TensorRT fuses activations and sums with the product before them if nothing is rounded in between
                "OpTypesToExcludeOutputQuantization": list(_PRODUCTS) if symmetric else [],
            },
        )
    proto = onnx.load(file)
    _read_unrounded(proto.graph, set(quantized))
    write_bytes(file, proto.SerializeToString(), error=ExportError)
    return len(proto.graph.node)


def _read_unrounded(graph: onnx.GraphProto, quantized: set[str]) -> None:
    """Let float operators read the values that float operators write, where only others need them in 8 bits.

    ONNX Runtime's quantizer replaces a value for all its readers, so it also rounds the input of the box heads and the
    residual sums of the decoder.
    """
    writers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name in quantized or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for i, value in enumerate(node.input):
            if (pair := writers.get(value)) is None or pair.op_type != "DequantizeLinear":
                continue
            rounding = writers.get(pair.input[0])
            if rounding is None or rounding.op_type != "QuantizeLinear":
                continue
            source = writers.get(rounding.input[0])
            if source is None or source.name not in quantized:
                node.input[i] = rounding.input[0]


@contextlib.contextmanager
def _no_preprocessing_advice() -> Iterator[None]:
    """Suppress ONNX Runtime's advice to fold the graph first, which this graph does not need."""

    def is_no_advice(record: logging.LogRecord) -> bool:
        return "pre-processing" not in record.getMessage()

    logging.getLogger().addFilter(is_no_advice)
    try:
        yield
    finally:
        logging.getLogger().removeFilter(is_no_advice)
