"""Read the sizes of the image files of a dataset without their pixels.

`rtdetr.images.files` defines which files are images and searches folders for them; `image_paths.py` finds the files
that annotations name.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr.errors import DatasetError, InputError
from rtdetr.images import image_size
from rtdetr.images.files import images_below, is_image_name
from rtdetr.wording import are, counted

__all__ = ["BAD_IMAGES", "Sizes", "common_folder", "images_below", "is_image_name", "listing", "sizes_of"]

BAD_IMAGES = (
    " 'rtdetr data check' finds every such image, and --fix writes a copy without them; 'train' and 'evaluate' skip "
    "them with --bad-images skip (Python: open_dataset(..., on_bad_image='skip'))"
)
PLACEHOLDER_WH = (640, 640)  # size assumed for an unreadable image
_THREADS = 8  # opening a file on a network drive is mostly waiting


class Sizes(NamedTuple):
    """Width and height of images after EXIF rotation.

    sizes_wh: int64 (n, 2), pixels; `PLACEHOLDER_WH` for an unreadable image.
    unread: positions of unreadable images.
    note: a warning about these, in one line; empty if there are none.
    """

    sizes_wh: np.ndarray
    unread: list[int]
    note: str

    @classmethod
    def of(
        cls,
        sizes: Sequence[tuple[int, int] | InputError],
        paths: Sequence[str | None],
        *,
        source: object,
        on_bad_image: str,
    ) -> "Sizes":
        """Combine sizes that were read; paths are None for images that are not files. Raises as `sizes_of`."""
        failed = {i: size for i, size in enumerate(sizes) if isinstance(size, InputError)}
        missing = [i for i in failed if (path := paths[i]) is not None and not os.path.isfile(path)]
        first = failed[missing[0]] if missing else next(iter(failed.values()), None)
        count = f"{len(missing) or len(failed)} of {counted(len(sizes), 'image')}"
        if failed and (on_bad_image == "error" or len(failed) == len(sizes)):
            what = f"{are(missing)} missing" if missing else "cannot be read"
            hint = BAD_IMAGES if on_bad_image == "error" else ""
            raise DatasetError(f"{source}: {count} {what}: {sentence(first)}{hint}")
        known = [PLACEHOLDER_WH if isinstance(size, InputError) else size for size in sizes]
        bad = [failed[i] for i in failed if i not in missing]  # missing files are reported when they are located
        count = f"{len(bad)} of {counted(len(sizes), 'image')}"
        note = f"{source}: {count} cannot be read and {are(bad)} skipped: {sentence(bad[0])}" if bad else ""
        return cls(np.array(known, dtype=np.int64).reshape(-1, 2), list(failed), note)

    def enlarged_to_boxes(self, boxes_xywh: np.ndarray, image_of_box: np.ndarray) -> np.ndarray:
        """Return the sizes; assumed ones are enlarged to contain the boxes (m, 4), pixels, of their image."""
        sizes_wh, unread = self.sizes_wh.copy(), np.isin(image_of_box, self.unread)
        corners = np.ceil(boxes_xywh[unread, :2] + boxes_xywh[unread, 2:]).astype(np.int64)
        np.maximum.at(sizes_wh, image_of_box[unread], corners)
        return sizes_wh


def sizes_of(paths: Sequence[str], *, source: object, on_bad_image: str) -> Sizes:
    """Read the sizes of images from the file headers.

    Args:
        paths: paths of the files.
        source: name of the dataset in messages.
        on_bad_image: what to do with unreadable images: "error" rejects them, "skip" assumes a size.

    Raises:
        DatasetError: an image is missing, or it cannot be read and `on_bad_image` is "error".
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(_size_or_error, paths))
    return Sizes.of(sizes, paths, source=source, on_bad_image=on_bad_image)


def _size_or_error(path: str) -> tuple[int, int] | InputError:
    try:
        return image_size(path)
    except InputError as error:
        return error


def sentence(error: object) -> str:
    """Return an image error as a sentence, without the suggestion of a similar file name."""
    return f"{str(error).partition(' Did you mean ')[0].rstrip('.')}."


def listing(folder: Path) -> list[str]:
    """Return the names in a folder, without broken links; empty if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_symlink() or os.path.exists(entry.path)]
    except (OSError, ValueError):
        return []


def common_folder(paths: Iterable[str]) -> Path:
    """Return the deepest folder that contains all these files."""
    return Path(os.path.commonpath({os.path.dirname(path) for path in paths}))
