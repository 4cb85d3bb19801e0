"""Read a table of Hugging Face `datasets` as a dataset, without importing that package.

Columns, as in object detection datasets on the Hub: `image`, and `objects` with `bbox` (COCO's [x, y, width, height] in
pixels) and `category` (a ClassLabel, names, or numbers); optionally `width`, `height` and `image_id`, and in `objects`
`area` and `iscrowd`. Labels are positions in the ClassLabel, or else in the sorted names or numbers that occur.

Source: https://huggingface.co/docs/datasets/object_detection.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rtdetr.categories import Categories, Category
from rtdetr.data.annotations import LARGEST, Objects, OnBad, arrange, log_notes
from rtdetr.data.dataset import DetectionDataset, Source
from rtdetr.data.image_files import Sizes
from rtdetr.errors import DatasetError, InputError, nearest
from rtdetr.images import ImageSource, image_size
from rtdetr.wording import counted

_CATEGORY_KEYS = ("category", "categories", "category_id", "label", "labels")
_BOX_KEYS = ("bbox", "bboxes", "boxes")


def is_table(source: object) -> bool:
    """Return whether this is, or looks like, a `datasets.Dataset` or `DatasetDict`."""
    if isinstance(source, Mapping):
        return bool(source) and all(is_table(table) for table in source.values())
    return all(hasattr(source, name) for name in ("column_names", "features", "__getitem__", "__len__"))


def is_saved_table(folder: Path) -> bool:
    """Return whether a folder was written by `datasets` or downloaded from the Hub; only that package can read it."""
    marks = ("dataset_dict.json", "dataset_info.json", "state.json", "metadata.jsonl", "train/metadata.jsonl")
    tables = (*folder.glob("*.parquet"), *folder.glob("data/*.parquet"))
    return bool(tables) or any((folder / name).is_file() for name in marks)


def open_table(source: Any, split_names: Sequence[str], *, on_bad: OnBad) -> DetectionDataset:
    """Read the boxes of a table; images are read on demand.

    Args:
        source: a table, or a mapping from split to table, from which the first of `split_names` is used.
        split_names: possible names of the split.
        on_bad: what to do with bad boxes and images.

    Raises:
        DatasetError: a column is missing or invalid, or the split is missing.
    """
    table = source
    if isinstance(source, Mapping):
        name = next((name for name in split_names if name in source), None)
        if name is None:
            raise DatasetError(f"expected a split {split_names[0]!r} in the table, got {', '.join(source)}")
        table = source[name]
    for column in ("image", "objects"):
        if column not in table.column_names:
            close = nearest(column, table.column_names)
            raise DatasetError(f"expected columns 'image' and 'objects', got {', '.join(table.column_names)}.{close}")
    if len(table) == 0:
        raise DatasetError("expected a table with at least one row, got an empty one")
    name = _name(table)
    images = _Images(_undecoded(table), np.arange(len(table)))
    objects, where, note = _read(table.with_format(None), images, name, on_bad.image)
    notes = filter(None, [note])
    annotations = arrange(objects, source=name, on_bad_box=on_bad.box, where=where, notes=notes)
    log_notes(annotations)
    images = images._replace(rows=np.argsort(objects.image_ids))
    return DetectionDataset.of(annotations, Source(Path(name), images, annotations.categories))


class _Images(NamedTuple):
    """The images of a table, as bytes if it stores bytes."""

    table: Any
    rows: np.ndarray  # int64 (images,), the row of each image of the dataset

    def image(self, index: int) -> ImageSource:
        """Return one image of the dataset; raise InputError if the row has none."""
        value = self.table[int(self.rows[index])]["image"]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if value is None:
            raise InputError("the table has no image in this row")
        return value


def _undecoded(table: Any) -> Any:
    """Return the image column without decoding, so images are read by the same code as files."""
    column = table.with_format(None).select_columns(["image"])
    feature = column.features["image"]
    if getattr(feature, "decode", False):
        column = column.cast_column("image", type(feature)(decode=False))
    return column


def _name(table: Any) -> str:
    info = getattr(table, "info", None)
    return f"table {getattr(info, 'dataset_name', None) or ''}".rstrip()


class _TableObject(NamedTuple):
    """One object of a row."""

    row: int
    number: int  # in its row, from 1
    box: Any
    category: Any
    area: Any
    iscrowd: Any


def _read(table: Any, images: _Images, name: str, on_bad_image: str) -> tuple[Objects, Callable[[int], str], str]:
    """Return everything but the images in row order, a function that names an object in messages, and a note."""
    stated = [column for column in ("image_id", "width", "height") if column in table.column_names]
    rows = list(table.select_columns(["objects", *stated]))
    things = [thing for number, row in enumerate(rows) for thing in _table_objects(row["objects"], number, name)]

    def where(position: int) -> str:
        thing = things[position]
        return f"{name}: row {thing.row}: object {thing.number} of class {thing.category!r}"

    categories, label_of_value = _categories(table.features["objects"], things, name)
    for position, thing in enumerate(things):
        if not isinstance(thing.category, int | str) or thing.category not in label_of_value:
            raise DatasetError(
                f"{where(position)}: this class does not exist; the table has {counted(len(categories), 'class')}"
            )
    boxes_xywh = np.array([_box(thing, where(i)) for i, thing in enumerate(things)]).reshape(-1, 4)
    image_of_box = np.array([thing.row for thing in things], dtype=np.int64)
    read = [_size(row, number, images) for number, row in enumerate(rows)]
    sizes = Sizes.of(read, [None] * len(rows), source=name, on_bad_image=on_bad_image)
    objects = Objects(
        categories=categories,
        image_ids=_image_ids(rows),
        file_names=[f"row {number}" for number in range(len(rows))],
        sizes_wh=sizes.enlarged_to_boxes(boxes_xywh, image_of_box),
        image_of_box=image_of_box,
        boxes_xywh=boxes_xywh,
        labels=np.array([label_of_value[thing.category] for thing in things], dtype=np.int64),
        areas=np.array([_area(thing, where(i)) for i, thing in enumerate(things)], dtype=np.float64),
        iscrowd=np.array([bool(thing.iscrowd) for thing in things], dtype=bool),
    )
    return objects, where, sizes.note


def _table_objects(objects: Any, row: int, name: str) -> list[_TableObject]:
    """Return the objects of a row, stored as a mapping of lists or a list of mappings."""
    if isinstance(objects, Mapping):
        columns = {key: list(values) for key, values in objects.items() if isinstance(values, Sequence | np.ndarray)}
    elif isinstance(objects, Sequence) and all(isinstance(thing, Mapping) for thing in objects):
        columns = {key: [thing.get(key) for thing in objects] for thing in objects[:1] for key in thing}
        if not objects:
            return []
    else:
        _refuse_row(name, row, f"expected 'objects' with a list for each key, got {type(objects).__name__}")
    boxes = next((columns[key] for key in _BOX_KEYS if key in columns), None)
    values = next((columns[key] for key in _CATEGORY_KEYS if key in columns), None)
    if boxes is None or values is None:
        _refuse_row(name, row, f"expected 'bbox' and 'category' in 'objects', got {', '.join(map(str, columns))}")
    areas = columns.get("area") or [None] * len(boxes)
    crowds = columns.get("iscrowd") or [False] * len(boxes)
    if not len(boxes) == len(values) == len(areas) == len(crowds):
        _refuse_row(
            name,
            row,
            f"has {counted(len(boxes), 'box')}, but {counted(len(values), 'category')}; expected one per box",
        )
    numbers = range(1, len(boxes) + 1)
    return [_TableObject(row, *thing) for thing in zip(numbers, boxes, values, areas, crowds, strict=True)]


def _categories(feature: Any, things: list[_TableObject], name: str) -> tuple[Categories, dict[Any, int]]:
    """Return the classes, and the label per category value of the table."""
    names = getattr(_category_feature(feature), "names", None)
    if names:
        categories = Categories(Category(label, str(text)) for label, text in enumerate(names))
        return categories, {label: label for label in range(len(names))} | {text: i for i, text in enumerate(names)}
    values = {thing.category for thing in things if isinstance(thing.category, int | str)}
    if not values:
        raise DatasetError(f"{name}: no class names in the features and no objects; expected a ClassLabel")
    if len({type(value) for value in values}) > 1:
        raise DatasetError(f"{name}: some categories are text and some are numbers")
    ordered = sorted(values)
    categories = Categories(
        Category(value, f"class {value}") if isinstance(value, int) else Category(label, value)
        for label, value in enumerate(ordered)
    )
    return categories, {value: label for label, value in enumerate(ordered)}


def _category_feature(feature: Any) -> Any:
    inner = _unwrapped(feature)
    key = next((key for key in _CATEGORY_KEYS if isinstance(inner, Mapping) and key in inner), None)
    return None if key is None else _unwrapped(inner[key])


def _unwrapped(feature: Any) -> Any:
    """Return the feature of the elements of a list, in any way that versions of the package represent lists."""
    while isinstance(feature, list) or hasattr(feature, "feature"):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return feature


def _image_ids(rows: list[dict[str, Any]]) -> np.ndarray:
    values = [row.get("image_id") for row in rows]
    if all(isinstance(value, int) and abs(value) < 2**63 for value in values) and len(set(values)) == len(values):
        return np.array(values, dtype=np.int64)
    return np.arange(len(rows), dtype=np.int64)


def _size(row: dict[str, Any], number: int, images: _Images) -> tuple[int, int] | InputError:
    width, height = row.get("width"), row.get("height")
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0 and max(width, height) < LARGEST:
        return width, height
    try:
        return image_size(images.image(number))
    except InputError as error:
        return InputError(f"row {number}: {error}")


def _box(thing: _TableObject, where: str) -> list[float]:
    try:
        box = [float(value) for value in thing.box]
    except (TypeError, ValueError, OverflowError):
        box = []
    if len(box) != 4 or not all(abs(value) < LARGEST for value in box):
        raise DatasetError(f"{where} has bbox {thing.box!r:.80}; expected 4 numbers [x, y, width, height] in pixels")
    return box


def _area(thing: _TableObject, where: str) -> float:
    if thing.area is None:
        return np.nan
    try:
        return float(thing.area)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{where} has area {thing.area!r:.80}; expected a number of square pixels") from None


def _refuse_row(name: str, row: int, problem: str) -> NoReturn:
    raise DatasetError(f"{name}: row {row}: {problem}")
