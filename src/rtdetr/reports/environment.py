"""The environment of a run, environment.json, and the memory use of the process."""

import contextlib
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from rtdetr._version import __version__
from rtdetr.devices import describe_device
from rtdetr.errors import ConfigError, TrainingError
from rtdetr.files import write_text
from rtdetr.machine import GIB, num_cores, package_versions, processor, total_memory_gib
from rtdetr.text_files import read_json

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pydantic", "scipy", "hotcoco", "safetensors", "matplotlib")


def write_environment(folder: Path, *, device: torch.device, workers: int) -> Path:
    """Write environment.json. When a run is resumed, the previous content moves to its list "earlier".

    Args:
        folder: folder of the run.
        device: device that the model is trained on.
        workers: processes that load images.

    Raises:
        TrainingError: the file cannot be written.
    """
    path = folder / ENVIRONMENT_FILE
    earlier: list[Any] = []
    with contextlib.suppress(ValueError):  # includes ConfigError
        previous = read_json(path, what="record", error=ConfigError)
        if isinstance(previous, dict):
            earlier = [*previous.pop("earlier", []), previous]
    content = describe_environment(device, workers=workers) | ({"earlier": earlier} if earlier else {})
    return write_text(path, json.dumps(content, indent=1) + "\n", error=TrainingError)


def processes_of(run: Path) -> int | None:
    """Return the number of processes that last trained a run on one machine; None if unknown or on several machines.

    Args:
        run: folder of the run, or a checkpoint in it.
    """
    with contextlib.suppress(ValueError, LookupError, TypeError):  # includes ConfigError
        file = (run if run.is_dir() else run.parent) / ENVIRONMENT_FILE
        content = read_json(file, what="record", error=ConfigError)
        if content["processes"] == content["processes_here"]:
            return max(1, int(content["processes"]))
    return None


def describe_environment(device: torch.device, *, workers: int) -> dict[str, Any]:
    """Return versions, processor, memory, threads and device of this process, as plain values for JSON."""
    installed = {name: version for name, version in package_versions(PACKAGES).items() if version is not None}
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"rtdetr": __version__, "python": platform.python_version(), **installed},
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "cores": num_cores(),
        "memory_gib": total_memory_gib(),
        "threads": torch.get_num_threads(),
        "loader_workers": workers,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "processes_here": int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        "device": describe_device(device),
    }


def resident_memory_gib() -> float | None:
    """Return the resident memory of this process in GiB, including shared pages; None if unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / GIB
    except (OSError, ValueError, AttributeError):
        return None


def peak_cuda_memory_gib(device: torch.device | None) -> float | None:
    """Return the peak GPU memory of tensors since the process started, in GiB; None on other devices."""
    return torch.cuda.max_memory_allocated(device) / GIB if device is not None and device.type == "cuda" else None
