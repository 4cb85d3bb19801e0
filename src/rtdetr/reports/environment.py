"""On what a run runs: environment.json, and how much memory the process holds."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from rtdetr._version import __version__
from rtdetr.cpu import processor_name
from rtdetr.errors import ConfigError, TrainingError
from rtdetr.files import write_atomically
from rtdetr.text_files import read_text

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic", "scipy", "hotcoco", "safetensors", "matplotlib")
GIB = 2**30  # bytes


def write_environment(folder: Path, *, device: torch.device, workers: int) -> Path:
    """Write environment.json; on resuming, what it held so far moves to its list "earlier".

    Args:
        folder: of the run.
        device: that the model is trained on.
        workers: processes that load images.

    Raises:
        TrainingError: the file cannot be written.
    """
    path = folder / ENVIRONMENT_FILE
    earlier: list[Any] = []
    with contextlib.suppress(ValueError):  # a ConfigError is one too
        former = json.loads(read_text(path, what="record", error=ConfigError))
        if isinstance(former, dict):
            earlier = [*former.pop("earlier", []), former]
    content = describe_environment(device, workers=workers) | ({"earlier": earlier} if earlier else {})
    text = json.dumps(content, indent=1) + "\n"
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error=TrainingError)


def processes_of(run: Path) -> int | None:
    """How many processes of one machine trained a run when it stopped; None where unknown or there were more machines.

    Args:
        run: folder of the run, or a checkpoint in it.
    """
    with contextlib.suppress(ValueError, LookupError, TypeError):  # a ConfigError is a ValueError
        file = (run if run.is_dir() else run.parent) / ENVIRONMENT_FILE
        content = json.loads(read_text(file, what="record", error=ConfigError))
        if content["processes"] == content["processes_here"]:
            return max(1, int(content["processes"]))
    return None


def describe_environment(device: torch.device, *, workers: int) -> dict[str, Any]:
    """Versions, processor, memory, threads and device of this process, as plain values for JSON."""
    versions = {"rtdetr": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _total_memory_gib(),
        "threads": torch.get_num_threads(),
        "loader_workers": workers,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "processes_here": int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "device": _describe_device(device),
    }


def resident_memory_gib() -> float | None:
    """Memory of this process that is not swapped out, shared pages included, in GiB; None where nothing tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / GIB
    except (OSError, ValueError, AttributeError):
        return None


def peak_cuda_memory_gib(device: torch.device | None) -> float | None:
    """Most memory that tensors on a GPU took up at a time since the process began, GiB; None on other devices."""
    return torch.cuda.max_memory_allocated(device) / GIB if device is not None and device.type == "cuda" else None


def _describe_device(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"type": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "memory_gib": round(properties.total_memory / GIB, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _total_memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (OSError, ValueError, AttributeError):
        return None
