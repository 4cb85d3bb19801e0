"""What can be asked of an export, and what comes back. Every exporter takes the same `ExportOptions`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from rtdetr.config import Size, SizeHW, Strict
from rtdetr.errors import ConfigError

if TYPE_CHECKING:
    from rtdetr.export.verify import VerifyReport
    from rtdetr.runtimes.metadata import ExportMetadata

Format = Literal["onnx", "openvino", "tensorrt", "torch"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Postprocess = Literal["raw", "boxes"]

GRID_SAMPLE_OPSET = 16  # the first with this operator; graphs of older opsets gather pixels one by one
LAYER_NORM_OPSET = 17


class ExportOptions(Strict):
    """Settings of an export.

    Args:
        format: kind of file.
        dynamic_batch: accept any number of images; otherwise one.
        dynamic_size: accept any height and width that are multiples of 32 and give at least `num_queries` tokens
            (height * width * 21 / 1024); otherwise only `size_hw`.
        size_hw: height and width of the network's input, pixels; None: the size the model was evaluated at, else
            640x640.
        opset: version of ONNX's operator set, 13 or higher; below 16 the graph only gathers.
        precision: number type of weights and activations; inputs and outputs stay float32.
        preprocess: take one uint8 image (1, h, w, 3) of any size, and resize and scale it in the graph.
        postprocess: "boxes": the best detections as labels, boxes in pixels and scores; "raw": the network's logits and
            normalised boxes.
        sampling: how the decoder reads the maps; None: as the model was trained.
        num_layers: decoder layers to run; None: those of the model.
        num_queries: object queries; None: those of the model.
        nms_iou: in each class, give detections that overlap a better one by more than this IoU the score 0.
        gather_only: do without GridSample, and with tensors of at most 4 dimensions.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    format: Format = "onnx"
    dynamic_batch: bool = False
    dynamic_size: bool = False
    size_hw: SizeHW | None = None
    opset: int = Field(default=18, ge=13)
    precision: Precision = "fp32"
    preprocess: bool = False
    postprocess: Postprocess = "boxes"
    sampling: Literal["bilinear", "discrete"] | None = None
    num_layers: Size | None = None
    num_queries: Size | None = None
    nms_iou: float | None = Field(default=None, ge=0.0, le=1.0)
    gather_only: bool = False

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.size_hw is not None and any(side % 32 for side in self.size_hw):
            raise ConfigError(f"size_hw must be multiples of 32, got {self.size_hw[0]}x{self.size_hw[1]}")
        if self.preprocess and (self.dynamic_batch or self.dynamic_size):
            raise ConfigError("preprocess takes one image of any size and resizes it to size_hw: drop the dynamic axes")
        if self.postprocess == "raw" and (self.preprocess or self.nms_iou is not None):
            raise ConfigError("preprocess and nms_iou need postprocess='boxes', got 'raw'")
        return self

    @property
    def gathers(self) -> bool:
        """Whether the decoder reads the maps without GridSample."""
        return self.gather_only or self.opset < GRID_SAMPLE_OPSET


class ExportResult(NamedTuple):
    """A finished export.

    path: the file.
    size_bytes: its size, with the weights where they are in a file of their own.
    num_nodes: operators in its graph; None where not counted.
    metadata: what it says about itself.
    report: of the comparison with the network in float32; None where there was none.
    """

    path: Path
    size_bytes: int
    num_nodes: int | None
    metadata: "ExportMetadata"
    report: "VerifyReport | None" = None
