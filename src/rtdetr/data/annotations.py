"""The objects of a dataset as flat arrays, whatever the format of its files, checked once before anything uses them.

A reader (`coco.py`, `yolo.py`, `voc.py`, `huggingface.py`) collects `Objects` in the order of its files; `arrange`
checks the boxes and gives `Annotations`: images by ascending id, boxes grouped by image. Numpy columns instead of one
Python object a box keep a million of them at about 80 MB, and forked worker processes share them: nothing in them has
a reference count, so reading never copies a page. Next file: `dataset.py`.
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
LARGEST = 1e15  # no picture has such a coordinate or area, and products of them do not overflow
_LONGEST_NAME = 1024  # file names share one width in memory
_USUAL_OVERHANG = 0.05  # share of boxes that may reach beyond their image by more than a pixel
_MOST_DIGITS = 18  # a number of so many digits fits into 64 bits


class Annotations(NamedTuple):
    """The columns of one dataset. Image i owns the rows starts[i]:starts[i + 1] of the last four."""

    categories: Categories
    image_ids: np.ndarray  # int64 (images,), ascending
    file_names: np.ndarray  # text (images,)
    sizes_wh: np.ndarray  # int64 (images, 2), pixels
    starts: np.ndarray  # int64 (images + 1,)
    boxes_xywh: np.ndarray  # float64 (boxes, 4), pixels, not cut at the borders
    labels: np.ndarray  # int64 (boxes,)
    areas: np.ndarray  # float64 (boxes,), square pixels; of the object, not of its box
    iscrowd: np.ndarray  # bool (boxes,); not to be trained on, and no mistake to detect
    notes: tuple[str, ...] = ()  # what to tell whoever uses it, a line each
    implied: tuple[str, ...] = ()  # names in `categories` that the files do not have: a known list was taken whole
    inputs_known: bool = True  # False: `Found.inputs` lacks files that they depend on, and they must not be cached


class OnBad(NamedTuple):
    """What to do about boxes and images that are not sound, as the user chooses."""

    box: str = "error"  # or "drop"
    image: str = "error"  # or "skip"


class Objects(NamedTuple):
    """What a reader found, images and boxes in the order of its files."""

    categories: Categories
    image_ids: np.ndarray  # int64 (images,), all different
    file_names: Sequence[str]
    sizes_wh: np.ndarray  # int64 (images, 2), pixels, positive
    image_of_box: np.ndarray  # int64 (boxes,), positions in image_ids
    boxes_xywh: np.ndarray  # float64 (boxes, 4), pixels, finite
    labels: np.ndarray  # int64 (boxes,)
    areas: np.ndarray  # float64 (boxes,), square pixels; NaN: that of the box
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
    """Sort what a reader found and check its boxes; many that reach beyond their image give a note.

    Args:
        objects: the columns.
        source: what names the dataset in a message.
        on_bad_box: what to do about boxes without width or height, or wholly outside their image: "error" refuses
            them, "drop" leaves them out.
        where: how to call a row of the boxes in a message: its file and its place there.
        form: that the files have boxes in, see `box_forms.py`.
        notes: what the reader has to tell.

    Raises:
        DatasetError: a box or area is impossible, or a file name is overlong.
        ConfigError: `on_bad_box` is neither word.
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
    bad = np.any(_is_empty(clamped_xyxy(boxes_xywh, sizes_wh)), axis=1)
    if bad.any() and on_bad_box == "error":
        _refuse_box(boxes_xywh, sizes_wh, bad, where, form)
    doubt = _doubt(boxes_xywh, sizes_wh, form)
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


def tell(annotations: Annotations) -> None:
    """Write the notes to the log."""
    for note in annotations.notes:
        _log.warning("%s", note)


def clamped_xyxy(boxes_xywh: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Corners of boxes (n, 4), float32, cut at the borders of images of `size_wh` (2,) or (n, 2)."""
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    return np.clip(corners, 0, np.tile(size_wh, 2)).astype(np.float32)


def ids_of_names(file_names: Sequence[str]) -> np.ndarray:
    """Image ids for a format that has none, int64 (images,).

    The number that each file is named by ("000000000139.jpg" is 139, as in COCO), where all names are numbers and
    differ; else 0, 1, 2, ... in the order given.
    """
    stems = [Path(name).stem for name in file_names]
    if all(stem.isascii() and stem.isdigit() and len(stem) <= _MOST_DIGITS for stem in stems):
        ids = np.array([int(stem) for stem in stems], dtype=np.int64)
        if len(np.unique(ids)) == len(ids):
            return ids
    return np.arange(len(stems), dtype=np.int64)


def _is_empty(corners_xyxy: np.ndarray) -> np.ndarray:
    return corners_xyxy[:, 2:] <= corners_xyxy[:, :2]


def _doubt(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, form: str) -> str:
    """What speaks against the form or the place of the boxes; nothing else finds boxes that have an area."""
    if found := other_form(boxes_xywh, sizes_wh, form=form):
        return f"the boxes {found}. They are taken as {form}: correct them if that is wrong"
    low, high = boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]
    beyond = int(np.any((low < -1) | (high > sizes_wh + 1), axis=1).sum())
    if beyond <= _USUAL_OVERHANG * len(boxes_xywh):
        return ""
    return (
        f"{beyond} of {counted(len(boxes_xywh), 'box')} reach beyond their image by more than a pixel; they are cut at "
        f"its border. Are they in another form than {form}, or of images of another size?"
    )


def _refuse_box(
    boxes_xywh: np.ndarray, sizes_wh: np.ndarray, bad: np.ndarray, where: Callable[[int], str], form: str
) -> NoReturn:
    row = int(bad.argmax())
    if (boxes_xywh[row, 2:] <= 0).any():
        problem = "expected width and height > 0"
    else:
        problem = f"expected at least a part inside the image of {sizes_wh[row, 0]}x{sizes_wh[row, 1]} pixels"
    more = more_like_it(int(bad.sum()) - 1)
    if found := other_form(boxes_xywh, sizes_wh, form=form, least=1):
        more = f"{more}{'. ' if more else ''}The boxes {found}"
    box = ", ".join(f"{value:.10g}" for value in boxes_xywh[row])
    raise DatasetError(
        f"{where(row)} has bbox [{box}]; {problem}. Correct or remove it, or leave such boxes out with "
        f"--bad-boxes drop (Python: on_bad_box='drop').{' ' if more else ''}{more}"
    )
