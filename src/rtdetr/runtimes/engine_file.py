"""TensorRT engine files: a JSON header, then the engine.

An engine runs only with the TensorRT version and the type of GPU it was built with. The header names both, so that a
mismatch is an error instead of a crash. Without the header, the rest of the file is what `trtexec` writes.

    magic (8 bytes)   length of the header (8 bytes, little endian)   header (JSON)   engine
"""

import json
from pathlib import Path
from typing import NamedTuple

from rtdetr.errors import ExportError, WeightsError
from rtdetr.files import write_bytes
from rtdetr.runtimes.graph_form import existing
from rtdetr.runtimes.metadata import ExportMetadata

MAGIC = b"RTDETR\r\n"
_MAX_HEADER = 1 << 24


class EngineHeader(NamedTuple):
    """Metadata of an engine, and the TensorRT version and GPU it was built for."""

    metadata: ExportMetadata
    tensorrt: str  # version, such as "10.3.0"
    gpu: str  # name, such as "NVIDIA A10"
    compute_capability: str  # such as "8.6"


def write_engine(path: Path, engine: bytes, *, header: EngineHeader) -> Path:
    """Write an engine with its header, replacing the file atomically.

    Raises:
        ExportError: the file cannot be written.
    """
    described = header._asdict() | {"metadata": header.metadata.model_dump(mode="json")}
    text = json.dumps(described, ensure_ascii=False).encode()
    content = MAGIC + len(text).to_bytes(8, "little") + text + engine
    return write_bytes(path, content, error=ExportError)


def read_engine(path: Path) -> tuple[EngineHeader, bytes]:
    """Read what `write_engine` wrote.

    Raises:
        WeightsError: the file is missing or damaged, or is an engine without header.
    """
    content = existing(path, kind="TensorRT").read_bytes()
    if not content.startswith(MAGIC):
        raise WeightsError(
            f"{path} has no header that describes its model, TensorRT version and GPU; build it with: rtdetr export "
            "--format tensorrt"
        )
    start = len(MAGIC) + 8
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    if end - start > _MAX_HEADER or end >= len(content):
        raise WeightsError(f"{path} is damaged: it ends too early; build it again")
    try:
        match json.loads(content[start:end]):
            case {"metadata": dict(values), "tensorrt": str(version), "gpu": str(gpu), "compute_capability": str(kind)}:
                metadata = ExportMetadata.from_json(json.dumps(values), source=path)
                return EngineHeader(metadata, version, gpu, kind), content[end:]
    except (ValueError, RecursionError):
        pass
    raise WeightsError(f"{path} is damaged: its header cannot be read; build it again")


def check_machine(header: EngineHeader, *, path: Path, tensorrt: str, gpu: str, compute_capability: str) -> None:
    """Check that an engine was built for this machine.

    Args:
        header: header of the engine.
        path: its file, for the message.
        tensorrt: installed TensorRT version.
        gpu: name of this machine's GPU.
        compute_capability: compute capability of this machine's GPU.

    Raises:
        WeightsError: it was built with another TensorRT version or for another type of GPU.
    """
    if (header.tensorrt, header.compute_capability, header.gpu) != (tensorrt, compute_capability, gpu):
        raise WeightsError(
            f"{path} was built by TensorRT {header.tensorrt} for {header.gpu} (compute capability "
            f"{header.compute_capability}), but this machine has TensorRT {tensorrt} and {gpu} "
            f"({compute_capability}). Build it again on this machine: rtdetr export --format tensorrt"
        )
