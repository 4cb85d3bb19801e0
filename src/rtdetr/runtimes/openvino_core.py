"""The one `openvino.Core` of a process, and files read with it."""

import os
from functools import cache
from pathlib import Path

import openvino

from rtdetr.files import beside
from rtdetr.native import never_free


def openvino_core() -> openvino.Core:
    """The `Core` that every model of this process is read and compiled with; a forked child has its own.

    It is never taken apart. OpenVINO's CPU plugin gives the calling thread an alternate signal stack and puts the
    former one back when its `Core` goes. With two of them that do not go in the reverse order of coming, the thread is
    left with a stack that is not mapped any more, and the next signal, be it a key press, a timer or a child that
    ended, kills the process (OpenVINO 2024.6 to 2026.4).
    """
    return _core_of(os.getpid())


def read_ir(path: Path) -> openvino.Model:
    """The model of an `.xml` file and the `.bin` beside it."""
    return openvino_core().read_model(path, beside(path, ".bin"))


@cache
def _core_of(process: int) -> openvino.Core:
    core = openvino.Core()
    never_free(core)
    return core
