"""YOLO: a data.yaml with class names and folders of images, and one text file of labels an image.

    path: .                 # the folder that the others are relative to; without it, that of this file
    train: images/train     # a folder, a text file with one image a line, or a list of these
    val: images/val
    names: [cat, dog]       # or {0: cat, 1: dog}; ids may have gaps

The labels of images/train/a.jpg are in labels/train/a.txt or beside the image (`label_files.py` has the whole rule),
one object per line (`label_rows.py`). An image without a label file, or with an empty one, has no objects; but a label
file that lies near an image, in no usual place, is an error, and more than a few images without one are told, as are
label files with objects that have no image. Where the YAML file has `kpt_shape: [17, 3]`, so many numbers of body
points follow each box; they are passed over.

Source: https://docs.ultralytics.com/datasets/detect/ (the description of the format).
"""

import functools
import itertools
import os
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import yaml

from rtdetr.categories import Categories, Category
from rtdetr.data.annotations import Annotations, Found, Objects, OnBad, arrange, ids_of_names
from rtdetr.data.box_forms import CENTER
from rtdetr.data.image_files import STAND_IN_WH, common_folder, images_below, is_image_name, listing, sizes_of
from rtdetr.data.image_paths import locate, refuse_ambiguous
from rtdetr.data.label_files import MOST_UNLABELED, LabelFiles, folders_around, usual_label_file
from rtdetr.data.label_rows import has_objects, objects_of
from rtdetr.errors import DatasetError, MissingSplitError
from rtdetr.files import with_home
from rtdetr.text_files import read_text
from rtdetr.wording import are, counted, have, more_like_it
from rtdetr.yaml_loaders import TextLoader

_MOST_CLASSES = 100_000  # where only their number is given
_MOST_STRAY = 1000  # label files without an image that are counted
_FORMS = ("NFC", "NFD")  # of Unicode: systems differ in how they store accents


def find_yolo(root: Path, names: Sequence[str]) -> Found | None:
    """Find a split, called by one of `names`, in a dataset's folder; None: no YAML file there describes a dataset.

    Raises:
        DatasetError: several files could be meant, or the file is broken or lacks the split.
    """
    files = sorted(root / name for name in listing(root) if name.lower().endswith((".yaml", ".yml")))
    described = [file for file in files if file.is_file() and _describes_data(file)]
    preferred = [file for file in described if file.stem in ("data", "dataset")] or described
    if len(preferred) > 1:
        listed = ", ".join(file.name for file in preferred)
        raise DatasetError(f"{root} has several YAML files with class names: {listed}. Give the file itself")
    return yolo_file(preferred[0], names) if preferred else None


def yolo_file(file: Path, names: Sequence[str]) -> Found:
    """The split, called by one of `names`, of a data.yaml.

    Raises:
        DatasetError: the file is broken, lacks the split, or names a folder that is not there or has no images.
    """
    document = _load_yaml(file)
    categories = _categories(file, document)
    key = next((name for name in names if document.get(name)), None)
    if key is None:
        known = [name for name in ("train", "val", "valid", "validation", "test") if document.get(name)]
        raise MissingSplitError(
            f"{file}: expected a key '{names[0]}' with the folder of its images, has {known or 'none'}"
        )
    entries = document[key] if isinstance(document[key], list) else [document[key]]
    parts = [_images_of(file, document, key, entry) for entry in entries]
    images = sorted({image for part in parts for image in part.images})
    if not images:
        raise DatasetError(f"{file}: {key} {document[key]!r} has no image files")
    finder = LabelFiles()
    labels = [finder.of(image) for image in images]
    missing = [image for image, label in zip(images, labels, strict=True) if label is None]
    around = finder.near(missing, _dataset_folders(file, document, missing)) if missing else {}
    near = {image: path for image, path in around.items() if has_objects(path)}
    if len(missing) == len(images) and not near:
        raise DatasetError(
            f"{file}: no label file for any of the {counted(len(images), 'image')} of {key}, the first would be "
            f"{usual_label_file(images[0])}. Put the labels there, or one empty file if no image has objects"
        )
    images_dir = common_folder(images)
    moved = {path: told for part in parts for path, told in part.moved.items()}
    folders = [part.folder for part in parts if part.folder]
    numbers = _point_numbers(file, document)
    split = YoloSplit(file, categories, images_dir, images, labels, near, moved, folders, numbers)
    inputs = [str(file), *images, *filter(None, labels), *near.values()]
    read = functools.partial(_read, split)
    stray = _stray(file, key, folders, finder)
    warnings = (*(part.note for part in parts), _unlabeled(file, key, images, missing), stray)
    return Found("yolo", file, images_dir, inputs, read, split, key, tuple(filter(None, warnings)))


