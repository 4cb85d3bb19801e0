"""What Linux says about the CPU in /proc/cpuinfo; other systems say nothing there."""

import platform
from pathlib import Path

_INFORMATION = Path("/proc/cpuinfo")


def has_amx() -> bool:
    """Whether this CPU has the matrix units that make bfloat16 fast; False where that is not known."""
    return " amx_bf16" in _information()


def processor_name() -> str:
    """The model name; `platform.processor`, which is asked where there is none, knows it on few systems."""
    lines = (line for line in _information().splitlines() if line.startswith("model name"))
    name = next(lines, "").partition(":")[2].strip()
    return name or platform.processor() or platform.machine()


def _information() -> str:
    try:
        return _INFORMATION.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
