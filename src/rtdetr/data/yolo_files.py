"""Find the files of a YOLO dataset: data.yaml, the images of each split and their labels. `yolo.py` reads them."""

import functools
import itertools
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from rtdetr.categories import Categories, Category
from rtdetr.data.image_files import common_folder, images_below, is_image_name, listing
from rtdetr.data.image_paths import locate, refuse_ambiguous
from rtdetr.data.label_files import MAX_UNLABELED, LabelFiles, folders_around, usual_label_file
from rtdetr.data.label_rows import has_objects
from rtdetr.data.records import Found
from rtdetr.data.yolo import YoloSplit, read_yolo
from rtdetr.errors import ConfigError, DatasetError, MissingFolderError, MissingSplitError
from rtdetr.expected import shown_value
from rtdetr.files import with_home
from rtdetr.text_files import read_text
from rtdetr.wording import are, counted, have
from rtdetr.yaml_files import YAML_SUFFIXES, not_yaml
from rtdetr.yaml_loaders import TextLoader

_MAX_CLASSES = 100_000  # if only their number is given
_MAX_STRAY = 1000  # label files without an image to count
_FORMS = ("NFC", "NFD")  # Unicode forms: systems store accents differently


def find_yolo(root: Path, names: Sequence[str], *, images: Path | None = None) -> Found | None:
    """Find a split with one of `names` in the folder of a dataset; None if no YAML file there describes a dataset.

    Raises:
        DatasetError: several files match, or the file is broken or lacks the split.
    """
    files = sorted(root / name for name in listing(root) if name.lower().endswith(YAML_SUFFIXES))
    described = [file for file in files if file.is_file() and _describes_data(file)]
    preferred = [file for file in described if file.stem in ("data", "dataset")] or described
    if len(preferred) > 1:
        listed = ", ".join(file.name for file in preferred)
        raise DatasetError(f"{root} has several YAML files with class names: {listed}. Give the file itself")
    return yolo_file(preferred[0], names, images=images) if preferred else None


def yolo_file(file: Path, names: Sequence[str], *, images: Path | None = None) -> Found:
    """Return the split with one of `names` of a data.yaml.

    Raises:
        DatasetError: the file is broken, lacks the split, or names a folder that does not exist or has no images.
        ConfigError: an image folder was given.
    """
    if images is not None:
        raise ConfigError(f"{file} states where its images are; omit 'images'")
    document = _load_yaml(file)
    categories = _categories(file, document)
    key = next((name for name in names if document.get(name)), None)
    if key is None:
        known = [name for name in ("train", "val", "valid", "validation", "test") if document.get(name)]
        raise MissingSplitError(
            f"{file}: expected a key '{names[0]}' with the folder of its images, got {known or 'none'}"
        )
    entries = document[key] if isinstance(document[key], list) else [document[key]]
    parts = [_images_of(file, document, key, entry) for entry in entries]
    paths = sorted({image for part in parts for image in part.images})
    if not paths:
        raise DatasetError(f"{file}: {key} {document[key]!r} has no image files")
    finder = LabelFiles()
    labels = [finder.of(image) for image in paths]
    missing = [image for image, label in zip(paths, labels, strict=True) if label is None]
    around = finder.find_misplaced(missing, _dataset_folders(file, document, missing)) if missing else {}
    near = {image: path for image, path in around.items() if has_objects(path)}
    if len(missing) == len(paths) and not near:
        raise DatasetError(
            f"{file}: none of the {counted(len(paths), 'image')} of {key} has a label file; expected the first at "
            f"{usual_label_file(paths[0])}. Put the labels there, or one empty file if no image has objects"
        )
    images_dir = common_folder(paths)
    moved = {path: found for part in parts for path, found in part.moved.items()}
    folders = [part.folder for part in parts if part.folder]
    numbers = _point_numbers(file, document)
    split = YoloSplit(file, categories, images_dir, paths, labels, near, moved, folders, numbers)
    inputs = [str(file), *paths, *filter(None, labels), *near.values()]
    read = functools.partial(read_yolo, split)
    stray = _stray(file, key, folders, finder)
    warnings = (*(part.note for part in parts), _unlabeled(file, key, paths, missing), stray)
    return Found("yolo", file, images_dir, inputs, read, key, tuple(filter(None, warnings)))


