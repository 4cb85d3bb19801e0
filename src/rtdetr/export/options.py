"""What can be asked of an export, and what comes back. Every exporter takes the same `ExportOptions`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from rtdetr.config import PRECISIONS, STRIDE, Size, SizeHW, Strict, size_problem
from rtdetr.errors import ConfigError
from rtdetr.wording import counted

if TYPE_CHECKING:
    from rtdetr.export.verify import VerifyReport
    from rtdetr.runtimes.metadata import ExportMetadata


def _short_precision(name: object) -> object:
    """The name that exports have for a number type."""
    return next((short for short, long in PRECISIONS.items() if long == name), name)


Format = Literal["onnx", "openvino", "tensorrt", "torch"]
Precision = Annotated[Literal["fp32", "fp16", "bf16", "int8"], BeforeValidator(_short_precision)]
Postprocess = Literal["raw", "boxes"]

DEFAULT_OPSET = 18
GRID_SAMPLE_OPSET = 16  # the first with this operator; graphs of older opsets gather pixels one by one
LAYER_NORM_OPSET = 17

Range = tuple[int, int, int]


class EngineOptions(Strict):
    """Settings of TensorRT's builder. A range is the least, the one the engine is tuned for, and the most.

    Args:
        batch: images at a time; None: 1, 1, 8 where the batch is free.
        height: of the network's input, pixels, multiples of 32; None: from half to double the model's own, where sizes
            are free.
        width: as height.
        workspace_gib: the most GPU memory that one operation may use, GiB.
        timing_cache: a file of measurements that makes the next build faster; created or brought up to date.

    Raises:
        ConfigError: a range that does not rise, or a side that is not a multiple of 32.
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
                raise ConfigError(f"{axis}: expected least <= usual <= most, from 1, got {_listed(one)}")
            if one is not None and axis != "batch" and any(side % STRIDE for side in one):
                raise ConfigError(f"{axis}: expected multiples of 32, got {_listed(one)}")
        return self

    @property
    def workspace_bytes(self) -> int:
        """The workspace in bytes."""
        return int(self.workspace_gib * 2**30)

    def shapes(self, metadata: "ExportMetadata") -> dict[str, list[tuple[int, ...]]]:
        """Shapes of a graph's inputs at the least, usual and most.

        Raises:
            ConfigError: a range for an axis that the graph fixes, without the model's own size, or with images of fewer
                tokens than the model has queries.
        """
        sides = [list(metadata.size_hw)] * 3
        if metadata.dynamic_size:
            halves = [max(STRIDE, side // (2 * STRIDE) * STRIDE) for side in metadata.size_hw]
            least = halves if _tokens(halves) >= metadata.num_queries else metadata.size_hw
            sides = [list(least), list(metadata.size_hw), [2 * side for side in metadata.size_hw]]
        usual = [(1, 1, 8) if metadata.dynamic_batch else (1, 1, 1), *zip(*sides, strict=True)]
        free = [metadata.dynamic_batch, metadata.dynamic_size, metadata.dynamic_size]
        found = []
        for axis, given, default, is_free in zip(
            ("batch", "height", "width"), (self.batch, self.height, self.width), usual, free, strict=True
        ):
            if given is not None and given != default and not is_free:
                raise ConfigError(f"the graph takes {axis} {default[1]} only, got the range {_listed(given)}")
            found.append(given or default)
        for side, (least, _, most) in zip(metadata.size_hw, found[1:], strict=True):
            if not least <= side <= most:
                raise ConfigError(
                    f"the range {least} to {most} leaves out the model's own size {side}: pass another size"
                )
        cases = list(zip(*found, strict=True))
        if _tokens(cases[0][1:]) < metadata.num_queries:
            raise ConfigError(
                f"images of {cases[0][1]}x{cases[0][2]} have {_tokens(cases[0][1:])} tokens, fewer than the "
                f"{counted(metadata.num_queries, 'query')}: raise the least size"
            )
        shapes: dict[str, list[tuple[int, ...]]] = {
            "images": [(batch, metadata.in_channels, height, width) for batch, height, width in cases]
        }
        if metadata.postprocess == "boxes":
            shapes["orig_target_sizes"] = [(batch, 2) for batch, _, _ in cases]
        return shapes


class ExportOptions(Strict):
    """Settings of an export.

    Args:
        format: kind of file.
        dynamic_batch: accept any number of images; otherwise one.
        dynamic_size: accept any height and width that are multiples of 32 and give at least `num_queries` tokens
            (height * width * 21 / 1024); otherwise only `size_hw`.
        size_hw: height and width of the network's input, pixels; None: the size the model was evaluated at, else
            640x640.
        opset: version of ONNX's operator set, 13 or higher; below 16 the graph only gathers. Other formats ignore it.
        precision: number type of weights and activations; inputs and outputs stay float32.
        preprocess: take one uint8 image (1, h, w, 3) of any size, and resize and scale it in the graph.
        postprocess: "boxes": the best detections as labels, boxes in pixels and scores; "raw": the network's logits and
            normalised boxes.
        sampling: how the decoder reads the maps; None: as the model was trained.
        num_layers: decoder layers to run; None: those of the model.
        num_queries: object queries; None: those of the model.
        nms_iou: in each class, give detections that overlap a better one by more than this IoU the score 0.
        gather_only: do without GridSample, and with tensors of at most 4 dimensions; not for "torch".
        one_label: give the best class of each query only, not the best pairs of a query and a class.
        compiled: for "torch": compile with AOTInductor for the kind of processor that this machine has.
        engine: for "tensorrt": settings of its builder.

    Raises:
        ConfigError: a value out of range, or settings that contradict each other.
    """

    section = ""

    format: Format = "onnx"
    dynamic_batch: bool = False
    dynamic_size: bool = False
    size_hw: SizeHW | None = None
    opset: int = Field(default=DEFAULT_OPSET, ge=13)
    precision: Precision = "fp32"
    preprocess: bool = False
    postprocess: Postprocess = "boxes"
    sampling: Literal["bilinear", "discrete"] | None = None
    num_layers: Size | None = None
    num_queries: Size | None = None
    nms_iou: float | None = Field(default=None, ge=0.0, le=1.0)
    gather_only: bool = False
    one_label: bool = False
    compiled: bool = False
    engine: EngineOptions | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> Self:
        if self.size_hw is not None and (problem := size_problem(self.size_hw)):
            raise ConfigError(f"size: {problem}")
        if self.preprocess and (self.dynamic_batch or self.dynamic_size):
            raise ConfigError("preprocess takes one image of any size and resizes it to size_hw: drop the dynamic axes")
        if self.postprocess == "raw" and (self.preprocess or self.nms_iou is not None or self.one_label):
            raise ConfigError("preprocess, nms_iou and one_label need postprocess='boxes', got 'raw'")
        self._check_format()
        return self

    def _check_format(self) -> None:
        """Refuse what the format would ignore."""
        if self.engine is not None and self.format != "tensorrt":
            raise ConfigError(f"engine has settings of format 'tensorrt', got format {self.format!r}")
        if self.compiled and self.format != "torch":
            raise ConfigError(f"compiled is for format 'torch', got {self.format!r}")
        if self.gather_only and self.format == "torch":
            raise ConfigError("gather_only is for graphs of other engines, got format 'torch'")
        if self.engine is not None:
            if self.engine.batch is not None and not self.dynamic_batch:
                raise ConfigError("a range of batches needs dynamic_batch")
            if (self.engine.height or self.engine.width) and not self.dynamic_size:
                raise ConfigError("a range of sizes needs dynamic_size")

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


def _tokens(size_hw: Sequence[int]) -> int:
    """Places of the network's three maps for an image."""
    return size_hw[0] * size_hw[1] * 21 // 1024


def _listed(one: Range) -> str:
    return ",".join(map(str, one))
