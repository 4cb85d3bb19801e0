"""The objects of a dataset as flat arrays, independent of the file format, checked once before use.

A reader (`coco.py`, `yolo.py`, `voc.py`, `huggingface.py`) collects `Objects` in the order of its files; `arrange`
checks the boxes and returns `Annotations`: images in ascending order of id, boxes grouped by image. With NumPy columns
instead of one Python object per box, a million boxes take about 80 MB, and forked worker processes share them: the
columns have no reference counts, so reading never copies a page. Next file: `dataset.py`.
"""

import logging
import reprlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.box_forms import XYWH, other_form
from rtdetr.errors import ConfigError, DatasetError, nearest
from rtdetr.wording import counted, more_like_it

_log = logging.getLogger(__name__)
BAD_BOX_CHOICES = ("error", "drop")
BAD_IMAGE_CHOICES = ("error", "skip")
LARGEST = 1e15  # no image has such a coordinate or area, and products do not overflow
_LONGEST_NAME = 1024  # file names are stored with a common width
_USUAL_OVERHANG = 0.05  # share of boxes that may extend beyond their image by more than a pixel
_MAX_DIGITS = 18  # numbers with this many digits fit into 64 bits


class Annotations(NamedTuple):
    """Columns of one dataset. Image i has the rows starts[i]:starts[i + 1] of the box columns."""

    categories: Categories
    image_ids: np.ndarray  # int64 (images,), ascending
    file_names: np.ndarray  # text (images,)
    sizes_wh: np.ndarray  # int64 (images, 2), pixels
    starts: np.ndarray  # int64 (images + 1,)
    boxes_xywh: np.ndarray  # float64 (boxes, 4), pixels, not clipped to the image
    labels: np.ndarray  # int64 (boxes,)
    areas: np.ndarray  # float64 (boxes,), square pixels; of the object, not of its box
    iscrowd: np.ndarray  # bool (boxes,); not trained on, and detecting them is not an error
    notes: tuple[str, ...] = ()  # warnings for the user, one line each
    implied: tuple[str, ...] = ()  # names in `categories` that are not in the files, but come from a known class list
    inputs_known: bool = True  # False if `Found.inputs` lacks files that these depend on, so they must not be cached

    def first(self, count: int) -> "Annotations":
        """Return the first images only."""
        rows = int(self.starts[count])
        return self._replace(
            image_ids=self.image_ids[:count],
            file_names=self.file_names[:count],
            sizes_wh=self.sizes_wh[:count],
            starts=self.starts[: count + 1],
            boxes_xywh=self.boxes_xywh[:rows],
            labels=self.labels[:rows],
            areas=self.areas[:rows],
            iscrowd=self.iscrowd[:rows],
        )


class OnBad(NamedTuple):
    """What to do with invalid boxes and unreadable images, chosen by the user."""

    box: str = "error"  # or "drop"
    image: str = "error"  # or "skip"


class Objects(NamedTuple):
    """Output of a reader: images and boxes in the order of its files."""

    categories: Categories
    image_ids: np.ndarray  # int64 (images,), unique
    file_names: Sequence[str]
    sizes_wh: np.ndarray  # int64 (images, 2), pixels, positive
    image_of_box: np.ndarray  # int64 (boxes,), positions in image_ids
    boxes_xywh: np.ndarray  # float64 (boxes, 4), pixels, finite
    labels: np.ndarray  # int64 (boxes,)
    areas: np.ndarray  # float64 (boxes,), square pixels; NaN: area of the box
    iscrowd: np.ndarray  # bool (boxes,)


