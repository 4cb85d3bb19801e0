"""The pixels of a PIL image where they lie: Pillow's way to NumPy copies them twice, which takes longer than a resize.

Pillow 11.3 and later say where, by the Arrow C data interface; only its structure of one array is read here.
Source: https://arrow.apache.org/docs/format/CDataInterface.html
"""

import contextlib
import ctypes
from collections.abc import Iterator

import numpy as np
from PIL import Image


class _ArrowArray(ctypes.Structure):
    pass


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


@contextlib.contextmanager
def pillow_memory(image: Image.Image) -> Iterator[np.ndarray]:
    """Give the pixels of an RGB image for the block, to be read only: uint8 (h, w, 4), the fourth channel unused.

    They are a copy, uint8 (h, w, 3), where Pillow is older or keeps a large image in several pieces.
    """
    try:
        _, capsule = image.__arrow_c_array__()  # holds the memory while this block runs
    except (AttributeError, ValueError):
        yield np.array(image)
        return
    pixels = _ArrowArray.from_address(_pointer(capsule, b"arrow_array"))
    values = pixels.children[0].contents
    memory = (ctypes.c_uint8 * (image.width * image.height * 4)).from_address(values.buffers[1])
    yield np.ctypeslib.as_array(memory).reshape(image.height, image.width, 4)
    del capsule
