"""COCO: one JSON file that lists images, annotations and categories. Its path goes in, `Annotations` come out.

Labels are contiguous by ascending category id, which for COCO's own files is the published order. Values in another
form that can mean one thing only are read (`coco_values.py`), and the log says so; whatever else contradicts the format
is a `DatasetError` naming the file, the row and the remedy.

| layout      | annotations                                  | images                               |
|-------------|----------------------------------------------|--------------------------------------|
| COCO        | annotations/instances_val2017.json           | val2017/ or images/val2017/          |
| simple      | annotations/val.json or val.json             | images/val/, val/ or images/         |
| Roboflow    | valid/_annotations.coco.json                 | valid/                               |
| single file | any.json                                     | as above, in `images/` or beside it  |
| the only one| result.json, or any other, as for `train`    | the same                             |

Source: the "Object Detection" format of https://cocodataset.org/#format-data.
"""

import functools
import json
import math
import mmap
import re
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import LARGEST, Annotations, Found, Objects, OnBad, arrange
from rtdetr.data.coco_values import OTHER_BOXES, OTHER_NAMES, OTHER_NUMBERS, READ, WITHOUT_ID, box_of, is_box, named
from rtdetr.data.image_files import listing
from rtdetr.errors import DatasetError
from rtdetr.images.files import is_hidden
from rtdetr.text_files import read_text

PATTERNS = (
    "annotations/instances_{}2017.json",
    "annotations/instances_{}*.json",
    "annotations/{}.json",
    "{}.json",
    "{}/_annotations.coco.json",
)
_USUAL_NAMES = ("result.json", "_annotations.coco.json", "annotations.json", "instances_default.json")
_WIDE = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def find_coco(root: Path, names: Sequence[str], *, images: Path | None) -> Found | None:
    """Find the annotation file of a split, called by one of `names`, in a dataset's folder; None: there is none.

    Raises:
        DatasetError: several files could be meant.
    """
    for pattern in PATTERNS:
        found = sorted(file for name in names for file in root.glob(pattern.format(name)))
        if len(found) > 1:
            listed = ", ".join(str(file) for file in found)
            raise DatasetError(f"{root} has several annotation files for '{names[0]}': {listed}. Give the file itself")
        if found:
            return coco_file(found[0], images=images)
    return None


def find_only_coco(root: Path, names: Iterable[str], *, images: Path | None) -> Found | None:
    """Find the annotation file of a folder that has one only, whose name says nothing of splits, called by `names`.

    Raises:
        DatasetError: several files could be meant.
    """
    if any(any(root.glob(pattern.format(name))) for name in names for pattern in PATTERNS):
        return None
    for folder in (root, root / "annotations"):
        files = sorted(folder / name for name in listing(folder) if name.lower().endswith(".json"))
        found = [file for file in files if not is_hidden(file.name) and may_be_coco(file)]
        usual = [file for file in found if file.name.lower() in _USUAL_NAMES] or found
        if len(usual) > 1:
            listed = ", ".join(str(file) for file in usual)
            raise DatasetError(f"{root} has several annotation files: {listed}. Give the file itself")
        if usual:
            return coco_file(usual[0], images=images)
    return None


def may_be_coco(file: Path) -> bool:
    """Whether a JSON file has the keys of a COCO file, without reading it as such."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            wide = next((name for mark, name in _WIDE.items() if content[:2] == mark), None)
            keys = [f'"{key}"'.encode(wide or "utf-8") for key in ("images", "annotations", "categories")]
            return all(content.find(key) >= 0 for key in keys)
    except (OSError, ValueError):  # ValueError: it is empty
        return False


def coco_file(file: Path, *, images: Path | None) -> Found:
    """A COCO JSON file and the folder of its images: the one given, else the first that exists, else the file's own."""
    return Found("coco", file, images or _images_of(file), [str(file)], functools.partial(_read, file))


