"""Two functions that need C interfaces: the only use of `ctypes` in the library.

Without `never_free`, a forked worker hangs or crashes when it ends. Without `silence_libtiff`, libtiff prints its own
messages about damaged TIFF files, which overwrite a progress bar.
"""

import ctypes

import PIL._imaging


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