class YoloSplit(NamedTuple):
    """The files of one split."""

    file: Path  # data.yaml
    categories: Categories
    images_dir: Path
    images: list[str]  # paths, sorted
    labels: list[str | None]  # the label file of each image; None: it has none
    near: dict[str, str]  # images without one -> a label file that lies near
    moved: dict[str, tuple[str, str]]  # images that are not where a list says -> what it says, and how they were found
    folders: list[str]  # of images that are meant as a whole
    point_numbers: int = 0  # that follow each box in a data set of poses


def _dataset_folders(file: Path, document: dict[str, Any], images: Sequence[str]) -> set[str]:
    """Where to look for labels that are not in a usual place: the folders of the data set that have these images."""
    described = {os.path.abspath(file.parent), os.path.abspath(_root(file, document))}
    above = {folder for folder in described if any(image.startswith(os.path.join(folder, "")) for image in images)}
    return above | folders_around(images)


def _unlabeled(file: Path, key: str, images: Sequence[str], missing: Sequence[str]) -> str:
    """What to say about images without a label file; nothing about a few."""
    if len(missing) <= MOST_UNLABELED * len(images):
        return ""
    return (
        f"{file}: {len(missing)} of the {counted(len(images), 'image')} of {key} {have(missing)} no label file and "
        f"{are(missing)} taken for background, the first is {missing[0]}. If that is right, empty files such as "
        f"{usual_label_file(missing[0])} say so"
    )


def _stray(file: Path, key: str, folders: Sequence[str], finder: LabelFiles) -> str:
    """What to say about label files of the split's folders that no image has; a list says itself what is meant."""
    stray = finder.stray(folders, is_label=has_objects) if folders else iter(())
    first = list(itertools.islice(stray, _MOST_STRAY + 1))  # each is read
    if not first:
        return ""
    count = counted(min(len(first), _MOST_STRAY), "label file")
    if len(first) > _MOST_STRAY:
        count = f"more than {count}"
    return (
        f"{file}: {count} of {key} with objects {have(first)} no image, the first is {first[0]}; add the images or "
        "delete the labels"
    )


def _describes_data(file: Path) -> bool:
    try:
        document = _load_yaml(file)
    except DatasetError:
        return file.stem in ("data", "dataset")  # it will be read, and refused with the reason
    return "names" in document or "nc" in document


