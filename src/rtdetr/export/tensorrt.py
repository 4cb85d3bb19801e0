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

import onnx
import tensorrt  # pyright: ignore[reportMissingModuleSource]

from rtdetr.errors import ExportError, WeightsError
from rtdetr.export.job import Job
from rtdetr.export.onnx import write_onnx
from rtdetr.export.options import EngineOptions
from rtdetr.files import write_atomically
from rtdetr.runtimes.cuda_memory import Stream
from rtdetr.runtimes.engine_file import EngineHeader, write_engine
from rtdetr.runtimes.graph_form import existing, unreadable
from rtdetr.runtimes.metadata import KEY, ExportMetadata

_log = logging.getLogger(__name__)
_GRAPH_OPSET = 18


def write_tensorrt(job: Job, file: Path) -> int:
    """Compile a network for the GPU of this machine; returns the number of operators of its graph.

    Raises:
        ExportError: a graph that TensorRT refuses, or a file that cannot be written.
        ConfigError: ranges that do not fit, or no GPU.
    """
    engine = job.options.engine or EngineOptions()
    engine.shapes(job.metadata)  # what is wrong with them is said before the work
    graph_job = job._replace(options=job.options.replace(gather_only=True, opset=_GRAPH_OPSET))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / f"{file.stem}.onnx"
        num_nodes = write_onnx(graph_job, graph)
        build_engine(graph, file, metadata=job.metadata, engine=engine)
    return num_nodes


def compile_onnx(graph: Path, file: Path, *, engine: EngineOptions) -> tuple[int, ExportMetadata]:
    """Compile an ONNX file of this library, for instance one of `rtdetr quantize --symmetric`.

    Args:
        graph: the ONNX file; its types, size and free axes are those of the engine.
        file: the file to write, .engine.
        engine: settings of the builder.

    Returns:
        The number of operators in the graph, and what the file says about itself.

    Raises:
        WeightsError: the ONNX file is missing, damaged, or was not written by this library.
        ExportError: a graph that TensorRT would compile wrongly or refuses, or a file that cannot be written.
        ConfigError: ranges that do not fit, or no GPU.
    """
    try:
        proto = onnx.load(existing(graph, kind="ONNX"))
    except Exception as error:  # protobuf's own, of which onnx says nothing
        raise unreadable(graph, engine="onnx", error=error) from None
    text = {one.key: one.value for one in proto.metadata_props}.get(KEY)
    if text is None:
        raise WeightsError(f"{graph} was not written by rtdetr; TensorRT's own trtexec compiles files of other tools")
    metadata = ExportMetadata.from_json(text, source=graph)
    if metadata.preprocess == "in_graph" or any(node.op_type == "GridSample" for node in proto.graph.node):
        raise ExportError(
            f"{graph} resizes or samples in a way that TensorRT computes otherwise: export it with --gather-only and "
            "without --preprocess, quantize it with --symmetric"
        )
    build_engine(graph, file, metadata=metadata, engine=engine)
    return len(proto.graph.node), metadata


def build_engine(graph: Path, path: Path, *, metadata: ExportMetadata, engine: EngineOptions) -> Path:
    """Compile an ONNX file, with types and Q/DQ operators as they are in it; see `compile_onnx`."""
    shapes = engine.shapes(metadata)
    _log.info(
        "the same with TensorRT's own tool, from a file of 'rtdetr export --gather-only', but without the description "
        "of the model: %s",
        trtexec_line(graph, path, shapes=shapes, engine=engine),
    )
    machine = Stream(0)  # its errors come before minutes of work
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ExportError(f"TensorRT {tensorrt.__version__} refuses the graph: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, engine.workspace_bytes)
    profile = builder.create_optimization_profile()
    for name, (least, usual, most) in shapes.items():
        profile.set_shape(name, least, usual, most)
    config.add_optimization_profile(profile)
    cache = engine.timing_cache
    if cache is not None:
        known = cache.read_bytes() if cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise ExportError(f"TensorRT {tensorrt.__version__} could not build the engine; its messages are above")
    if cache is not None:
        measured = bytes(config.get_timing_cache().serialize())
        write_atomically(cache, lambda file: file.write_bytes(measured), error=ExportError)
    header = EngineHeader(metadata, tensorrt.__version__, machine.gpu, machine.compute_capability)
    return write_engine(path, bytes(built), header=header)


def trtexec_line(graph: Path, path: Path, *, shapes: dict[str, list[tuple[int, ...]]], engine: EngineOptions) -> str:
    """The command of TensorRT's own tool that builds the same engine; files are named without their folders."""
    words = ["trtexec", f"--onnx={graph.name}", f"--saveEngine={path.name}", "--stronglyTyped"]
    words.append(f"--memPoolSize=workspace:{engine.workspace_bytes >> 20}")
    if any(len(set(one)) > 1 for one in shapes.values()):
        for place, word in enumerate(("min", "opt", "max")):
            listed = ",".join(f"{name}:{_times(one[place])}" for name, one in shapes.items())
            words.append(f"--{word}Shapes={listed}")
    if engine.timing_cache is not None:
        words.append(f"--timingCacheFile={engine.timing_cache}")
    return shlex.join(words)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