def read_coco(file: Path, *, on_bad_box: str = "error") -> Annotations:
    """Read and check a COCO JSON file.

    Optional keys: `iscrowd` (0 when missing), `area` (then that of the box), the `id` of an annotation, and its `bbox`
    where it has a `segmentation`, of which the surrounding box is taken.

    Args:
        file: the JSON file.
        on_bad_box: "error" or "drop", see `arrange`.

    Raises:
        DatasetError: the file is missing, is not JSON, or contradicts the format or itself.
        ConfigError: `on_bad_box` is neither word.

    Differs: published code takes ids outside COCO's own list as labels, so files that count from 1 or leave gaps
    train a wrong class or fail; here any ids work.
    """
    document, problem = load_json(file)
    if problem:
        raise DatasetError(f"{file}: {problem}; expected finite numbers only")
    rows = {kind: _Rows.of(document, file, kind) for kind in ("images", "annotations", "categories")}
    images, annotations = rows["images"], rows["annotations"]

    categories = _categories(rows["categories"])
    image_ids = images.unique_ids()
    sizes_wh = np.stack([images.integers("width"), images.integers("height")], axis=1)
    if (sizes_wh < 1).any():
        images.fail(int((sizes_wh < 1).any(1).argmax()), "has no pixels; expected width and height > 0")
    if (sizes_wh >= LARGEST).any():
        images.fail(int((sizes_wh >= LARGEST).any(1).argmax()), f"has width or height beyond {LARGEST:g} pixels")
    order = np.argsort(image_ids)

    annotations.unique_ids(optional=True)
    file_names = _file_names(images)
    image_of_box = _positions(
        annotations,
        "image_id",
        image_ids[order],
        named=lambda: named(zip(file_names, image_ids.tolist(), strict=True)),
        explanation="no image of that id is in 'images'",
    )
    image_of_box = order[image_of_box]
    labels = _positions(
        annotations,
        "category_id",
        np.array(categories.ids),
        named=lambda: named(zip(categories.names, categories.ids, strict=True)),
        explanation=f"'categories' lists {reprlib.repr(categories.ids)}",
    )
    areas = annotations.column("area", {int, float, type(None)}, "a number of square pixels")
    boxes_xywh = _boxes(annotations, sizes_wh[image_of_box])
    iscrowd = np.array(annotations.column("iscrowd", {int, bool}, "0 or 1", default=0)) != 0
    told = sum((kind.forms for kind in rows.values()), Counter[str]())
    forms = ", ".join(f"{form}: {n}" for form, n in told.items())
    return arrange(
        Objects(
            categories=categories,
            image_ids=image_ids,
            file_names=file_names,
            sizes_wh=sizes_wh,
            image_of_box=image_of_box,
            boxes_xywh=boxes_xywh,
            labels=labels,
            areas=np.array([_area(value) for value in areas], dtype=np.float64),
            iscrowd=iscrowd,
        ),
        source=file,
        on_bad_box=on_bad_box,
        where=annotations.where,
        notes=[f"{file}: read in another form: {forms}"] if forms else (),
    )


def _read(file: Path, on_bad: OnBad) -> Annotations:
    return read_coco(file, on_bad_box=on_bad.box)


def _images_of(file: Path) -> Path:
    beside = file.parent
    root = beside.parent if beside.name == "annotations" else beside
    part = file.stem.removeprefix("instances_")
    candidates = [root / "images" / part, root / part, root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), beside)


