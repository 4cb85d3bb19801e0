"""Functions that need C interfaces: the only use of `ctypes` in the library.

Without `never_free`, a forked worker hangs or crashes when it ends. Without `silence_libtiff`, libtiff prints its own
messages about damaged TIFF files, which overwrite a progress bar. With `reuse_memory` and `reuse_all_memory`, the
system clears fewer pages, which took up to a sixth of a training step on a CPU.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import PIL._imaging

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt(3), from malloc.h
_MIB = 2**20
# bytes to reuse (at first what glibc arrives at by itself after large blocks), and active blocks that reuse everything
_heap = {"reused": 64 * _MIB, "blocks": 0}


def never_free(value: object) -> None:
    """Keep an object until the process ends, even while the interpreter shuts down and clears its modules.

    For inference engines opened before a fork: their destructors wait for threads that do not exist in the child.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def silence_libtiff() -> None:
    """Stop libtiff from printing problems that Pillow raises as exceptions anyway.

    Pillow has no setting for this. The functions are looked up in Pillow's own module, so that other copies of libtiff
    in the process are not affected; if libtiff is statically linked, they cannot be found and nothing changes.
    """
    try:
        library = ctypes.CDLL(PIL._imaging.__file__)
        set_handlers = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler
    except (AttributeError, OSError, TypeError):
        return
    for set_handler in set_handlers:
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def reuse_memory(size: int = 512 * _MIB) -> None:
    """Let the C library keep at least `size` bytes of freed memory for reuse, until the process ends.

    By default it returns large blocks to the system when they are freed. A network on a CPU allocates them again at
    once, and the system has to clear every page. Works with glibc, for the whole process, and replaces the settings of
    its `MALLOC_` variables; other C libraries are not changed.
    """
    if size > _heap["reused"]:
        _heap["reused"] = size
        _set_heap()


@contextlib.contextmanager
def reuse_all_memory() -> Iterator[None]:
    """Let the C library keep all freed memory in the block, and return it to the system after the block."""
    _heap["blocks"] += 1
    _set_heap()
    try:
        yield
    finally:
        _heap["blocks"] -= 1
        _set_heap()
        if (library := _glibc()) is not None:
            library.malloc_trim(0)


def _set_heap() -> None:
    if (library := _glibc()) is None:
        return
    keeps_all = _heap["blocks"] > 0
    library.mallopt(_MMAP_MAX, 0 if keeps_all else 65536)
    library.mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # the largest value in glibc before 2.35
    library.mallopt(_TRIM_THRESHOLD, -1 if keeps_all else _heap["reused"])


def _glibc() -> Any:
    """Return the C library of the process, or None if it does not have glibc's functions."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