def _load_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping with all values as text, so that classes named `no` or `1` keep their names."""
    try:
        text = read_text(file, what="description of a data set", error=DatasetError)
        document = yaml.load(text, Loader=TextLoader)
    except DatasetError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{file}: expected a YAML file with 'names', 'train' and 'val': {reason}") from None
    if not isinstance(document, dict):
        raise DatasetError(f"{file}: expected a YAML mapping with 'names', 'train' and 'val'")
    return document


def _categories(file: Path, document: dict[str, Any]) -> Categories:
    """Classes by ascending id, from `names`, a list or a mapping, or numbered ones from `nc` alone."""
    names, count = document.get("names"), document.get("nc")
    listed = dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
    try:
        stated = None if count is None else int(count)
        if names is None and stated is not None and 0 < stated <= _MOST_CLASSES:
            return Categories.numbered(stated)
        categories = Categories(Category(*pair) for pair in sorted((int(key), name) for key, name in listed.items()))
    except (TypeError, ValueError):  # numbers that are none, or occur twice
        stated, categories = None, Categories([])
    if not categories or not all(isinstance(name, str) for name in categories.names):
        raise DatasetError(
            f"{file}: expected 'names' as a list of class names or a mapping from number to name, and 'nc', if "
            "given, as their number"
        )
    if any(category.id < 0 for category in categories):
        raise DatasetError(f"{file}: expected class numbers >= 0 in 'names', got {min(categories.ids)}")
    if stated not in (None, len(categories)):
        raise DatasetError(f"{file}: nc is {stated}, but 'names' has {counted(len(categories), 'class')}")
    repeated = next((name for i, name in enumerate(categories.names) if name in categories.names[:i]), None)
    if repeated is not None:
        raise DatasetError(f"{file}: two classes are named {repeated!r}; names must differ")
    return categories


def _point_numbers(file: Path, document: dict[str, Any]) -> int:
    """How many numbers of key points follow each box."""
    shape = document.get("kpt_shape")
    if not shape:
        return 0
    sides = [int(side) for side in shape if isinstance(side, str) and side.isdecimal()]
    if not isinstance(shape, list) or len(shape) != 2 or len(sides) != 2 or sides[1] not in (2, 3) or not sides[0]:
        raise DatasetError(f"{file}: expected kpt_shape as [number of points, 2 or 3], got {shape!r}")
    return sides[0] * sides[1]


class _Entry(NamedTuple):
    """Paths of the images that one entry of a split stands for; `moved` as in `YoloSplit`, and what to tell of it."""

    images: list[str]
    folder: str = ""  # that is meant as a whole
    moved: Mapping[str, tuple[str, str]] = MappingProxyType({})
    note: str = ""


def _images_of(file: Path, document: dict[str, Any], key: str, entry: Any) -> _Entry:
    if not isinstance(entry, str) or not isinstance(document.get("path", ""), str):
        raise DatasetError(f"{file}: expected {key} and path as text, a folder or a file of image paths")
    places = _places(file.parent, document.get("path", ""), entry)
    found = next((place for place in places if _exists(place)), None)
    if found is None:
        raise DatasetError(f"{file}: {key} {entry!r} is not there; looked for {', '.join(map(str, places))}")
    if found.is_dir():
        folder = os.path.abspath(found)
        return _Entry(images_below(Path(folder)), folder)
    if is_image_name(found.name):
        return _Entry([os.path.abspath(found)])
    return _listed_images(found, places[0].parent)


def _places(beside: Path, root: str, entry: str) -> list[Path]:
    """Where the entry may be; some exports write ../train for what lies beside the file."""
    root, entry = os.path.expanduser(root), os.path.expanduser(entry)
    places = [beside / root / entry, beside / entry, Path(root, entry)]
    if entry.startswith("../"):
        places.append(beside / entry.removeprefix("../"))
    return list(dict.fromkeys(places))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name with a zero byte, or too long
        return False


def _lines(file: Path) -> Iterator[str]:
    text = read_text(file, what="list of images", error=DatasetError)
    return filter(None, map(str.strip, text.splitlines()))


def _listed_images(file: Path, root: Path) -> _Entry:
    """Paths of the images in a list: relative to the list's folder, or to the folder that the list is relative to."""
    lines = list(_lines(file))
    paths = [_listed_image(line, file.parent, root) for line in lines]
    absent = [i for i, path in enumerate(paths) if not _exists(Path(path))]
    if not absent:
        return _Entry(paths)
    listed = [lines[i] for i in absent]
    located = locate(listed, root, beside=file.parent)
    refuse_ambiguous(located, file, listed, remedy="Correct its path in the list")
    for i, name in zip(absent, located.names, strict=True):
        paths[i] = os.path.abspath(root / name)
    moved = {paths[absent[at]]: (listed[at], way) for at, way in located.ways.items()}
    return _Entry(paths, moved=moved, note=located.note(file, listed, total=len(lines)))


