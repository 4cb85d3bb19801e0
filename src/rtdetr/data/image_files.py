"""Image files of a dataset: read their size without their pixels.

Which files are images, and how a folder is searched for them, is in `rtdetr.images.files`; where those are that an
annotation names, in `image_paths.py`.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rtdetr.errors import DatasetError, InputError
from rtdetr.images import image_size
from rtdetr.images.files import images_below, is_image_name

__all__ = ["common_folder", "images_below", "is_image_name", "listing", "sizes_of"]

_THREADS = 8  # opening a file on a network drive is waiting


def sizes_of(paths: Sequence[str]) -> np.ndarray:
    """Width and height of each image after EXIF rotation, int64 (n, 2), from the files' headers.

    Raises:
        DatasetError: a file is missing or not an image.
    """
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            sizes = list(pool.map(image_size, paths))
    except InputError as error:
        raise DatasetError(str(error)) from None
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def listing(folder: Path) -> list[str]:
    """Names in a folder, without links to what is not there; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)]
    except (OSError, ValueError):
        return []


def common_folder(paths: Iterable[str]) -> Path:
    """The deepest folder that all these files are below."""
    return Path(os.path.commonpath({os.path.dirname(path) for path in paths}))
