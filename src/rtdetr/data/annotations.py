"""A COCO detection file as flat arrays, checked completely while it is read.

`read_annotations(file)` gives images by ascending id, labels contiguous by ascending category id, and boxes grouped by
image. Numpy columns instead of one dict a box keep a data set small and shareable between worker processes. Whatever
contradicts the format is a `DatasetError` naming the file, the row and the remedy. Next file: `coco.py`.

Source: the "Object Detection" format of https://cocodataset.org/#format-data.
"""

import json
import reprlib
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rtdetr.categories import Categories
from rtdetr.errors import ConfigError, DatasetError, nearest

_BAD_BOX_CHOICES = ("error", "drop")
_LARGEST = 1e15  # no picture has such a coordinate or area, and products of them do not overflow


class Annotations(NamedTuple):
    """The columns of one file. Image i owns the rows starts[i]:starts[i + 1] of the last four."""

    categories: Categories
    image_ids: np.ndarray  # int64 (images,), ascending
    file_names: np.ndarray  # text (images,)
    sizes_wh: np.ndarray  # int64 (images, 2), pixels
    starts: np.ndarray  # int64 (images + 1,)
    boxes_xywh: np.ndarray  # float64 (boxes, 4), pixels, as the file has them
    labels: np.ndarray  # int64 (boxes,)
    areas: np.ndarray  # float64 (boxes,), square pixels; of the object, not of its box
    iscrowd: np.ndarray  # bool (boxes,)


def read_annotations(file: Path, *, on_bad_box: str = "error") -> Annotations:
    """Read and check a COCO JSON file.

    Optional keys: `iscrowd` (0 when missing) and `area` (then that of the box).

    Args:
        file: the JSON file.
        on_bad_box: what to do about boxes without width or height, or wholly outside their image: "error" refuses the
            file, "drop" leaves them out.

    Raises:
        DatasetError: the file is missing, is not JSON, or contradicts the format or itself.
        ConfigError: `on_bad_box` is neither word.
    """
    if on_bad_box not in _BAD_BOX_CHOICES:
        raise ConfigError(
            f"expected 'error' or 'drop' for bad boxes, got {on_bad_box!r}.{nearest(on_bad_box, _BAD_BOX_CHOICES)}"
        )
    document = _load_json(file)
    rows = {kind: _Rows.of(document, file, kind) for kind in ("images", "annotations", "categories")}
    images, annotations = rows["images"], rows["annotations"]

    categories = _categories(rows["categories"])
    image_ids = images.unique_ids()
    order = np.argsort(image_ids)
    image_ids = image_ids[order]
    sizes_wh = np.stack([images.integers("width"), images.integers("height")], axis=1)[order]
    if (sizes_wh < 1).any():
        images.fail(int(order[(sizes_wh < 1).any(1).argmax()]), "has no pixels; expected width and height > 0")

    annotations.unique_ids()
    image_of_box = _positions(annotations, "image_id", image_ids, "no image of that id is listed in 'images'")
    labels = _positions(
        annotations, "category_id", np.array(categories.ids), f"'categories' lists {reprlib.repr(categories.ids)}"
    )
    boxes_xywh = _boxes(annotations)
    bad = _is_bad(boxes_xywh, sizes_wh[image_of_box])
    if bad.any() and on_bad_box == "error":
        _refuse_box(annotations, boxes_xywh, sizes_wh[image_of_box], bad)
    areas = _areas(annotations, boxes_xywh, bad)
    iscrowd = np.array(annotations.column("iscrowd", {int, bool}, "0 or 1", default=0)) != 0
    kept = np.flatnonzero(~bad)
    kept = kept[np.argsort(image_of_box[kept], kind="stable")]
    return Annotations(
        categories=categories,
        image_ids=image_ids,
        file_names=np.array(images.column("file_name", {str}, "a file name"))[order],
        sizes_wh=sizes_wh,
        starts=np.searchsorted(image_of_box[kept], np.arange(len(image_ids) + 1)),
        boxes_xywh=boxes_xywh[kept],
        labels=labels[kept],
        areas=areas[kept],
        iscrowd=iscrowd[kept],
    )


def clamped_xyxy(boxes_xywh: np.ndarray, size_wh: np.ndarray) -> np.ndarray:
    """Corners of boxes (n, 4), float32, cut at the borders of images of `size_wh` (2,) or (n, 2)."""
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    return np.clip(corners, 0, np.tile(size_wh, 2)).astype(np.float32)