class _Rows(NamedTuple):
    """One list of the file, read column by column; an error names the first row that is wrong.

    forms: how often which other form of a value was read, in words.
    """

    file: Path
    kind: str
    rows: list[dict[str, Any]]
    forms: Counter[str]

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
        return cls(file, kind, rows, Counter())

    def where(self, position: int) -> str:
        """The file and which row."""
        row = self.rows[position]
        name = {"images": "image", "annotations": "annotation", "categories": "category"}[self.kind]
        name += f" {reprlib.repr(row['id'])}" if "id" in row else f" number {position + 1} of the list"
        if "image_id" in row:
            name += f" (image {reprlib.repr(row['image_id'])})"
        return f"{self.file}: {name}"

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise the error of one row: file, which row, what is wrong."""
        raise DatasetError(f"{self.where(position)} {problem}")

    def column(
        self,
        key: str,
        types: set[type],
        expected: str,
        *,
        default: Any = None,
        named: Callable[[], dict[str, int]] | None = None,
    ) -> list[Any]:
        """Values of one key in every row, all of one of the types, or of a form or a name that stands for one."""
        values = [row.get(key, default) for row in self.rows]
        if named is not None and str in map(type, values):
            ids = named()
            names = sum(type(value) is str and value in ids for value in values)
            values = [ids.get(value, value) if type(value) is str else value for value in values]
            self.forms.update({OTHER_NAMES[key]: names} if names else {})
        if not set(map(type, values)) <= types and key in READ:
            written, values = values, [value if type(value) in types else READ[key](value) for value in values]
            read = sum(new is not old for new, old in zip(values, written, strict=True))
            self.forms.update({OTHER_NUMBERS: read} if read else {})
        if not set(map(type, values)) <= types:
            position = next(i for i, value in enumerate(values) if type(value) not in types)
            got = f"{key} {reprlib.repr(values[position])}" if key in self.rows[position] else f"no {key!r}"
            self.fail(position, f"has {got}; expected {expected}")
        return values

    def integers(
        self, key: str, *, optional: bool = False, named: Callable[[], dict[str, int]] | None = None
    ) -> np.ndarray:
        """The integers of one key; those that are there, where it is optional; for names those that `named` has."""
        expected = "an integer" if named is None else "an integer, or a name that one entry alone has"
        values = self.column(key, {int, type(None)} if optional else {int}, expected, named=named)
        if optional:
            values = [value for value in values if value is not None]
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            position = next(i for i, value in enumerate(values) if not -(2**63) <= value < 2**63)
            self.fail(position, f"has a {key} beyond 64 bits")

    def unique_ids(self, *, optional: bool = False) -> np.ndarray:
        ids = self.integers("id", optional=optional)
        if len(ids) < len(self.rows):
            self.forms[WITHOUT_ID] += len(self.rows) - len(ids)
        if len(np.unique(ids)) < len(ids):
            _, first = np.unique(ids, return_index=True)
            repeated = int(np.setdiff1d(np.arange(len(ids)), first)[0])
            if optional:
                repeated = [i for i, row in enumerate(self.rows) if row.get("id") is not None][repeated]
            self.fail(repeated, f"has an id that another entry of '{self.kind}' has too; ids must differ")
        return ids


def load_json(file: Path) -> tuple[Any, str]:
    """The content of a JSON file, and, if a number in it is not finite, which one.

    Raises:
        DatasetError: the file cannot be read, or is not JSON.
    """
    text = read_text(file, what="annotation file", error=DatasetError)
    constants: list[str] = []  # NaN, Infinity, -Infinity
    try:
        data = json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{file}: expected a COCO file in JSON, which this is not: {error}") from None
    if constants:
        data = json.loads(text)
        return data, f"{_holding_constant(data)}{constants[0]}"
    return data, ""


def _holding_constant(data: Any) -> str:
    """Which entry of a COCO file has the first number that is not finite."""
    lists = [(kind, data.get(f"{kind}s")) for kind in ("image", "annotation")] if isinstance(data, dict) else []
    for kind, entries in lists:
        for place, entry in enumerate(entries if isinstance(entries, list) else []):
            if re.search("NaN|Infinity", re.sub(r'"(\\.|[^"\\])*"', "", json.dumps(entry))):
                number = entry.get("id", f"number {place + 1}") if isinstance(entry, dict) else f"number {place + 1}"
                return f"{kind} {number} has the number "
    return "it has the number "


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


def _positions(
    rows: _Rows, key: str, known: np.ndarray, *, named: Callable[[], dict[str, int]], explanation: str
) -> np.ndarray:
    """Position of each row's reference in the ascending ids `known`; `named` gives the ids of names."""
    values = rows.integers(key, named=named)
    positions = np.minimum(np.searchsorted(known, values), len(known) - 1)
    wrong = known[positions] != values
    if wrong.any():
        row = int(wrong.argmax())
        rows.fail(row, f"has {key} {values[row]}, which does not exist: {explanation}")
    return positions


def _file_names(rows: _Rows) -> list[str]:
    names = rows.column("file_name", {str}, "a file name")
    wrong = next((i for i, name in enumerate(names) if not name or "\0" in name), None)
    if wrong is not None:
        rows.fail(wrong, f"has file_name {names[wrong]!r}; expected a file name")
    return names


def _boxes(rows: _Rows, sizes_wh: np.ndarray) -> np.ndarray:
    """Boxes [x, y, width, height] of all annotations, whose images have these sizes."""
    boxes = [row.get("bbox") for row in rows.rows]
    for position, box in enumerate(boxes):
        if is_box(box):
            continue
        try:
            boxes[position], form = box_of(rows.rows[position], tuple(sizes_wh[position].tolist()))
        except ValueError as error:
            rows.fail(position, str(error))
        rows.forms[OTHER_BOXES[form]] += 1
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _area(value: int | float | None) -> float:
    if value is None:
        return math.nan
    return float(value) if abs(value) < LARGEST else math.inf  # an integer may be too large for a float
