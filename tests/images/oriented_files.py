"""Image files for tests: every EXIF orientation in every format that can state one."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATIONS = range(1, 9)
FORMATS = {"JPEG": ".jpg", "TIFF": ".tif", "PNG": ".png", "WEBP": ".webp", "MPO": ".mpo"}
_TURN = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
_TURN |= {7: "TRANSVERSE", 8: "ROTATE_270"}


def smooth(width: int = 48, height: int = 32) -> Image.Image:
    """An image without symmetry that survives JPEG well."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x * 4, y * 6, (x + y) * 3], axis=2).clip(0, 255).astype(np.uint8))


def stored(image: Image.Image, orientation: int) -> Image.Image:
    """The pixels as a camera that was held like this stores them."""
    return image.transpose(Image.Transpose[_TURN[orientation]]) if orientation in _TURN else image


def turned_file(image: Image.Image, orientation: int, kind: str) -> bytes:
    """A file whose tag says how to turn its pixels to get `image`."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98} if kind in ("JPEG", "MPO") else {"lossless": True} if kind == "WEBP" else {}
    pixels = stored(image, orientation)
    if kind == "MPO":
        options |= {"save_all": True, "append_images": [pixels.reduce(2)]}
    file = io.BytesIO()
    pixels.save(file, format=kind, exif=exif, **options)
    return file.getvalue()


def write_turned(folder: Path, image: Image.Image, orientation: int, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind.lower()}{orientation}{FORMATS[kind]}"
    path.write_bytes(turned_file(image, orientation, kind))
    return path
