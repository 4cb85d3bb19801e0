"""A backbone that the hand-built ONNX graph has no operators for, such as timm's, through torch's own exporter."""

import copy
import io
import warnings
from typing import Any

import onnx
import torch
from onnx import compose, version_converter
from torch import Tensor

from rtdetr.config import STRIDES
from rtdetr.errors import ExportError
from rtdetr.models.backbone import Backbone

_NEWEST_OPSET = 20  # that torch.onnx.export writes with dynamo=False, which needs no further package


def torch_graph(module: Backbone, example: Tensor, *, opset: int, half: bool, name: str) -> onnx.GraphProto:
    """Return the graph of a backbone, from images to the maps of strides 8, 16 and 32.

    Args:
        module: the backbone, in eval mode; it is copied.
        example: images (b, c, h, w) of the size that is exported; batch and sides stay free in the nodes, but what a
            backbone computes from sizes outside tensors is fixed to this size.
        opset: version of the operator set.
        half: compute in float16.
        name: what the names in the graph begin with.

    Raises:
        ExportError: torch cannot export the backbone.
    """
    outputs = [f"map{stride}" for stride in STRIDES]
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    axes |= {output: {0: "batch", 2: f"{output}_height", 3: f"{output}_width"} for output in outputs}
    dtype = torch.float16 if half else torch.float32
    file: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself, and of the tracer about sizes
        try:
            torch.onnx.export(
                copy.deepcopy(module).to(dtype),
                (example.to(dtype),),
                file,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=min(opset, _NEWEST_OPSET),
                dynamo=False,
            )
            model = onnx.load_from_string(file.getvalue())
            if opset > _NEWEST_OPSET:
                model = version_converter.convert_version(model, opset)
        except Exception as error:  # whatever the exporter meets
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"torch.onnx {torch.__version__} cannot export {type(module).__name__}: {reason}. Format torch may"
            ) from error
    return compose.add_prefix_graph(model.graph, f"{name}.")
