"""Export a backbone that the hand-built ONNX graph does not support, such as one of timm, with torch's own exporter."""

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

_NEWEST_OPSET = 20  # highest opset of torch.onnx.export with dynamo=False, which needs no additional package


def torch_graph(module: Backbone, example: Tensor, *, opset: int, half: bool, name: str) -> onnx.GraphProto:
    """Return the graph of a backbone, from images to the maps of strides 8, 16 and 32.

    Args:
        module: the backbone, in eval mode; it is copied.
        example: images (b, c, h, w) of the exported size. Batch and size of the graph are dynamic, but values that the
            backbone computes from sizes in Python are fixed to this size.
        opset: version of the operator set.
        half: compute in float16.
        name: prefix of the names in the graph.

    Raises:
        ExportError: torch cannot export the backbone.
    """
    outputs = [f"map{stride}" for stride in STRIDES]
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    axes |= {output: {0: "batch", 2: f"{output}_height", 3: f"{output}_width"} for output in outputs}
    dtype = torch.float16 if half else torch.float32
    file: Any = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns that it is deprecated, and the tracer about sizes
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
        except Exception as error:  # the exporter raises many types
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(
                f"torch.onnx {torch.__version__} cannot export {type(module).__name__}: {reason}. Try --format torch"
            ) from error
    return compose.add_prefix_graph(model.graph, f"{name}.")
