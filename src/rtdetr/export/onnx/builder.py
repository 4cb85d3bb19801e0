"""Builder of ONNX graphs: each call adds one operator and returns the name of its output."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from rtdetr.export.options import LAYER_NORM_OPSET

GELU_OPSET = 20
REDUCE_AXES_INPUT_OPSET = 18  # since then the axes of ReduceMax and ReduceMean are an input
GRID_SAMPLE_LINEAR_OPSET = 20  # since then the mode is called "linear"


class GraphBuilder:
    """An ONNX graph under construction.

    Args:
        opset: ONNX opset.
        half: compute in float16; `wide` and `narrow` convert to float32 and back, and do nothing otherwise.
        merge_convolutions: compute 1x1 convolutions of the same map as one, followed by a Split. OpenVINO runs the
            Split as a copy, which costs more than the merged convolution saves.
    """

    def __init__(self, *, opset: int, half: bool = False, merge_convolutions: bool = True) -> None:
        self.merges_convolutions = merge_convolutions
        self.opset = opset
        self.half = half
        self.dtype = np.float16 if half else np.float32
        self.nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._small: dict[str, np.ndarray] = {}  # constants that are not parameters
        self._named: set[str] = set()
        self._known: dict[tuple[str, tuple[str, ...], str], str] = {}  # operator -> output
        self._scope = ""

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Begin the names of operators that are added without a name with that of their module."""
        outer, self._scope = self._scope, f"{name}."
        try:
            yield
        finally:
            self._scope = outer

    def _own_name(self, kind: str) -> str:
        return f"{self._scope}{kind}_{len(self.nodes)}"

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add an operator with one output, named `name` if given, and return the name of the output.

        Equal operators are added once, and operators on small constants are evaluated immediately.
        """
        key = (kind, inputs, str(attributes))
        if not name and key in self._known:
            return self._known[key]
        if inputs and all(value in self._small for value in inputs):
            node = helper.make_node(kind, inputs, ["y"], **attributes)
            feeds = {value: self._small[value] for value in inputs}
            results: Any = ReferenceEvaluator(node, opsets={"": self.opset}).run(None, feeds)
            result = np.asarray(results[0])
            found = self.constant(result, result.dtype)
        else:
            if not name:
                name = self._own_name(kind)
            elif name in self._named:  # a module that runs more than once
                name = f"{name}_{len(self.nodes)}"
            self._named.add(name)
            (found,) = self.split_op(kind, *inputs, names=(name,), **attributes)
        self._known[key] = found
        return found

    def split_op(self, kind: str, *inputs: str, names: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Add an operator with several outputs."""
        self.nodes.append(helper.make_node(kind, inputs, list(names), name=names[0], **attributes))
        return tuple(names)

    def top_k(self, x: str, count: int, names: tuple[str, str]) -> tuple[str, str]:
        """Return the largest values of each row, largest first, and their indices."""
        values, indices = self.split_op("TopK", x, self.constant([count]), names=names, axis=-1)
        return values, indices

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Return the name of a constant; equal constants are stored once."""
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        key = (str(array.dtype), np.shape(values), array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._small[name] = array.reshape(np.shape(values))
            self._constants[key] = self._store(name, self._small[name])
        return self._constants[key]

    def number(self, value: float) -> str:
        """Return a scalar in the graph's dtype."""
        return self.constant(value, self.dtype)

    def weight(self, values: Tensor, name: str) -> str:
        """Store a parameter of the network under its own name, in the graph's dtype."""
        array = values.detach().numpy().astype(self.dtype)
        known = self._initializers.get(name)
        assert known is None or np.array_equal(numpy_helper.to_array(known), array), f"two parameters are called {name}"
        return name if known is not None else self._store(name, array)

    def splice(self, graph: onnx.GraphProto, x: str) -> list[str]:
        """Append another graph, with unique names, after `x`, and return the names of its outputs."""
        self.op("Identity", x, name=graph.input[0].name)
        self.nodes.extend(graph.node)
        self._initializers |= {tensor.name: tensor for tensor in graph.initializer}
        return [output.name for output in graph.output]

    def _store(self, name: str, array: np.ndarray) -> str:
        self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def wide(self, x: str) -> str:
        """Cast `x` to float32, for operators that need more precision than 16 bits."""
        return self.op("Cast", x, to=TensorProto.FLOAT) if self.half else x

    def narrow(self, x: str) -> str:
        """Cast a float32 `x` to the graph's dtype."""
        return self.op("Cast", x, to=TensorProto.FLOAT16) if self.half else x

    def finite(self, x: str) -> str:
        """Clip a float16 sum to float16's range, in the same places as the network."""
        return self.op("Clip", x, self.number(-65504.0), self.number(65504.0)) if self.half else x

    def reshape(self, x: str, shape: Sequence[int], *, name: str = "") -> str:
        """Reshape; 0 keeps a dimension, one -1 is inferred."""
        return self.op("Reshape", x, self.constant(shape), name=name)

    def shape(self, *sides: int | str) -> str:
        """Return a shape from numbers and int64 vectors of the graph."""
        if all(isinstance(side, int) for side in sides):
            return self.constant(sides)
        parts = [side if isinstance(side, str) else self.constant([side]) for side in sides]
        return self.op("Concat", *parts, axis=0)

    def transpose(self, x: str, *axes: int) -> str:
        """Reorder dimensions."""
        return self.op("Transpose", x, perm=axes)

    def split(self, x: str, sizes: Sequence[int], *, axis: int) -> tuple[str, ...]:
        """Split a dimension into parts."""
        if x in self._small:
            parts = np.split(self._small[x], np.cumsum(sizes)[:-1], axis=axis)
            return tuple(self.constant(part, part.dtype) for part in parts)
        names = [f"{self._own_name('Split')}_{i}" for i in range(len(sizes))]
        return self.split_op("Split", x, self.constant(sizes), names=names, axis=axis)

    def reduce(self, kind: str, x: str, axis: int, *, keepdims: bool) -> str:
        """ReduceMax or ReduceMean over one dimension."""
        if self.opset < REDUCE_AXES_INPUT_OPSET:
            return self.op(kind, x, axes=[axis], keepdims=int(keepdims))
        return self.op(kind, x, self.constant([axis]), keepdims=int(keepdims))

    def layer_norm(self, x: str, weight: str, bias: str, *, eps: float, name: str) -> str:
        """Layer norm over the last dimension; one node if the opset has the operator."""
        if self.opset >= LAYER_NORM_OPSET:
            return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=eps, name=name)
        # squares exceed the range of 16 bits
        x = self.wide(x)
        centered = self.op("Sub", x, self.reduce("ReduceMean", x, -1, keepdims=True))
        variance = self.reduce("ReduceMean", self.op("Mul", centered, centered), -1, keepdims=True)
        deviation = self.op("Sqrt", self.op("Add", variance, self.constant(eps, np.float32)))
        normal = self.narrow(self.op("Div", centered, deviation))
        return self.op("Add", self.op("Mul", normal, weight), bias, name=name)

    def activation(self, x: str, kind: str | None, *, name: str = "") -> str:
        """ReLU, SiLU or GELU; `x` itself for None."""
        if kind is None:
            return x
        if kind == "relu":
            return self.op("Relu", x, name=name)
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x), name=name)
        if self.opset >= GELU_OPSET:
            return self.op("Gelu", x, name=name)
        error = self.op("Erf", self.op("Div", x, self.number(2**0.5)))
        share = self.op("Mul", x, self.op("Add", error, self.number(1.0)))
        return self.op("Mul", share, self.number(0.5), name=name)

    def model(
        self, *, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], name: str
    ) -> onnx.ModelProto:
        """Finish the graph; unused constants are removed."""
        read = {value for node in self.nodes for value in node.input}
        stored = [tensor for key, tensor in self._initializers.items() if key in read]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, stored)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
