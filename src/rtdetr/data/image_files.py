"""Image files of a dataset: list them, see that they exist, and read their size without their pixels."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rtdetr.errors import DatasetError, InputError
from rtdetr.preprocessing import image_size

SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jp2 .jpe .jpeg .jpg .mpo .npy .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
_THREADS = 8  # opening a file on a network drive is waiting


def images_below(folder: Path) -> list[str]:
    """Paths of all image files in a folder and the folders in it, sorted; hidden ones are left out."""
    paths = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [os.path.join(parent, name) for name in names if is_image_name(name) and not name.startswith(".")]
    return sorted(paths)


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by the end of its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


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


def check_files_exist(annotations_file: Path, images_dir: Path, file_names: Sequence[str]) -> None:
    """Find missing images now, with one listing a folder, and not in the middle of an epoch.

    Raises:
        DatasetError: says how many are missing, and names one.
    """
    folders = {os.path.dirname(name) for name in file_names}
    present = {(folder, name) for folder in folders for name in listing(images_dir / folder)}
    missing = [name for name in file_names if os.path.split(name) not in present]
    if missing:
        raise DatasetError(
            f"{annotations_file}: {len(missing)} of its {len(file_names)} images are not in {images_dir}, "
            f"the first is {missing[0]!r}. Copy them there or give the right folder with --images"
        )


def listing(folder: Path) -> list[str]:
    """Names in a folder; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def common_folder(paths: Iterable[str]) -> Path:
    """The deepest folder that all these files are below."""
    return Path(os.path.commonpath({os.path.dirname(path) for path in paths}))
