"""TensorRT engines, for TensorRT 10 and 11: the ONNX graph, compiled for the GPU of this machine.

The network is always strongly typed, the only kind that TensorRT 11 has: each value is of the type it has in the ONNX
graph. Half precision with float32 islands, and INT8 by QuantizeLinear and DequantizeLinear, are therefore decided
there. The decoder gathers its samples, because TensorRT has compiled GridSample wrongly in this kind of network
(issue 4813 of NVIDIA/TensorRT).
"""

import logging
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import tensorrt  # pyright: ignore[reportMissingModuleSource]

from rtdetr.errors import ConfigError, ExportError
from rtdetr.export.onnx import export_onnx
from rtdetr.export.options import ExportOptions, ExportResult
from rtdetr.files import write_atomically
from rtdetr.models import RTDETR
from rtdetr.runtimes.cuda_memory import Stream
from rtdetr.runtimes.engine_file import EngineHeader, write_engine
from rtdetr.runtimes.metadata import ExportMetadata

_log = logging.getLogger(__name__)
_GRAPH_OPSET = 18
GIB = 1 << 30


class Range(NamedTuple):
    """What a free axis may be: the least, the one the engine is tuned for, the most."""

    least: int
    usual: int
    most: int


class Ranges(NamedTuple):
    """The free axes of an engine; an axis that the graph fixes has that one value."""

    batch: Range
    height: Range
    width: Range

    @classmethod
    def of(cls, metadata: ExportMetadata) -> Self:
        """The usual ranges: 1 to 8 images, tuned for one, and half to double the model's own size."""
        sides = [
            Range(max(64, side // 64 * 32), side, 2 * side) if metadata.dynamic_size else Range(side, side, side)
            for side in metadata.size_hw
        ]
        return cls(Range(1, 1, 8) if metadata.dynamic_batch else Range(1, 1, 1), *sides)

    def shapes(self, metadata: ExportMetadata) -> dict[str, list[tuple[int, ...]]]:
        """Shapes of the inputs at the least, usual and most.

        Raises:
            ConfigError: a range that does not rise, or a side that is not a multiple of 32.
        """
        for axis, one in self._asdict().items():
            if not 1 <= one.least <= one.usual <= one.most:
                raise ConfigError(f"{axis}: expected least <= usual <= most, from 1, got {tuple(one)}")
            if axis != "batch" and any(side % 32 for side in one):
                raise ConfigError(f"{axis}: expected multiples of 32, got {tuple(one)}")
        cases = list(zip(*self, strict=True))
        shapes: dict[str, list[tuple[int, ...]]] = {
            "images": [(batch, metadata.in_channels, height, width) for batch, height, width in cases]
        }
        if metadata.postprocess == "boxes":
            shapes["orig_target_sizes"] = [(batch, 2) for batch, _, _ in cases]
        return shapes


def export_tensorrt(
    model: RTDETR,
    path: Path,
    *,
    options: ExportOptions,
    metadata: ExportMetadata,
    ranges: Ranges | None = None,
    workspace_bytes: int = 4 * GIB,
    timing_cache: Path | None = None,
) -> ExportResult:
    """Compile a network for the GPU of this machine.

    Args:
        model: the network; it is copied.
        path: the file to write, .engine.
        options: as for every format; `opset` means nothing here, and sampling is always by gathering.
        metadata: stored in the file.
        ranges: of the free axes; None: `Ranges.of(metadata)`.
        workspace_bytes: the most GPU memory that one operation may use.
        timing_cache: a file of measurements that makes the next build faster; created or brought up to date.

    Raises:
        ExportError: settings that this format has not, a graph that TensorRT refuses, or a file that cannot be written.
        ConfigError: ranges that do not fit, or no GPU.
    """
    if options.precision not in ("fp32", "fp16"):
        raise ExportError(
            f"TensorRT engines are built in fp32 or fp16, got {options.precision!r}; for int8 quantise to ONNX with "
            "'rtdetr quantize MODEL DATA --format onnx --symmetric' and give the file to "
            "rtdetr.export.tensorrt.build_engine"
        )
    if options.preprocess:
        raise ExportError("TensorRT's resize is not the library's own: leave preprocess to the detector that runs it")
    graph_options = options.replace(format="onnx", gather_only=True, opset=_GRAPH_OPSET)
    with tempfile.TemporaryDirectory() as folder:
        graph = export_onnx(model, Path(folder) / "model.onnx", options=graph_options, metadata=metadata)
        build_engine(
            graph.path,
            path,
            metadata=metadata,
            ranges=ranges,
            workspace_bytes=workspace_bytes,
            timing_cache=timing_cache,
        )
    return ExportResult(path, path.stat().st_size, graph.num_nodes, metadata)


def build_engine(
    graph: Path,
    path: Path,
    *,
    metadata: ExportMetadata,
    ranges: Ranges | None = None,
    workspace_bytes: int = 4 * GIB,
    timing_cache: Path | None = None,
) -> Path:
    """Compile an ONNX file, with types and Q/DQ operators as they are in it; see `export_tensorrt`."""
    shapes = (ranges or Ranges.of(metadata)).shapes(metadata)
    line = trtexec_line(graph, path, shapes=shapes, workspace_bytes=workspace_bytes, timing_cache=timing_cache)
    _log.info("the same with TensorRT's own tool, but without the description of the model: %s", line)
    machine = Stream(0)  # its errors come before minutes of work
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ExportError(f"TensorRT {tensorrt.__version__} refuses the graph: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace_bytes)
    profile = builder.create_optimization_profile()
    for name, (least, usual, most) in shapes.items():
        profile.set_shape(name, least, usual, most)
    config.add_optimization_profile(profile)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"TensorRT {tensorrt.__version__} could not build the engine; its messages are above")
    if timing_cache is not None:
        measured = bytes(config.get_timing_cache().serialize())
        write_atomically(timing_cache, lambda file: file.write_bytes(measured), error=ExportError)
    header = EngineHeader(metadata, tensorrt.__version__, machine.gpu, machine.compute_capability)
    return write_engine(path, bytes(engine), header=header)


def trtexec_line(
    graph: Path,
    path: Path,
    *,
    shapes: dict[str, list[tuple[int, ...]]],
    workspace_bytes: int,
    timing_cache: Path | None = None,
) -> str:
    """The command of TensorRT's own tool that builds the same engine."""
    words = ["trtexec", f"--onnx={graph}", f"--saveEngine={path}", "--stronglyTyped"]
    words.append(f"--memPoolSize=workspace:{workspace_bytes >> 20}")
    if any(len(set(one)) > 1 for one in shapes.values()):
        for place, word in enumerate(("min", "opt", "max")):
            listed = ",".join(f"{name}:{_times(one[place])}" for name, one in shapes.items())
            words.append(f"--{word}Shapes={listed}")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={timing_cache}")
    return shlex.join(words)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
