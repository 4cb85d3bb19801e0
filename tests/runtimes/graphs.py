"""Small ONNX graphs with the inputs and outputs of exported models: their answer depends on an image's mean color."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rtdetr.runtimes.metadata import ExportMetadata

QUERIES, CLASSES = 6, 3
SIZE = 64


def make_metadata(**changes) -> ExportMetadata:
    values = {
        "model": "mean-color",
        "names": ("bolt", "nut", "washer"),
        "category_ids": (4, 9, 2),
        "size_hw": (SIZE, SIZE),
        "num_queries": QUERIES,
        "library_version": "0",
    }
    return ExportMetadata(**(values | changes))


def make_graph(metadata: ExportMetadata, *, batch: int = 1, described: bool = True) -> onnx.ModelProto:
    """A graph of the form that `metadata` says; `described=False` leaves that away."""
    rng = np.random.default_rng(0)
    constants = {
        "score_weight": rng.normal(size=(3, QUERIES * CLASSES), scale=4),
        "box_weight": rng.normal(size=(3, QUERIES * 4), scale=2),
        "scale": np.array(255 if metadata.preprocess == "in_graph" else 1),
    }
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    shapes = {"s1": [-1, QUERIES, CLASSES], "s2": [-1, QUERIES, 4], "s3": [-1, QUERIES * CLASSES], "axes": [2, 3]}
    shapes |= {"k": [QUERIES], "classes": [CLASSES], "last": [2], "one": [1], "four": [1, 1, 4], "two": [1, 2]}
    tensors += [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()]
    nodes = [helper.make_node("Div", ["planes", "scale"], ["scaled"])]
    if metadata.preprocess == "in_graph":
        nodes.insert(0, helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]))
        nodes.insert(0, helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT))
    else:
        nodes.insert(0, helper.make_node("Identity", ["images"], ["planes"]))
    raw = metadata.postprocess == "raw"
    nodes += [
        helper.make_node("ReduceMean", ["scaled", "axes"], ["color"], keepdims=0),
        helper.make_node("MatMul", ["color", "score_weight"], ["flat_logits"]),
        helper.make_node("Reshape", ["flat_logits", "s1"], ["logits"]),
        helper.make_node("MatMul", ["color", "box_weight"], ["flat_boxes"]),
        helper.make_node("Sigmoid", ["flat_boxes"], ["unit_boxes"]),
        helper.make_node("Reshape", ["unit_boxes", "s2"], ["boxes" if raw else "cxcywh"]),
    ]
    nodes += [] if raw else _best(in_graph=metadata.preprocess == "in_graph")
    graph = helper.make_graph(nodes, "mean-color", _inputs(metadata, batch), _outputs(raw), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if described:
        helper.set_model_props(model, {"rtdetr": metadata.to_json()})
    onnx.checker.check_model(model)
    return model


def save_graph(path: Path, metadata: ExportMetadata | None = None, **options) -> Path:
    onnx.save(make_graph(metadata or make_metadata(), **options), path)
    return path


def change_input(model: onnx.ModelProto, name: str, kind: int, *, sides: tuple[int, ...] = ()) -> onnx.ModelProto:
    """Give an input another type, as other programs write it, and fixed sides."""
    port = next(one for one in model.graph.input if one.name == name).type.tensor_type
    for node in model.graph.node:
        node.input[:] = [f"{name} of before" if one == name else one for one in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", [name], [f"{name} of before"], to=port.elem_type))
    port.elem_type = kind
    for place, side in enumerate(sides):
        port.shape.dim[place].dim_value = side
    return model


def expected_logits(pixels: np.ndarray) -> np.ndarray:
    """Logits of the graph for an image whose mean color the resize keeps: one of a single color."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, QUERIES * CLASSES), scale=4).astype(np.float32)
    return (pixels.reshape(-1, 3).mean(0) / 255 @ weight).reshape(QUERIES, CLASSES)


def _inputs(metadata: ExportMetadata, batch: int) -> list:
    free = "b" if metadata.dynamic_batch else batch
    if metadata.preprocess == "in_graph":
        return [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, "h", "w", 3])]
    sides = ["h", "w"] if metadata.dynamic_size else list(metadata.size_hw)
    inputs = [helper.make_tensor_value_info("images", TensorProto.FLOAT, [free, 3, *sides])]
    if metadata.postprocess == "boxes":
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [free, 2]))
    return inputs


def _outputs(raw: bool) -> list:
    if raw:
        types = {"logits": (TensorProto.FLOAT, 3), "boxes": (TensorProto.FLOAT, 3)}
    else:
        types = {"labels": (TensorProto.INT64, 2), "boxes": (TensorProto.FLOAT, 3), "scores": (TensorProto.FLOAT, 2)}
    return [helper.make_tensor_value_info(name, kind, [None] * rank) for name, (kind, rank) in types.items()]


def _best(*, in_graph: bool) -> list:
    """Nodes from logits and cxcywh to the best pairs of a query and a class, boxes in pixels."""
    nodes = [
        helper.make_node("Sigmoid", ["logits"], ["all_scores"]),
        helper.make_node("Reshape", ["all_scores", "s3"], ["flat_scores"]),
        helper.make_node("TopK", ["flat_scores", "k"], ["scores", "index"]),
        helper.make_node("Mod", ["index", "classes"], ["labels"]),
        helper.make_node("Div", ["index", "classes"], ["query"]),
        helper.make_node("Unsqueeze", ["query", "last"], ["query_column"]),
        helper.make_node("Tile", ["query_column", "four"], ["query_index"]),
        helper.make_node("Split", ["cxcywh"], ["center", "extent"], axis=2, num_outputs=2),
        helper.make_node("Constant", [], ["factor"], value_float=0.5),
        helper.make_node("Mul", ["extent", "factor"], ["half"]),
        helper.make_node("Sub", ["center", "half"], ["low"]),
        helper.make_node("Add", ["center", "half"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["corners"], axis=2),
    ]
    if in_graph:  # width and height of the image that came in
        nodes += [
            helper.make_node("Shape", ["images"], ["height"], start=1, end=2),
            helper.make_node("Shape", ["images"], ["width"], start=2, end=3),
            helper.make_node("Concat", ["width", "height"], ["wh"], axis=0),
            helper.make_node("Constant", [], ["zero"], value_ints=[0]),
            helper.make_node("Unsqueeze", ["wh", "zero"], ["sizes"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["orig_target_sizes"], ["sizes"]))
    return [
        *nodes,
        helper.make_node("Cast", ["sizes"], ["float_sizes"], to=TensorProto.FLOAT),
        helper.make_node("Tile", ["float_sizes", "two"], ["whwh"]),
        helper.make_node("Unsqueeze", ["whwh", "one"], ["whwh_column"]),
        helper.make_node("Mul", ["corners", "whwh_column"], ["pixel_corners"]),
        helper.make_node("GatherElements", ["pixel_corners", "query_index"], ["boxes"], axis=1),
    ]
