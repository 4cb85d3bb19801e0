"""Profile a network in OpenVINO."""

from typing import Any

import numpy as np
import openvino

from rtdetr.benchmark.profile import EngineProfile, Operation, feed_of
from rtdetr.runtimes.openvino_core import openvino_core, read_ir
from rtdetr.runtimes.openvino_detector import TYPES, OpenVINODetector
from rtdetr.runtimes.outputs import Batch

try:
    from openvino import opset13 as ops
except ImportError:  # OpenVINO 2024
    from openvino.runtime import opset13 as ops  # pyright: ignore[reportMissingImports]

_PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
_UNTIMED = ("Parameter", "Constant", "Result", "Input", "Output")


def profile_engine(detector: OpenVINODetector, batch: Batch, *, rounds: int) -> EngineProfile:
    """Run the file with OpenVINO's counters, and each of its convolutions and matrix products alone."""
    model = read_ir(detector.path)
    feed = feed_of(detector, batch, [port.any_name for port in model.inputs])
    model.reshape({name: list(value.shape) for name, value in feed.items()})
    settings = _settings(detector)
    runs = _runs(model, feed, settings, rounds)
    if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):  # INT8
        return EngineProfile(runs, None)
    alone: dict[str, float] = {}
    floor = 0.0
    for op in model.get_ordered_ops():
        if op.get_type_name() in _PRODUCTS:
            shapes = [list(op.input_value(i).get_shape()) for i in range(2)]
            key = f"{op.get_type_name()} {shapes} {op.get_attributes()}"
            if key not in alone:
                alone[key] = _alone(op, shapes, settings, rounds)
            floor += alone[key]
    return EngineProfile(runs, floor)


def _settings(detector: OpenVINODetector) -> dict[str, Any]:
    precision = detector.precision.removeprefix("int8 and ")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    settings["INFERENCE_PRECISION_HINT"] = TYPES.get(precision, precision)
    if detector.num_threads is not None:
        settings["INFERENCE_NUM_THREADS"] = detector.num_threads
    return settings


def _runs(
    model: openvino.Model, feed: dict[str, np.ndarray], settings: dict[str, Any], rounds: int
) -> list[list[Operation]]:
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()
    runs = []
    for turn in range(rounds + 2):
        request.infer(feed)
        if turn >= 2:
            runs.append(
                [
                    Operation(one.node_name, one.node_type, one.real_time.total_seconds() * 1e3)
                    for one in request.profiling_info
                    if one.node_type not in _UNTIMED and one.real_time.total_seconds() > 0
                ]
            )
    return runs


def _alone(op: Any, shapes: list[list[int]], settings: dict[str, Any], rounds: int) -> float:
    """Median milliseconds of one operator in a graph of its own; conversions of its input are not counted."""
    first = ops.parameter(shapes[0], np.float32)
    has_weights = _is_constant(op.input_value(1).get_node())
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    second = ops.constant(values[1]) if has_weights else ops.parameter(shapes[1], np.float32)
    attributes = op.get_attributes()
    if op.get_type_name() == "MatMul":
        node = ops.matmul(first, second, attributes["transpose_a"], attributes["transpose_b"])
    else:
        build = ops.convolution if op.get_type_name() == "Convolution" else ops.group_convolution
        node = build(
            *(first, second, attributes["strides"], attributes["pads_begin"], attributes["pads_end"]),
            attributes["dilations"],
        )
    # a following operator, so that the engine does not convert the output inside the measured one
    make_model: Any = openvino.Model
    model = make_model([ops.relu(node)], [first] if has_weights else [first, second])
    for number, port in enumerate(model.inputs):
        port.get_tensor().set_names({f"x{number}"})
    runs = _runs(model, {f"x{number}": values[number] for number in range(len(model.inputs))}, settings, rounds)
    kinds = ("Convolution", "GroupConvolution", "MatMul", "FullyConnected", "Gemm")
    return float(np.median([sum(one.ms for one in run if one.kind in kinds) for run in runs]))


def _is_constant(node: Any) -> bool:
    """Whether a value is a constant, possibly stored in another type and converted."""
    if node.get_type_name() in ("Constant", "Parameter"):
        return node.get_type_name() == "Constant"
    return all(_is_constant(node.input_value(i).get_node()) for i in range(node.get_input_size()))
