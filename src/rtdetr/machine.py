"""Information about the hardware and software of this machine, without PyTorch."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

GIB = 2**30  # bytes
_CPU_FEATURES = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 VNNI": "avx512_vnni", "AMX": "amx_bf16"}


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the version of each package; None if it is not installed."""
    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in versions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def processor() -> str:
    """Return the model name of the CPU; `platform.processor` gives it on few systems."""
    return _cpu_information().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Return the instruction sets of an x86 CPU that determine the speed of a network; empty if unknown."""
    flags = _cpu_information().get("flags", "").split()
    return [name for name, flag in _CPU_FEATURES.items() if flag in flags]


def has_amx() -> bool:
    """Whether the CPU has matrix units that make bfloat16 fast."""
    return "AMX" in cpu_features()


def num_cores() -> int:
    """Return the number of cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def total_memory_gib() -> float | None:
    """Return the main memory in GiB; None if unknown."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    except (OSError, ValueError, AttributeError):
        return None


def nvidia_gpus() -> list[dict[str, Any]]:
    """Return name, memory in GiB and driver version of each NVIDIA GPU from nvidia-smi; empty without it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in listed.splitlines():
        name, memory, driver = (cell.strip() for cell in line.rsplit(",", 2))
        memory_gib = round(int(memory) / 1024, 1) if memory.isdecimal() else None
        gpus.append({"name": name, "memory_gib": memory_gib, "driver": driver})
    return gpus


def _cpu_information() -> dict[str, str]:
    """Return what Linux reports about the first core; empty on other systems."""
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}
    return {}
