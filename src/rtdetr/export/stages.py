"""Find where an exported model starts to differ: compare the outputs of the network's stages with PyTorch's.

In an ONNX graph the output of each module has the module's name, and OpenVINO keeps these names. Values inside
torch.export programs, AOTInductor packages and TensorRT engines cannot be read.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rtdetr.export.agreement import Tolerance
from rtdetr.preprocessing import scale
from rtdetr.runtimes.graph_form import SIZES

STAGE = re.compile(
    r"(?:^|\.)((?:backbone\.(?:conv1|stem|res_layers\.\d+|stages\.\d+)"
    r"|encoder\.(?:input_proj|encoder|lateral_convs|fpn_blocks|downsample_convs|pan_blocks)\.\d+"
    r"|decoder\.(?:input_proj\.\d+|enc_score_head|decoder\.layers\.\d+|dec_score_head\.\d+)))$"
)
# after query selection, which may order close scores differently
QUERY_STAGE = re.compile(r"decoder\.(decoder|dec_score_head)\.")
_LIMIT = 5  # a stage diverges if its error exceeds the score tolerance by this factor

Values = dict[str, np.ndarray]


def stage_errors(
    path: Path, network: nn.Module, image: np.ndarray, *, of_most_queries: bool = False
) -> dict[str, float] | None:
    """Relative error of each stage that the file names, in network order; None if the format exposes no stages.

    Args:
        path: an .onnx or .xml file.
        network: the float32 reference on the CPU.
        image: uint8 (c, h, w), of the input size of the file.
        of_most_queries: for decoder stages, return the median error over the queries. If all scores are low, rounding
            decides which queries are selected, and some may belong to other places in the image.
    """
    if not shows_stages(path):
        return None
    read = _onnx_values if path.suffix.lower() == ".onnx" else _openvino_values
    expected = _torch_values(network, torch.from_numpy(scale(image)[None]))
    found = read(path, list(expected), lambda shapes: _feeds(shapes, image))
    return {
        name: _error(value, found[name], name, of_most_queries) for name, value in expected.items() if name in found
    }


def stages_of(network: nn.Module) -> list[str]:
    """Return the names of a network's stages, in network order."""
    return [match[1] for name, _ in network.named_modules() if (match := STAGE.search(name))]


def is_part(name: str, stages: Sequence[str]) -> bool:
    """Whether a value of a graph with this name belongs to one of the stages."""
    return any(name == stage or name.startswith(f"{stage}.") for stage in stages)


def is_quantizable(name: str, stages: Sequence[str]) -> bool:
    """Whether a value of a graph with this name may be computed in INT8, if these stages may."""
    return is_part(name, stages) and not name.endswith(".cross_attn.points")


def shows_stages(path: Path) -> bool:
    """Whether the format of a file exposes stages to `stage_errors`."""
    return path.suffix.lower() in (".onnx", ".xml")


def largest_error(tolerance: Tolerance) -> float:
    """Return the largest relative error of a stage that this tolerance allows."""
    return _LIMIT * tolerance.score


def first_diverging(errors: dict[str, float], tolerance: Tolerance) -> str | None:
    """Return the first stage with a relative error beyond this tolerance."""
    limit = largest_error(tolerance)
    return next((name for name, error in errors.items() if not error <= limit), None)


def _torch_values(network: nn.Module, images: torch.Tensor) -> Values:
    values: Values = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: values.__setitem__(name, output.float().numpy())

    hooks = [
        module.register_forward_hook(recorder(match[1]))
        for name, module in network.named_modules()
        if (match := STAGE.search(name))
    ]
    try:
        with torch.inference_mode():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return values


def _feeds(inputs: dict[str, bool], image: np.ndarray) -> Values:
    """Return the values of a file's inputs; `inputs` maps each name to whether it is uint8."""
    height, width = image.shape[1:]
    pixels, planes = image.transpose(1, 2, 0)[None], scale(image)[None]
    images = {name: pixels if is_uint8 else planes for name, is_uint8 in inputs.items()}
    return {**images, **{n: np.array([[width, height]]) for n in inputs if n == SIZES}}


def _onnx_values(path: Path, stages: list[str], feeds: Callable[[dict[str, bool]], Values]) -> Values:
    import onnx
    import onnxruntime

    model = onnx.load(path)  # a copy in memory; the file does not change
    known = {name for node in model.graph.node for name in node.output}
    names = [name for name in stages if name in known]
    # in INT8 a stage ends with its rounding, which also replaces ReLU
    rounded = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    floats = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    outputs = [floats.get(rounded.get(name, ""), name) for name in names]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {one.name: one.type == "tensor(uint8)" for one in session.get_inputs()}
    values = session.run(outputs, feeds(inputs)) if names else []
    return dict(zip(names, (np.asarray(value, dtype=np.float32) for value in values), strict=True))


def _openvino_values(path: Path, stages: list[str], feeds: Callable[[dict[str, bool]], Values]) -> Values:
    import openvino

    from rtdetr.runtimes.openvino_core import openvino_core, read_ir

    model = read_ir(path)
    known = {name for op in model.get_ops() for output in op.outputs() for name in output.get_names()}
    names = [name for name in stages if name in known]
    for name in names:
        model.add_outputs(name)
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = {one.any_name: one.element_type == openvino.Type.u8 for one in compiled.inputs}
    values = compiled(feeds(inputs))
    return {name: np.asarray(values[compiled.output(name)], dtype=np.float32) for name in names}


def _error(expected: np.ndarray, found: np.ndarray, name: str, of_most_queries: bool) -> float:
    """Norm of the difference divided by the norm of `expected`; infinity if shapes differ or a value is not finite."""
    if expected.size != found.size or not np.isfinite(found).all():
        return float("inf")
    found = found.reshape(expected.shape)  # tokens may be flattened
    if QUERY_STAGE.match(name):  # compare each query with the most similar one
        rows, others = expected.reshape(-1, expected.shape[-1]), found.reshape(-1, found.shape[-1])
        found = others[((rows[:, None] - others[None]) ** 2).sum(-1).argmin(1)]
        expected = rows
        if of_most_queries:
            errors = np.linalg.norm(expected - found, axis=1) / np.maximum(np.linalg.norm(expected, axis=1), 1e-12)
            return float(np.median(errors))
    return float(np.linalg.norm(expected - found) / max(float(np.linalg.norm(expected)), 1e-12))
