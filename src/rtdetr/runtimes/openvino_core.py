"""The single `openvino.Core` of a process, and reading files with it."""

import os
from functools import cache
from pathlib import Path

import openvino

from rtdetr.files import with_suffix_any_case
from rtdetr.native import never_free


def openvino_core() -> openvino.Core:
    """Return the `Core` that reads and compiles all models of this process; a forked child has its own.

    It is never destroyed. OpenVINO's CPU plugin sets an alternate signal stack for the calling thread and restores the
    former one when its `Core` is destroyed. If two of them are not destroyed in reverse order of creation, the thread
    is left with an unmapped signal stack, and the next signal, such as Ctrl-C, a timer or the end of a child process,
    kills the process (OpenVINO 2024.6 to 2026.4).
    """
    return _core_of(os.getpid())


def read_ir(path: Path) -> openvino.Model:
    """Read the model of an `.xml` file and its `.bin` file."""
    return openvino_core().read_model(path, with_suffix_any_case(path, ".bin"))


@cache
def _core_of(process: int) -> openvino.Core:
    core = openvino.Core()
    never_free(core)
    return core