def _dataset_folders(file: Path, document: dict[str, Any], images: Sequence[str]) -> set[str]:
    """Return the folders to search for labels in unusual places: those of the dataset that contain these images."""
    described = {os.path.abspath(file.parent), os.path.abspath(_root(file, document))}
    above = {folder for folder in described if any(image.startswith(os.path.join(folder, "")) for image in images)}
    return above | folders_around(images)


def _unlabeled(file: Path, key: str, images: Sequence[str], missing: Sequence[str]) -> str:
    """Return the warning about images without a label file; empty for a few."""
    if len(missing) <= MAX_UNLABELED * len(images):
        return ""
    return (
        f"{file}: {len(missing)} of the {counted(len(images), 'image')} of {key} {have(missing)} no label file and "
        f"{are(missing)} used as background; the first is {missing[0]}. If they have no objects, add empty files such "
        f"as {usual_label_file(missing[0])}"
    )


def _stray(file: Path, key: str, folders: Sequence[str], finder: LabelFiles) -> str:
    """Return the warning about label files without an image in the folders of the split; not checked for lists."""
    stray = finder.find_without_image(folders, is_label=has_objects) if folders else iter(())
    first = list(itertools.islice(stray, _MAX_STRAY + 1))  # each is read
    if not first:
        return ""
    count = counted(min(len(first), _MAX_STRAY), "label file")
    if len(first) > _MAX_STRAY:
        count = f"more than {count}"
    return (
        f"{file}: {count} of {key} with objects {have(first)} no image; the first is {first[0]}. Add the images or "
        "delete the labels"
    )


def _describes_data(file: Path) -> bool:
    try:
        document = _load_yaml(file)
    except DatasetError:
        return file.stem in ("data", "dataset")  # it is read later, and rejected with the reason
    return "names" in document or "nc" in document


