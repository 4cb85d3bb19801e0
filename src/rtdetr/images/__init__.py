"""Reading images: any image becomes upright RGB pixels, or an array with the channels of the model.

Start at `read.py`. Files are opened only in `decode.py`; `files.py` lists them, and `sources.py` handles the other
types of sources.
"""

from rtdetr.images.limit import allow_pixels, max_pixels
from rtdetr.images.read import (
    ImageSource,
    LoadedImage,
    image_size,
    load_image,
    open_image,
    read_image,
    size_of,
    viewable,
)

__all__ = [
    "ImageSource",
    "LoadedImage",
    "allow_pixels",
    "image_size",
    "load_image",
    "max_pixels",
    "open_image",
    "read_image",
    "size_of",
    "viewable",
]
