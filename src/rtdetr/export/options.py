"""Options of an export. Values are checked here; `formats.py` checks them against the format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rtdetr.config import PRECISIONS, STRIDE, Fraction, Size, SizeHW, size_problem
from rtdetr.errors import ConfigError, one_of
from rtdetr.exported_files import ENDINGS
from rtdetr.runtimes.graph_form import IMAGES, SIZES
from rtdetr.runtimes.metadata import ExportMetadata
from rtdetr.runtimes.options import num_tokens
from rtdetr.strict import Strict
from rtdetr.wording import counted

DEFAULT_OPSET = 18  # also of the graphs for other engines: OpenVINO up to 2025.1 cannot read GridSample of opset 20
GRID_SAMPLE_OPSET = 16  # the first with this operator; graphs of older opsets gather pixels
LAYER_NORM_OPSET = 17

Range = tuple[int, int, int]
_FLAGS = {"batch": "--batch-range", "height": "--size-range", "width": "--size-range"}


def _known_format(name: str) -> str:
    return one_of("format", name, ENDINGS)


def _short_precision(name: object) -> object:
    """Return the short name of a precision, as used for exports."""
    return next((short for short, long in PRECISIONS.items() if long == name), name)


class EngineOptions(Strict):
    """Settings of TensorRT's builder. A range is (minimum, the value to optimize for, maximum).

    Args:
        batch: images per batch; None: 1, 1, 8 if the batch is dynamic.
        height: height of the network's input in pixels, multiples of 32; None: from half to double the model's own if
            sizes are dynamic.
        width: like height.
        workspace_gib: maximum GPU memory for one operation, GiB.
        timing_cache: file of timings that makes the next build faster; created or updated.

    Raises:
        ConfigError: a range is not ascending, or a side is not a multiple of 32.
    """

    section = "engine"

    batch: Range | None = None
    height: Range | None = None
    width: Range | None = None
    workspace_gib: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    timing_cache: Path | None = None

    @model_validator(mode="after")
    def _ranges_rise(self) -> Self:
        for axis in ("batch", "height", "width"):
            one = getattr(self, axis)
            if one is not None and not 1 <= one[0] <= one[1] <= one[2]:
                raise ConfigError(
                    f"{axis} ({_FLAGS[axis]}): expected 1 <= minimum <= optimum <= maximum, got {_listed(one)}"
                )
            if one is not None and axis != "batch" and any(side % STRIDE for side in one):
                raise ConfigError(f"{axis} ({_FLAGS[axis]}): expected multiples of {STRIDE}, got {_listed(one)}")
        return self

    @property
    def workspace_bytes(self) -> int:
        """The workspace in bytes."""
        return int(self.workspace_gib * 2**30)

    def shapes(self, metadata: ExportMetadata) -> dict[str, list[tuple[int, ...]]]:
        """Minimum, optimum and maximum shapes of a graph's inputs.

        Raises:
            ConfigError: a range is for an axis that is fixed in the graph, excludes the model's own size, or allows
                images with fewer tokens than the model has queries.
        """
        height, width = metadata.size_hw
        sides = [(height, width)] * 3
        if metadata.dynamic_size:
            half = max(STRIDE, height // 2 // STRIDE * STRIDE), max(STRIDE, width // 2 // STRIDE * STRIDE)
            least = half if num_tokens(half) >= metadata.num_queries else (height, width)
            sides = [least, (height, width), (2 * height, 2 * width)]
        usual = [(1, 1, 8) if metadata.dynamic_batch else (1, 1, 1), *zip(*sides, strict=True)]
        free = [metadata.dynamic_batch, metadata.dynamic_size, metadata.dynamic_size]
        found = []
        for axis, given, default, is_free in zip(
            ("batch", "height", "width"), (self.batch, self.height, self.width), usual, free, strict=True
        ):
            if given is not None and given != default and not is_free:
                raise ConfigError(
                    f"the graph has the fixed {axis} {default[1]}, got the range {_listed(given)} ({_FLAGS[axis]})"
                )
            found.append(given or default)
        for side, (least, _, most) in zip(metadata.size_hw, found[1:], strict=True):
            if not least <= side <= most:
                raise ConfigError(
                    f"the range {least} to {most} excludes the model's own size {side}: pass another size"
                )
        cases = list(zip(*found, strict=True))
        _, height, width = cases[0]
        if num_tokens((height, width)) < metadata.num_queries:
            raise ConfigError(
                f"images of {height}x{width} have {num_tokens((height, width))} tokens, fewer than the "
                f"{counted(metadata.num_queries, 'query')}: increase the minimum size"
            )
        shapes: dict[str, list[tuple[int, ...]]] = {
            IMAGES: [(batch, metadata.in_channels, height, width) for batch, height, width in cases]
        }
        if metadata.postprocess == "boxes":
            shapes[SIZES] = [(batch, 2) for batch, _, _ in cases]
        return shapes


class Int8Options(Strict):
    """Settings of an INT8 export.

    Args:
        max_drop: maximum loss of AP compared with the float32 network, 0..1; measured if a dataset is given.
        num_calibration: maximum number of calibration images, spread evenly over those given.
        symmetric: quantize as TensorRT needs it, at a cost in accuracy: symmetric ranges and, for ONNX, float biases;
            sampling gathers pixels.

    Raises:
        ConfigError: a value is out of range.
    """

    section = "int8"

    max_drop: Fraction = 0.01
    num_calibration: Size = 100
    symmetric: bool = False


class ExportOptions(Strict):
    """Settings of an export. `rtdetr.export.formats` lists which formats support which.

    Args:
        format: export format; None: determined by the extension of the file.
        dynamic_batch: accept any number of images; otherwise one.
        dynamic_size: accept any height and width that are multiples of 32 and give at least `num_queries` tokens
            (height * width * 21 / 1024); otherwise only `size_hw`.
        size_hw: height and width of the network's input, pixels; None: the size the model was evaluated at, otherwise
            640x640.
        opset: ONNX opset, 13 or higher; below 16 the graph gathers pixels instead of using GridSample. None: 18.
        precision: precision of weights and activations; inputs and outputs stay float32.
        preprocess: take one uint8 image (1, h, w, 3) of any size, and resize and scale it in the graph.
        postprocess: "boxes": output the best detections as labels, boxes in pixels and scores; "raw": output the
            network's logits and normalized boxes.
        sampling: how the decoder samples feature maps; None: as the model was trained.
        num_layers: number of decoder layers to run; None: those of the model.
        num_queries: number of object queries per image; None: that of the model.
        nms_iou: NMS IoU threshold; suppressed detections get a score of 0. NMS is per class.
        gather_only: use no GridSample and only tensors of at most 4 dimensions.
        one_label: return only the best class of each query instead of the best query-class pairs.
        compiled: compile with AOTInductor for this machine's type of processor.
        engine: settings of TensorRT's builder.
        int8: settings of precision "int8"; None: the defaults.

    Raises:
        ConfigError: a value is out of range, or settings contradict each other.
    """

    section = ""

    format: Annotated[str, AfterValidator(_known_format)] | None = None
    dynamic_batch: bool = False
    dynamic_size: bool = False
    size_hw: SizeHW | None = None
    opset: int | None = Field(default=None, ge=13)
    precision: Annotated[Literal["fp32", "fp16", "bf16", "int8"], BeforeValidator(_short_precision)] = "fp32"
    preprocess: bool = False
    postprocess: Literal["raw", "boxes"] = "boxes"
    sampling: Literal["bilinear", "discrete"] | None = None
    num_layers: Size | None = None
    num_queries: Size | None = None
    nms_iou: Fraction | None = None
    gather_only: bool = False
    one_label: bool = False
    compiled: bool = False
    engine: EngineOptions | None = None
    int8: Int8Options | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.size_hw is not None and (problem := size_problem(self.size_hw)):
            raise ConfigError(f"size_hw (--size): {problem}")
        if self.preprocess and (self.dynamic_batch or self.dynamic_size):
            raise ConfigError(
                "preprocess (--preprocess) takes one image of any size and resizes it to size_hw: leave the dynamic "
                "axes (--dynamic) out"
            )
        if self.postprocess == "raw" and (self.preprocess or self.nms_iou is not None or self.one_label):
            raise ConfigError(
                "preprocess, nms_iou and one_label (--preprocess, --nms, --one-label) need postprocess='boxes' "
                "(--postprocess), got 'raw'"
            )
        if self.engine is not None:
            if self.engine.batch is not None and not self.dynamic_batch:
                raise ConfigError("a batch range needs dynamic_batch=True")
            if (self.engine.height or self.engine.width) and not self.dynamic_size:
                raise ConfigError("a size range needs dynamic_size=True")
        if self.precision == "int8" and self.preprocess:
            raise ConfigError("a graph that resizes cannot be quantized: leave preprocess (--preprocess) out")
        if self.int8 is not None and self.precision != "int8":
            raise ConfigError(
                f"int8 (--max-drop) needs precision int8 (--precision), got {self.precision}: leave it out"
            )
        return self

    @property
    def opset_or_default(self) -> int:
        """ONNX opset."""
        return self.opset or DEFAULT_OPSET

    @property
    def int8_or_default(self) -> Int8Options:
        """Settings of precision "int8"."""
        return self.int8 or Int8Options()

    @property
    def gathers(self) -> bool:
        """Whether the decoder samples without GridSample, which TensorRT has compiled incorrectly."""
        symmetric = self.int8 is not None and self.int8.symmetric
        return self.gather_only or symmetric or self.opset_or_default < GRID_SAMPLE_OPSET


def _listed(one: Sequence[int]) -> str:
    return ",".join(map(str, one))