def _load_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping with all values as text, so classes named `no` or `1` keep their names."""
    try:
        text = read_text(file, what="dataset description", error=DatasetError)
        document = yaml.load(text, Loader=TextLoader)
    except DatasetError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file}{not_yaml(error)}. Expected keys 'names', 'train' and 'val'") from None
    if not isinstance(document, dict):
        raise DatasetError(
            f"{file}: expected 'key: value' lines with the keys 'names', 'train' and 'val', got {shown_value(document)}"
        )
    return document


def _categories(file: Path, document: dict[str, Any]) -> Categories:
    """Return the classes in ascending order of id, from the list or mapping `names`, or numbered from `nc` alone."""
    names, count = document.get("names"), document.get("nc")
    listed = dict(enumerate(names)) if isinstance(names, list) else names if isinstance(names, dict) else {}
    try:
        stated = None if count is None else int(count)
        if names is None and stated is not None and 0 < stated <= _MAX_CLASSES:
            return Categories.numbered(stated)
        categories = Categories(Category(*pair) for pair in sorted((int(key), name) for key, name in listed.items()))
    except (TypeError, ValueError):  # invalid or repeated numbers
        stated, categories = None, Categories([])
    if not categories or not all(isinstance(name, str) for name in categories.names):
        raise DatasetError(
            f"{file}: expected 'names' as a list of class names or a mapping from number to name, and 'nc', if "
            f"given, as the number of classes; got names: {repr(names)[:100]}"
            + ("" if count is None else f", nc: {count!r}")
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
    """Return how many keypoint numbers follow each box."""
    shape = document.get("kpt_shape")
    if not shape:
        return 0
    sides = [int(side) for side in shape if isinstance(side, str) and side.isdecimal()]
    if not isinstance(shape, list) or len(shape) != 2 or len(sides) != 2 or sides[1] not in (2, 3) or not sides[0]:
        raise DatasetError(f"{file}: expected kpt_shape as [number of points, 2 or 3], got {shape!r}")
    return sides[0] * sides[1]


class _Entry(NamedTuple):
    """Paths of the images of one entry of a split; `moved` as in `YoloSplit`, and `note`, the warning about it."""

    images: list[str]
    folder: str = ""  # image folder that belongs to the split entirely
    moved: Mapping[str, tuple[str, str]] = MappingProxyType({})
    note: str = ""


def _images_of(file: Path, document: dict[str, Any], key: str, entry: Any) -> _Entry:
    if not isinstance(entry, str) or not isinstance(document.get("path", ""), str):
        name, value = (key, entry) if not isinstance(entry, str) else ("path", document["path"])
        raise DatasetError(
            f"{file}: {name}: expected text, the path of a folder or of a list of images, got {shown_value(value)}"
        )
    places = _places(file.parent, document.get("path", ""), entry)
    found = next((place for place in places if _exists(place)), None)
    if found is None:
        stated = f" with path {document['path']!r}" if document.get("path") else ""
        raise MissingFolderError(
            f"{file}: {key} {entry!r}{stated} does not exist; looked for {', '.join(map(os.path.abspath, places))}. "
            "Relative paths start from the folder of the file, or else from the current folder"
        )
    if found.is_dir():
        folder = os.path.abspath(found)
        return _Entry(images_below(Path(folder)), folder)
    if is_image_name(found.name):
        return _Entry([os.path.abspath(found)])
    return _listed_images(found, places[0].parent)


def _places(data_dir: Path, root: str, entry: str) -> list[Path]:
    """Return the paths that an entry may stand for; some exports write ../train for a folder next to the file."""
    root, entry = os.path.expanduser(root), os.path.expanduser(entry)
    places = [data_dir / root / entry, data_dir / entry, Path(root, entry)]
    if entry.startswith("../"):
        places.append(data_dir / entry.removeprefix("../"))
    return list(dict.fromkeys(places))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # name too long or with a null byte
        return False


def _lines(file: Path) -> Iterator[str]:
    text = read_text(file, what="list of images", error=DatasetError)
    return filter(None, map(str.strip, text.splitlines()))


def _listed_images(file: Path, root: Path) -> _Entry:
    """Return the image paths in a list: relative to its folder, or to the folder that the list is relative to."""
    lines = list(_lines(file))
    paths = [_listed_image(line, file.parent, root) for line in lines]
    absent = [i for i, path in enumerate(paths) if not _exists(Path(path))]
    if not absent:
        return _Entry(paths)
    listed = [lines[i] for i in absent]
    located = locate(listed, root, annotations_dir=file.parent)
    refuse_ambiguous(located, file, listed, remedy="Correct its path in the list")
    for i, name in zip(absent, located.names, strict=True):
        paths[i] = os.path.abspath(root / name)
    moved = {paths[absent[at]]: (listed[at], way) for at, way in located.ways.items()}
    return _Entry(paths, moved=moved, note=located.note(file, listed, total=len(lines)))


def _listed_image(line: str, list_dir: Path, root: Path) -> str:
    forms = dict.fromkeys([line] if line.isascii() else [line, *(unicodedata.normalize(f, line) for f in _FORMS)])
    candidates = [folder / form for form in forms for folder in (list_dir, root)]
    return os.path.abspath(next((path for path in candidates if _exists(path)), candidates[0]))


def dataset_root(file: Path) -> Path:
    """Return the folder that the paths in a data.yaml are relative to; by default its own.

    Raises:
        DatasetError: the file is broken.
    """
    return _root(file, _load_yaml(file))


def _root(file: Path, document: dict[str, Any]) -> Path:
    path = document.get("path")
    return file.parent / with_home(path) if isinstance(path, str) else file.parent
