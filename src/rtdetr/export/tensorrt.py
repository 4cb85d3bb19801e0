"""TensorRT engines, for TensorRT 10 and 11: the ONNX graph, compiled for the GPU of this machine.

The network is always strongly typed, the only kind in TensorRT 11: each value has the type that it has in the ONNX
graph. Float32 islands in half precision, and INT8 by QuantizeLinear and DequantizeLinear, are therefore defined in that
graph. The decoder gathers its samples, because TensorRT has compiled GridSample incorrectly in strongly typed networks
(issue 4813 of NVIDIA/TensorRT).
"""

import logging
import shlex
import tempfile
from pathlib import Path

import onnx
import tensorrt  # pyright: ignore[reportMissingModuleSource]

from rtdetr.errors import ExportError, WeightsError
from rtdetr.export.job import Job
from rtdetr.export.onnx import write_onnx
from rtdetr.export.options import EngineOptions
from rtdetr.files import write_bytes
from rtdetr.runtimes.cuda_memory import Stream
from rtdetr.runtimes.engine_file import EngineHeader, write_engine
from rtdetr.runtimes.graph_form import existing, unreadable
from rtdetr.runtimes.metadata import KEY, ExportMetadata

_log = logging.getLogger(__name__)


def write_tensorrt(job: Job, file: Path) -> int:
    """Compile a network for the GPU of this machine; return the number of operators of its graph.

    Raises:
        ExportError: TensorRT rejects the graph, or the file cannot be written.
        ConfigError: ranges do not fit the model, or there is no GPU.
    """
    engine = job.options.engine or EngineOptions()
    engine.shapes(job.metadata)  # raise errors in the ranges before the work
    graph_job = job._replace(options=job.options.replace(gather_only=True))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / f"{file.stem}.onnx"
        num_nodes = write_onnx(graph_job, graph)
        build_engine(graph, file, metadata=job.metadata, engine=engine)
    return num_nodes


def compile_onnx(graph: Path, file: Path, *, engine: EngineOptions) -> tuple[int, ExportMetadata]:
    """Compile an ONNX file written by this library, for example by `rtdetr quantize --symmetric`.

    Args:
        graph: the ONNX file; the engine has its types, size and dynamic axes.
        file: the .engine file to write.
        engine: settings of the builder.

    Returns:
        The number of operators in the graph, and the metadata of the file.

    Raises:
        WeightsError: the ONNX file is missing, damaged, or was not written by this library.
        ExportError: TensorRT rejects the graph or would compile it incorrectly, or the file cannot be written.
        ConfigError: ranges do not fit the model, or there is no GPU.
    """
    try:
        proto = onnx.load(existing(graph, kind="ONNX"))
    except Exception as error:  # protobuf's exceptions, which onnx does not document
        raise unreadable(graph, engine="onnx", error=error) from None
    text = {one.key: one.value for one in proto.metadata_props}.get(KEY)
    if text is None:
        raise WeightsError(f"{graph} was not written by rtdetr: compile files of other tools with TensorRT's trtexec")
    metadata = ExportMetadata.from_json(text, source=graph)
    if metadata.preprocess == "in_graph" or any(node.op_type == "GridSample" for node in proto.graph.node):
        raise ExportError(
            f"{graph} uses Resize or GridSample, which TensorRT computes differently: export it with --gather-only and "
            "without --preprocess, or quantize it with --symmetric"
        )
    build_engine(graph, file, metadata=metadata, engine=engine)
    return len(proto.graph.node), metadata


def build_engine(graph: Path, path: Path, *, metadata: ExportMetadata, engine: EngineOptions) -> Path:
    """Compile an ONNX file, keeping its types and Q/DQ operators; see `compile_onnx`."""
    shapes = engine.shapes(metadata)
    _log.info(
        "equivalent trtexec command for a file written by 'rtdetr export --gather-only' (its engine has no metadata): "
        "%s",
        trtexec_line(graph, path, shapes=shapes, engine=engine),
    )
    machine = Stream(0)  # raises errors before minutes of work
    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ExportError(f"TensorRT {tensorrt.__version__} rejects the graph: {'; '.join(reasons)}")
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
        raise ExportError(f"TensorRT {tensorrt.__version__} could not build the engine: see its messages above")
    if cache is not None:
        write_bytes(cache, bytes(config.get_timing_cache().serialize()), error=ExportError)
    header = EngineHeader(metadata, tensorrt.__version__, machine.gpu, machine.compute_capability)
    return write_engine(path, bytes(built), header=header)


def trtexec_line(graph: Path, path: Path, *, shapes: dict[str, list[tuple[int, ...]]], engine: EngineOptions) -> str:
    """Return the trtexec command that builds the same engine; files are named without their folders."""
    words = ["trtexec", f"--onnx={graph.name}", f"--saveEngine={path.name}", "--stronglyTyped"]
    words.append(f"--memPoolSize=workspace:{engine.workspace_bytes >> 20}")
    if any(len(set(one)) > 1 for one in shapes.values()):
        for place, word in enumerate(("min", "opt", "max")):
            listed = ",".join(f"{name}:{'x'.join(map(str, one[place]))}" for name, one in shapes.items())
            words.append(f"--{word}Shapes={listed}")
    if engine.timing_cache is not None:
        words.append(f"--timingCacheFile={engine.timing_cache}")
    return shlex.join(words)
