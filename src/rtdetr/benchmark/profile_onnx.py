"""Profile a network in ONNX Runtime."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from rtdetr.benchmark.profile import EngineProfile, Operation, feed_of
from rtdetr.runtimes.onnx_detector import OnnxDetector
from rtdetr.runtimes.outputs import Batch

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_KERNEL = "_kernel_time"


def profile_engine(detector: OnnxDetector, batch: Batch, *, rounds: int) -> EngineProfile:
    """Run the file with ONNX Runtime's profiler, and each of its convolutions and matrix products alone."""
    graph = onnx.load(detector.path)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.input}
    feed = feed_of(detector, batch, [node.name for node in detector.session.get_inputs()])
    feed = {name: value.astype(helper.tensor_dtype_to_np_dtype(types[name])) for name, value in feed.items()}
    runs = _runs(graph.SerializeToString(), feed, detector, rounds)
    values = _inputs_of_products(graph, feed)
    if any(value.dtype != np.float32 for value in values.values()) or _is_quantized(graph):
        return EngineProfile(runs, None)
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    alone: dict[str, float] = {}
    floor = 0.0
    for node in graph.graph.node:
        if node.op_type in _PRODUCTS:
            sizes = [list(stored[name].dims) if name in stored else list(values[name].shape) for name in node.input]
            key = f"{node.op_type} {sizes} {sorted(map(str, node.attribute))}"
            if key not in alone:
                alone[key] = _alone(node, sizes, [name in stored for name in node.input], graph, detector, rounds)
            floor += alone[key]
    return EngineProfile(runs, floor)


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in model.graph.node)


def _inputs_of_products(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the computed inputs of all products, from a run: a graph for any size does not state their shapes."""
    stored = {tensor.name for tensor in model.graph.initializer}
    read = {name for node in model.graph.node if node.op_type in _PRODUCTS for name in node.input}
    names = sorted(read - stored)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in feed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    computed = [name for name in names if name not in feed]
    found: Any = session.run(computed, feed)
    return dict(zip(computed, found, strict=True)) | {name: feed[name] for name in names if name in feed}


def _alone(
    node: onnx.NodeProto,
    sizes: list[list[int]],
    are_stored: list[bool],
    model: onnx.ModelProto,
    detector: OnnxDetector,
    rounds: int,
) -> float:
    """Median milliseconds of one operator in a graph of its own; conversions of its input are not counted."""
    rng = np.random.default_rng(0)
    names = [f"x{number}" for number in range(len(sizes))]
    values = {name: rng.standard_normal(size, dtype=np.float32) for name, size in zip(names, sizes, strict=True)}
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.input[:], copy.output[:]
    copy.input.extend(names)
    copy.output.append("y")
    float_type = onnx.TensorProto.FLOAT
    given = [name for name, is_stored in zip(names, are_stored, strict=True) if not is_stored]
    graph = helper.make_graph(
        [copy],
        "alone",
        [helper.make_tensor_value_info(name, float_type, values[name].shape) for name in given],
        [helper.make_tensor_value_info("y", float_type, None)],
        [numpy_helper.from_array(values[name], name) for name in names if name not in given],
    )
    single = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    runs = _runs(single.SerializeToString(), {name: values[name] for name in given}, detector, rounds)
    return float(np.median([sum(one.ms for one in run if "Reorder" not in one.kind) for run in runs]))


def _runs(graph: bytes, feed: dict[str, np.ndarray], detector: OnnxDetector, rounds: int) -> list[list[Operation]]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = detector.session.get_session_options().intra_op_num_threads
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(graph, options, providers=detector.session.get_providers())
        for _ in range(rounds + 2):
            session.run(None, feed)
        events: list[Any] = json.loads(Path(session.end_profiling()).read_text())
    return _by_run(events)[2:]


def _by_run(events: list[Any]) -> list[list[Operation]]:
    """Group the operators by run."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    runs: list[list[Operation]] = [[] for _ in starts]
    for event in sorted(events, key=lambda event: event["ts"]):
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            number = int(np.searchsorted(starts, event["ts"], side="right")) - 1
            name = event["name"].removesuffix(_KERNEL)
            runs[number].append(Operation(name, event["args"]["op_name"], event["dur"] / 1e3))
    return runs