def arrange(
    objects: Objects,
    *,
    source: object,
    on_bad_box: str,
    where: Callable[[int], str],
    form: str = XYWH,
    notes: Iterable[str] = (),
) -> Annotations:
    """Sort the output of a reader and check its boxes; add a note if many extend beyond their image.

    Args:
        objects: the columns.
        source: name of the dataset in messages.
        on_bad_box: what to do with boxes without width or height, or entirely outside their image: "error" rejects
            them, "drop" omits them.
        where: returns the file and position of a box, for messages.
        form: box form of the files, see `box_forms.py`.
        notes: notes of the reader.

    Raises:
        DatasetError: a box or area is invalid, or a file name is too long.
        ConfigError: `on_bad_box` is not one of these.
    """
    if on_bad_box not in BAD_BOX_CHOICES:
        raise ConfigError(
            f"expected 'error' or 'drop' for bad boxes, got {on_bad_box!r}.{nearest(on_bad_box, BAD_BOX_CHOICES)}"
        )
    overlong = next((name for name in objects.file_names if len(name) > _LONGEST_NAME), None)
    if overlong is not None:
        raise DatasetError(
            f"{source}: expected image file names of at most {_LONGEST_NAME} characters, got {reprlib.repr(overlong)}"
        )
    boxes_xywh, sizes_wh = objects.boxes_xywh, objects.sizes_wh[objects.image_of_box]
    corners = clamped_xyxy(boxes_xywh, sizes_wh)
    bad = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    if bad.any() and on_bad_box == "error":
        _refuse_box(boxes_xywh, sizes_wh, bad, where, form)
    doubt = _doubtful_form(boxes_xywh, sizes_wh, form)
    areas = np.where(np.isnan(objects.areas), boxes_xywh[:, 2] * boxes_xywh[:, 3], objects.areas)
    impossible = ~bad & ~((areas >= 0) & (areas < LARGEST))
    if impossible.any():
        row = int(impossible.argmax())
        raise DatasetError(f"{where(row)} has area {areas[row]:.10g}; expected a number of square pixels")

    order = np.argsort(objects.image_ids)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    image_of_box = rank[objects.image_of_box]
    kept = np.flatnonzero(~bad)
    kept = kept[np.argsort(image_of_box[kept], kind="stable")]
    return Annotations(
        categories=objects.categories,
        image_ids=objects.image_ids[order],
        file_names=np.array(objects.file_names, dtype=np.str_)[order],
        sizes_wh=objects.sizes_wh[order],
        starts=np.searchsorted(image_of_box[kept], np.arange(len(order) + 1)),
        boxes_xywh=boxes_xywh[kept],
        labels=objects.labels[kept],
        areas=areas[kept],
        iscrowd=objects.iscrowd[kept],
        notes=(*notes, *([f"{source}: {doubt}"] if doubt else [])),
    )


def log_notes(annotations: Annotations) -> None:
    """Log the notes as warnings."""
    for note in annotations.notes:
        _log.warning("%s", note)


def clamped_xyxy(boxes_xywh: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Return the corners of boxes (n, 4), float32, clipped to images of `size_wh` (2,) or (n, 2)."""
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    return np.clip(corners, 0, np.tile(size_wh, 2)).astype(np.float32)


def ids_of_names(file_names: Sequence[str]) -> np.ndarray:
    """Return image ids for a format without ids, int64 (images,).

    If all file names are distinct numbers, these are the ids ("000000000139.jpg" is 139, as in COCO); otherwise 0, 1,
    2, ... in the given order.
    """
    stems = [Path(name).stem for name in file_names]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= _MAX_DIGITS for stem in stems):
        ids = np.array([int(stem) for stem in stems], dtype=np.int64)
        if len(np.unique(ids)) == len(ids):
            return ids
    return np.arange(len(stems), dtype=np.int64)


def _doubtful_form(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, form: str) -> str:
    """Return why the form or position of the boxes is doubtful; no other check finds wrong boxes that have an area."""
    if found := other_form(boxes_xywh, sizes_wh, form=form):
        return f"the boxes {found}. They are read as {form}; correct them if that is wrong"
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    beyond = int(np.any((low < -1) | (high > sizes_wh + 1), axis=1).sum())
    if beyond <= _USUAL_OVERHANG * len(boxes_xywh):
        return ""
    return (
        f"{beyond} of {counted(len(boxes_xywh), 'box')} extend beyond their image by more than a pixel and are "
        f"clipped. Check that they are in the form {form} and belong to images of this size"
    )


def _refuse_box(
    boxes_xywh: np.ndarray, sizes_wh: np.ndarray, bad: np.ndarray, where: Callable[[int], str], form: str
) -> NoReturn:
    row = int(bad.argmax())
    if (boxes_xywh[row, 2:] <= 0).any():
        problem = "expected width and height > 0"
    else:
        problem = f"expected a box at least partly inside the image of {sizes_wh[row, 0]}x{sizes_wh[row, 1]} pixels"
    more = more_like_it(int(bad.sum()) - 1)
    if found := other_form(boxes_xywh, sizes_wh, form=form, least=1):
        more = f"{more}{'. ' if more else ''}The boxes {found}"
    box = ", ".join(f"{value:.10g}" for value in boxes_xywh[row])
    raise DatasetError(
        f"{where(row)} has bbox [{box}]; {problem}. Correct or remove it, or drop such boxes with "
        f"--bad-boxes drop (Python: on_bad_box='drop').{' ' if more else ''}{more}"
    )
