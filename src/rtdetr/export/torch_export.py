"""Programs that PyTorch runs without this library: `torch.export` programs (.pt2), or packages of AOTInductor.

    program = torch.export.load("model.pt2").module()          # any machine, any later PyTorch
    package = torch._inductor.aoti_load_package("model.pt2")   # only the type of CPU and the PyTorch that compiled it
    labels, boxes, scores = program(images, orig_target_sizes)

The metadata of the model is the extra file "rtdetr" of a program, and an entry of the metadata of a package.
"""

import copy
import io
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rtdetr.config import STRIDE, pytorch_precision
from rtdetr.devices import DTYPES
from rtdetr.errors import ExportError
from rtdetr.export.job import Job, input_size
from rtdetr.export.options import ExportOptions
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR, postprocess
from rtdetr.runtimes.metadata import KEY

_MAX_BATCH, _MAX_SIDE = 1024, 8192


class ExportGraph(nn.Module):
    """A network from images to detections, for `torch.export` to trace.

    Inputs: `images` float32 (b, c, h, w) in [0, 1] and, for "boxes", `orig_target_sizes` int64 (b, 2) as (width,
    height). With `preprocess` the only input is `images` uint8 (1, h, w, c) of any size.
    Outputs: for "boxes" `labels` int64 (b, n), `boxes` float32 (b, n, 4) as xyxy in pixels and `scores` float32 (b, n);
    for "raw" `logits` float32 (b, q, k) and `boxes` float32 (b, q, 4) as normalized cxcywh.

    Args:
        network: result of `prepared`; may have been converted to another dtype.
        preprocess: resize and scale in the graph.
        postprocess: "boxes" or "raw".
        one_label: for "boxes", return only the best class of each query.
        size_hw: the network's input size, needed if the graph resizes.
    """

    def __init__(
        self,
        network: RTDETR,
        *,
        preprocess: bool = False,
        postprocess: str = "boxes",
        one_label: bool = False,
        size_hw: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if preprocess and (size_hw is None or postprocess != "boxes"):
            raise ExportError("a graph that resizes needs size_hw and postprocess='boxes'")
        self.network = copy.deepcopy(network).eval()
        self.size_hw = size_hw if preprocess else None
        self.postprocess = postprocess
        self.one_label = one_label

    def forward(self, images: Tensor, orig_target_sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs described in the class docstring."""
        if self.size_hw is not None:
            orig_target_sizes = torch.tensor([[images.shape[2], images.shape[1]]], device=images.device)
            planes = images.permute(0, 3, 1, 2).float()
            resized = F.interpolate(planes, self.size_hw, mode="bilinear", align_corners=False, antialias=True)
            images = resized.round().clamp(0, 255) / 255
        logits, boxes = self.network(images)[:2]
        logits, boxes = logits.float(), boxes.float()
        if self.postprocess == "raw":
            return logits, boxes
        assert orig_target_sizes is not None  # the exporter gives both inputs
        return postprocess(logits, boxes, sizes_wh=orig_target_sizes, one_label=self.one_label)


def write_torch(job: Job, file: Path) -> int | None:
    """Write a `.pt2` file with the inputs and outputs of `ExportGraph`; return the number of calls in a program.

    Compiling needs a C++ compiler and takes a minute or more.

    Raises:
        ExportError: the network cannot be traced, there is no C++ compiler, or the file cannot be written.
    """
    compiled = job.options.compiled
    if compiled and shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ExportError("AOTInductor needs a C++ compiler, found none: install g++, or export without --compiled")
    program = trace(job.network, job.options)
    write = _compile if compiled else _save
    write_atomically(file, lambda part: write(program, part, job.metadata.to_json()), error=ExportError)
    return None if compiled else sum(node.op == "call_function" for node in program.graph.nodes)


def trace(network: RTDETR, options: ExportOptions) -> ExportedProgram:
    """Trace a network from `prepared` with torch.export.

    Raises:
        ExportError: the network cannot be traced.
    """
    size_hw = input_size(network, options)
    graph = ExportGraph(
        network,
        preprocess=options.preprocess,
        postprocess=options.postprocess,
        one_label=options.one_label,
        size_hw=size_hw,
    ).requires_grad_(False)
    graph.network.to(DTYPES[pytorch_precision(options.precision)])
    if options.dynamic_size:
        graph.network.decoder.eval_sizes_hw = None  # stored anchors are valid for one size only
    example, shapes = _example(options, size_hw, network.config.in_channels)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # internal warnings of the tracer
        try:
            return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
        except Exception as error:  # the tracer raises many types
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"torch.export {torch.__version__} cannot trace this network: {reason}") from error


def _example(
    options: ExportOptions, size_hw: tuple[int, int], channels: int
) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...] | None]:
    """Return example inputs to trace with, and their dynamic axes."""
    if options.preprocess:
        images = torch.zeros(1, 480, 640, channels, dtype=torch.uint8)
        axes = {1: Dim("height", min=2, max=_MAX_SIDE), 2: Dim("width", min=2, max=_MAX_SIDE)}
        return (images,), (axes,)
    height, width = size_hw
    if options.dynamic_size and height == width:
        width += STRIDE  # from two equal sides the tracer would conclude that all images are square
    batch = 2 if options.dynamic_batch else 1
    axes = {}
    if options.dynamic_batch:
        axes[0] = Dim("batch", min=1, max=_MAX_BATCH)
    if options.dynamic_size:
        axes[2] = STRIDE * Dim("lines", min=1, max=_MAX_SIDE // STRIDE)
        axes[3] = STRIDE * Dim("columns", min=1, max=_MAX_SIDE // STRIDE)
    images, sizes = torch.zeros(batch, channels, height, width), torch.full((batch, 2), 640)
    if options.postprocess == "raw":
        return (images,), (axes,) if axes else None
    return (images, sizes), (axes, {axis: axes[axis] for axis in axes if axis == 0}) if axes else None


def _save(program: ExportedProgram, file: Path, description: str) -> None:
    content = io.BytesIO()  # when it writes to a full disk itself, torch aborts the process
    torch.export.save(program, content, extra_files={KEY: description})
    with content.getbuffer() as payload:
        file.write_bytes(payload)


def _compile(program: ExportedProgram, file: Path, description: str) -> None:
    package = file.with_suffix(".pt2")
    try:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(package), inductor_configs={"aot_inductor.metadata": {KEY: description}}
        )
        package.replace(file)
    except Exception as error:  # compilers raise many types
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(f"AOTInductor cannot compile this network: {reason}") from error
    finally:
        package.unlink(missing_ok=True)
