"""INT8 in ONNX: QuantizeLinear and DequantizeLinear for convolutions and products, calibrated by ONNX Runtime."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from rtdetr.export.job import Job
from rtdetr.export.onnx.export import write_onnx
from rtdetr.export.samples import Feed
from rtdetr.export.stages import is_part


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
    quantized = [node.name for node in graph.graph.node if is_part(node.name, stages)]
    if not quantized:
        return len(graph.graph.node)
    symmetric = job.options.int8_or_default.symmetric
    with _no_preprocessing_advice():
        quantize_static(
            graph,
            file,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_quantize=quantized,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # 7 bits, see `rtdetr.export.quantize`
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,  # TensorRT has no int32 biases
            },
        )
    return len(onnx.load(file).graph.node)


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
