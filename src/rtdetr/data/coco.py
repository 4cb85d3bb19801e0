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
from typing import Any

import numpy as np

from rtdetr.categories import Categories
from rtdetr.data.annotations import LARGEST, Annotations, Found, Objects, OnBad, arrange
from rtdetr.data.coco_rows import Rows
from rtdetr.data.coco_values import NAMESAKE, NO_SIZE, OTHER_BOXES, box_of, is_box, named, unused_namesakes
from rtdetr.data.image_files import Sizes, listing
from rtdetr.data.image_paths import with_sizes_of_files
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
UNLISTED = "annotations of images that are not listed"
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
    images_dir = images or _images_of(file)
    return Found("coco", file, images_dir, [str(file)], functools.partial(_read, file, images_dir))


def read_coco(
    file: Path, *, images_dir: Path | None = None, on_bad_box: str = "error", on_bad_image: str = "error"
) -> Annotations:
    """Read and check a COCO JSON file.

    Optional keys: `iscrowd` (0 when missing), `area` (then that of the box), the `id` of an annotation, its `bbox`
    where it has a `segmentation`, of which the surrounding box is taken, and `width` and `height` of an image, which
    are then read from the image file.

    Args:
        file: the JSON file.
        images_dir: folder of the images; None: images without `width` and `height` are refused.
        on_bad_box: "error" or "drop", see `arrange`; annotations of images that are not listed are such boxes.
        on_bad_image: "error" or "skip", see `sizes_of`.

    Raises:
        DatasetError: the file is missing, is not JSON, or contradicts the format or itself.
        ConfigError: `on_bad_box` is neither word.

    Differs: published code takes ids outside COCO's own list as labels, so files that count from 1 or leave gaps
    train a wrong class or fail; here any ids work.
    """
    document, problem = load_json(file)
    if problem:
        raise DatasetError(f"{file}: {problem}; expected finite numbers only")
    rows = {kind: Rows.of(document, file, kind) for kind in ("images", "annotations", "categories")}
    images, annotations = rows["images"], rows["annotations"]

    categories = _categories(rows["categories"], annotations)
    image_ids, file_names = images.unique_ids(), _file_names(images)
    sizes = _sizes(images, file_names, images_dir, on_bad_image)
    order = np.argsort(image_ids)

    annotations.unique_ids(optional=True)
    image_of_box, is_listed = _positions(
        annotations,
        "image_id",
        image_ids[order],
        named=lambda: named(zip(file_names, image_ids.tolist(), strict=True)),
    )
    if not is_listed.all():
        if on_bad_box != "drop":
            advice = "Leave such annotations out with --bad-boxes drop (Python: on_bad_box='drop')"
            annotations.refuse("image_id", is_listed, f"no image of that id is in 'images'. {advice}")
        rows["images"].forms[UNLISTED] += int((~is_listed).sum())
        annotations, image_of_box = annotations.where_true(is_listed), image_of_box[is_listed]
    image_of_box = order[image_of_box]
    labels, is_listed = _positions(
        annotations,
        "category_id",
        np.array(categories.ids),
        named=lambda: named(zip(categories.names, categories.ids, strict=True)),
    )
    if not is_listed.all():
        annotations.refuse("category_id", is_listed, f"'categories' lists {reprlib.repr(categories.ids)}")
    areas = annotations.column("area", {int, float, type(None)}, "a number of square pixels")
    boxes_xywh = _boxes(annotations, sizes, image_of_box)
    iscrowd = np.array(annotations.column("iscrowd", {int, bool}, "0 or 1", default=0)) != 0
    told = sum((kind.forms for kind in rows.values()), Counter[str]())
    notes = [f"{file}: {UNLISTED}: {told.pop(UNLISTED)}; left out"] if UNLISTED in told else []
    forms = ", ".join(f"{form}: {n}" for form, n in told.items())
    notes += filter(None, [forms and f"{file}: read in another form: {forms}", sizes.note])
    return arrange(
        Objects(
            categories=categories,
            image_ids=image_ids,
            file_names=file_names,
            sizes_wh=sizes.holding(boxes_xywh, image_of_box),
            image_of_box=image_of_box,
            boxes_xywh=boxes_xywh,
            labels=labels,
            areas=np.array([_area(value) for value in areas], dtype=np.float64),
            iscrowd=iscrowd,
        ),
        source=file,
        on_bad_box=on_bad_box,
        where=annotations.where,
        notes=notes,
    )._replace(inputs_known=NO_SIZE not in told)