class _Rows(NamedTuple):
    """One list of the file, read column by column; an error names the first row that is wrong."""

    file: Path
    kind: str
    rows: list[dict[str, Any]]

    @classmethod
    def of(cls, document: Any, file: Path, kind: str) -> "_Rows":
        rows = document.get(kind) if isinstance(document, dict) else None
        if not isinstance(rows, list) or any(type(row) is not dict for row in rows):
            raise DatasetError(
                f"{file}: expected a COCO file, an object with lists of objects 'images', 'annotations' and "
                f"'categories'; '{kind}' is {'missing' if rows is None else 'no such list'}"
            )
        if not rows and kind != "annotations":
            raise DatasetError(f"{file}: '{kind}' is empty; expected at least one entry")
        return cls(file, kind, rows)

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise the error of one row: file, which row, what is wrong."""
        row = self.rows[position]
        name = {"images": "image", "annotations": "annotation", "categories": "category"}[self.kind]
        name += f" {reprlib.repr(row['id'])}" if "id" in row else f" number {position + 1} of the list"
        if "image_id" in row:
            name += f" (image {reprlib.repr(row['image_id'])})"
        raise DatasetError(f"{self.file}: {name} {problem}")

    def column(self, key: str, types: set[type], expected: str, *, default: Any = None) -> list[Any]:
        """Values of one key in every row, all of one of the types."""
        values = [row.get(key, default) for row in self.rows]
        if not set(map(type, values)) <= types:
            position = next(i for i, value in enumerate(values) if type(value) not in types)
            got = f"{key} {reprlib.repr(values[position])}" if key in self.rows[position] else f"no {key!r}"
            self.fail(position, f"has {got}; expected {expected}")
        return values

    def integers(self, key: str) -> np.ndarray:
        values = self.column(key, {int}, "an integer")
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            position = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
            self.fail(position, f"has a {key} beyond 64 bits")

    def unique_ids(self) -> np.ndarray:
        ids = self.integers("id")
        if len(np.unique(ids)) < len(ids):
            _, first = np.unique(ids, return_index=True)
            repeated = np.setdiff1d(np.arange(len(ids)), first)[0]
            self.fail(int(repeated), f"has an id that another entry of '{self.kind}' has too; ids must differ")
        return ids


def _load_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except OSError as error:
        raise DatasetError(f"cannot read the annotation file {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected a COCO file in JSON, which this is not: {error}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise DatasetError(f"contains the number {name}; expected finite numbers only")


def _categories(rows: _Rows) -> Categories:
    """Classes by ascending id, so that labels follow COCO's published table whatever the order in the file."""
    ids = rows.unique_ids()
    names = rows.column("name", {str}, "a class name")
    seen: set[str] = set()
    for position, name in enumerate(names):
        if name in seen:
            rows.fail(position, f"is named {name!r} like another category; names must differ")
        seen.add(name)
    return Categories.from_json({"id": int(ids[i]), "name": names[i]} for i in np.argsort(ids))


def _positions(rows: _Rows, key: str, known: np.ndarray, explanation: str) -> np.ndarray:
    """Position of each row's reference in the ascending ids `known`."""
    values = rows.integers(key)
    positions = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wrong = known[positions] != values
    if wrong.any():
        row = int(wrong.argmax())
        rows.fail(row, f"has {key} {values[row]}, which does not exist: {explanation}")
    return positions


def _boxes(rows: _Rows) -> np.ndarray:
    expected = "4 numbers [x, y, width, height] in pixels"
    lists = rows.column("bbox", {list}, expected)
    for position, box in enumerate(lists):
        if len(box) != 4 or not set(map(type, box)) <= {int, float} or not all(abs(v) < _LARGEST for v in box):
            rows.fail(position, f"has bbox {reprlib.repr(box)}; expected {expected}")
    return np.array(lists, dtype=np.float64).reshape(-1, 4)


def _areas(rows: _Rows, boxes_xywh: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """The file's areas, from which AP's size classes follow; the box's where the file has none."""
    values = rows.column("area", {int, float, type(None)}, "a number of square pixels")
    for position, value in enumerate(values):
        if value is not None and not dropped[position] and not 0 <= value < _LARGEST:
            rows.fail(position, f"has area {value}; expected a number of square pixels")
    areas = np.array(values, dtype=np.float64)  # None becomes NaN
    return np.where(np.isnan(areas), boxes_xywh[:, 2] * boxes_xywh[:, 3], areas)


def _is_bad(boxes_xywh: np.ndarray, sizes_wh: np.ndarray) -> np.ndarray:
    """Boxes of which nothing lies inside their image; those are also the ones without width or height."""
    corners = clamped_xyxy(boxes_xywh, sizes_wh)
    return np.any(corners[:, 2:] <= corners[:, :2], axis=1)


def _refuse_box(rows: _Rows, boxes_xywh: np.ndarray, sizes_wh: np.ndarray, bad: np.ndarray) -> NoReturn:
    row = int(bad.argmax())
    if (boxes_xywh[row, 2:] <= 0).any():
        problem = "expected width and height > 0"
    else:
        problem = f"expected at least a part inside the image of {sizes_wh[row, 0]}x{sizes_wh[row, 1]} pixels"
    more = f" There are {bad.sum() - 1} more like it" if bad.sum() > 1 else ""
    rows.fail(
        row,
        f"has bbox {rows.rows[row]['bbox']}; {problem}. Correct or remove it, or leave such boxes out with "
        f"--bad-boxes drop (Python: on_bad_box='drop').{more}",
    )
