"""The two things that Python itself has no way to do: the only use of `ctypes` in the library.

Users would miss both. Without the first, a forked worker hangs or dies when it ends; without the second, a damaged TIFF
file prints libtiff's own lines over a progress bar.
"""

import ctypes

import PIL._imaging


def never_free(value: object) -> None:
    """Keep an object until the process is gone, also while the interpreter ends and destroys what modules hold.

    For engines that were opened before a fork: their destructors wait for threads that do not exist in the child.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def silence_libtiff() -> None:
    """Keep libtiff from writing to the terminal what Pillow raises as an exception anyway.

    Pillow has no setting for it. The functions are found through Pillow's own module, so that other copies of the
    library in the process go on as before; where libtiff is linked into the module they cannot be found.
    """
    try:
        library = ctypes.CDLL(PIL._imaging.__file__)
        set_handlers = library.TIFFSetErrorHandler, library.TIFFSetWarningHandler
    except (AttributeError, OSError, TypeError):
        return
    for set_handler in set_handlers:
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)