def _read(file: Path, images_dir: Path, on_bad: OnBad) -> Annotations:
    return read_coco(file, images_dir=images_dir, on_bad_box=on_bad.box, on_bad_image=on_bad.image)


def _images_of(file: Path) -> Path:
    beside = file.parent
    root = beside.parent if beside.name == "annotations" else beside
    part = file.stem.removeprefix("instances_")
    candidates = [root / "images" / part, root / part, root / "images"]
    return next((folder for folder in candidates if folder.is_dir()), beside)


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


def _categories(rows: Rows, annotations: Rows) -> Categories:
    """Classes by ascending id, so that labels follow COCO's published table whatever the order in the file."""
    ids = rows.unique_ids()
    names = rows.column("name", {str}, "a class name")
    classes = list(zip(ids.tolist(), names, strict=True))
    unused = unused_namesakes(classes, annotations.rows)
    rows.forms.update({NAMESAKE: len(unused)} if unused else {})
    seen: set[str] = set()
    for position, name in enumerate(names):
        if ids[position] not in unused and name in seen:
            rows.fail(position, f"is named {name!r} like another category; names must differ")
        seen.update(() if ids[position] in unused else [name])
    return Categories.from_json(
        {"id": number, "name": name} for number, name in sorted(classes) if number not in unused
    )


def _positions(
    rows: Rows, key: str, known: np.ndarray, *, named: Callable[[], dict[str, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Position of each row's reference in the ascending ids `known`, and whether it is there, bool (rows,).

    `named` gives the ids of names.
    """
    values = rows.integers(key, named=named)
    positions = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return positions, known[positions] == values


def _sizes(images: Rows, file_names: Sequence[str], images_dir: Path | None, on_bad_image: str) -> Sizes:
    """Sizes of the images as stated, or of the files of those that state none."""
    is_stated = np.array([row.get("width") is not None or row.get("height") is not None for row in images.rows])
    if images_dir is None:
        is_stated[:] = True
    stated = images if is_stated.all() else images.where_true(is_stated)
    sizes_wh = np.zeros((len(is_stated), 2), dtype=np.int64)
    sizes_wh[is_stated] = np.stack([stated.integers("width"), stated.integers("height")], axis=1)
    if (sizes_wh[is_stated] < 1).any():
        stated.fail(int((sizes_wh[is_stated] < 1).any(1).argmax()), "has no pixels; expected width and height > 0")
    if (sizes_wh >= LARGEST).any():
        images.fail(int((sizes_wh >= LARGEST).any(1).argmax()), f"has width or height beyond {LARGEST:g} pixels")
    if images_dir is None or is_stated.all():
        return Sizes(sizes_wh, [], "")
    unstated = np.flatnonzero(~is_stated).tolist()
    images.forms[NO_SIZE] += len(unstated)
    return with_sizes_of_files(
        sizes_wh, unstated, file_names, images_dir, source=images.file, on_bad_image=on_bad_image
    )


def _file_names(rows: Rows) -> list[str]:
    names = rows.column("file_name", {str}, "a file name")
    wrong = next((i for i, name in enumerate(names) if not name or "\0" in name), None)
    if wrong is not None:
        rows.fail(wrong, f"has file_name {names[wrong]!r}; expected a file name")
    return names


def _boxes(rows: Rows, sizes: Sizes, image_of_box: np.ndarray) -> np.ndarray:
    """Boxes [x, y, width, height] of all annotations; `image_of_box` are positions in `sizes`."""
    boxes, unread = [row.get("bbox") for row in rows.rows], set(sizes.unread)
    for position, box in enumerate(boxes):
        if is_box(box):
            continue
        image = int(image_of_box[position])
        size_wh = None if image in unread else tuple(sizes.sizes_wh[image].tolist())
        try:
            boxes[position], form = box_of(rows.rows[position], size_wh)
        except ValueError as error:
            rows.fail(position, str(error))
        rows.forms[OTHER_BOXES[form]] += 1
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def _area(value: int | float | None) -> float:
    if value is None:
        return math.nan
    return float(value) if abs(value) < LARGEST else math.inf  # an integer may be too large for a float
