"""EXIF orientation: how the pixels of a file are rotated or mirrored, and how to turn them upright.

Source: Exif standard (CIPA DC-008). Pillow turns the pixels of TIFF files upright itself while it reads them.
"""

import struct

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

ORIENTATION_TAG = 0x0112
UPRIGHT = {  # the transposition that undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KEPT = ("transparency", "icc_profile")  # needed to interpret the pixels; all other metadata is removed


def exif_tag(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened file, 1 to 8; 1 (upright) if it has none."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1  # damaged metadata does not affect the pixels
    return orientation if orientation in UPRIGHT else 1


def exif_orientation(image: Image.Image) -> int:
    """Return the orientation of an opened file's decoded pixels, 1 to 8; 1 for TIFF, which Pillow turns itself."""
    return 1 if isinstance(image, TiffImageFile) else exif_tag(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened file after turning it upright; its pixels do not need to be loaded."""
    if isinstance(image, TiffImageFile):
        # Pillow swaps the size when it opens the file or, before release 11, when it reads the pixels
        turned = exif_tag(image) >= 5
        return (image.tag_v2[IMAGELENGTH], image.tag_v2[IMAGEWIDTH]) if turned else image.size
    return (image.height, image.width) if exif_orientation(image) >= 5 else image.size


def load_pixels(image: Image.Image) -> None:
    """Read the pixels of an opened file.

    Pillow memory-maps uncompressed files with their upright size, which mixes up the rows of a TIFF file that has to be
    rotated by 90 degrees. Without a file name it does not memory-map.
    """
    if isinstance(image, TiffImageFile) and exif_tag(image) >= 5:
        name, image.filename = image.filename, ""
        try:
            image.load()
        finally:
            image.filename = name
    else:
        image.load()


def turn_back(orientation: int) -> Image.Transpose:
    """Return the inverse of `UPRIGHT[orientation]`: all are their own inverse except the two 90-degree rotations."""
    return UPRIGHT[{6: 8, 8: 6}.get(orientation, orientation)]


def turn_array(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array (h, w, ...) upright."""
    if orientation >= 5:
        array = np.swapaxes(array, 0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def plain(image: Image.Image) -> Image.Image:
    """Return the image without the file's metadata, so that its users do not rotate it again."""
    result = image if type(image) is Image.Image else image.copy()
    result.info = {key: image.info[key] for key in _KEPT if key in image.info}
    return result