def _listed_image(line: str, beside: Path, root: Path) -> str:
    forms = dict.fromkeys([line] if line.isascii() else [line, *(unicodedata.normalize(f, line) for f in _FORMS)])
    candidates = [folder / form for form in forms for folder in (beside, root)]
    return os.path.abspath(next((path for path in candidates if _exists(path)), candidates[0]))


def dataset_root(file: Path) -> Path:
    """The folder that a data.yaml says its others are relative to; its own where it says none.

    Raises:
        DatasetError: the file is broken.
    """
    return _root(file, _load_yaml(file))


def _root(file: Path, document: dict[str, Any]) -> Path:
    path = document.get("path")
    return file.parent / with_home(path) if isinstance(path, str) else file.parent


def _read(split: YoloSplit, on_bad: OnBad) -> Annotations:
    _refuse_misplaced(split)
    label_of_id = split.categories.label_of_id
    corners, labels, images, lines = array("d"), array("q"), array("q"), array("q")
    for image, label_file in enumerate(split.labels):
        for line, number, box in objects_of(label_file, split.point_numbers) if label_file else ():
            label = label_of_id.get(number)  # type: ignore[arg-type]  # 3.0 finds 3
            if label is None:
                _refuse_class(split, f"{label_file}:{line}", number)
            corners.extend(box)
            labels.append(label)
            images.append(image)
            lines.append(line)

    def where(row: int) -> str:
        category = split.categories[labels[row]]
        return f"{split.labels[images[row]]}:{lines[row]}: object of class {category.id} ({category.name!r})"

    sizes = sizes_of(split.images, source=split.file, on_bad_image=on_bad.image)
    image_of_box = np.array(images, dtype=np.int64)
    low_high = np.array(corners, dtype=np.float64).reshape(-1, 2, 2)
    boxes = np.concatenate([low_high[:, 0], low_high[:, 1] - low_high[:, 0]], axis=1)
    names = [os.path.relpath(image, split.images_dir) for image in split.images]
    objects = Objects(
        categories=split.categories,
        image_ids=ids_of_names(names),
        file_names=names,
        sizes_wh=sizes.sizes_wh,
        image_of_box=image_of_box,
        boxes_xywh=boxes * np.tile(sizes.sizes_wh[image_of_box], 2),
        labels=np.array(labels, dtype=np.int64),
        areas=np.full(len(labels), np.nan),
        iscrowd=np.zeros(len(labels), dtype=bool),
    )
    by_size = " AP by size takes them for {}x{} pixels".format(*STAND_IN_WH)
    notes = [sizes.note + by_size] if sizes.note else []
    return arrange(objects, source=split.file, on_bad_box=on_bad.box, where=where, form=CENTER, notes=notes)


def _refuse_misplaced(split: YoloSplit) -> None:
    if split.near:
        image, path = next(iter(split.near.items()))
        more = more_like_it(len(split.near) - 1)
        raise DatasetError(
            f"{image} has no label file in a usual place, but {path} lies near it. Move it to "
            f"{usual_label_file(image)}, or put an empty file there if the image has no "
            f"objects{'. ' if more else ''}{more}"
        )


def _refuse_class(split: YoloSplit, where: str, number: float) -> NoReturn:
    ids = split.categories.ids
    listed = f"{ids[0]} to {ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else str(ids)
    raise DatasetError(
        f"{where}: class {number:.10g} does not exist: {split.file} has the {counted(len(ids), 'class')} {listed}. "
        "Correct the line, or add the class to 'names'"
    )
