"""Distinguish a split that a dataset lacks from one that exists, but in a form or place that training does not read."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rtdetr.data.coco_files import may_be_coco
from rtdetr.data.image_files import images_below, listing
from rtdetr.data.label_files import LabelFiles
from rtdetr.data.label_rows import has_objects
from rtdetr.data.records import SPLIT_NAMES
from rtdetr.data.voc_files import has_voc_objects, is_voc_list
from rtdetr.images.files import is_hidden
from rtdetr.wording import counted

_PARENTS = ("images", "jpegimages", "annotations", "labels")  # can have a folder per split
_OTHER_WORDS = {"annotation", "annotations", "data", "image", "images", "img", "imgs", "label", "labels", "set", "xml"}


def find_trace(split: str, root: Path, *, around: Iterable[Path], used: set[str]) -> str:
    """Describe the traces of a split that cannot be read: folders and annotation files named after it.

    A folder with files of another split does not count. Images alone are a trace of "train" and "val", but not of
    "test", which is often distributed without annotations.

    Args:
        split: "train", "val" or "test".
        root: folder of the dataset.
        around: image folders of the splits that can be read; the folder of this split may be next to them.
        used: images and annotation files of those splits, from `real_files`.

    Returns:
        A clause that can be followed by "but"; empty if there are no traces.
    """
    for file in _annotation_files(root, split):
        if used.isdisjoint(real_files([file])):
            return f"{file} exists"
    for folder in _folders(root, split, around):
        images, labels = images_below(folder), list(_label_files(folder))
        if not used.isdisjoint(real_files([*images, *labels])):
            continue
        has_labels = any(map(_has_labels, labels))
        if images and (split != "test" or has_labels or _are_near(images, root, used)):
            return f"{folder} has {counted(len(images), 'image')}"
        if has_labels:
            return f"{folder} has annotations"
    return ""


def real_files(files: Iterable[str | Path]) -> set[str]:
    """Return the paths with all folder links resolved; each folder is resolved once, and there are no file queries."""
    real = functools.cache(_real_folder)
    parts = (os.path.split(os.fspath(file)) for file in files)
    return {os.path.join(real(folder), name) for folder, name in parts}


def _real_folder(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # no folder can have this name
        return os.path.abspath(folder)


def _folders(root: Path, split: str, around: Iterable[Path]) -> Iterator[Path]:
    """Yield folders named after the split, in the dataset, its image and label folders, or next to `around`."""
    whole = Path(os.path.abspath(root))
    nearby = (folder.parent for folder in map(Path, map(os.path.abspath, around)) if whole in folder.parent.parents)
    places = [root, *(root / name for name in sorted(listing(root)) if name.lower() in _PARENTS), *nearby]
    for place in dict.fromkeys(places):
        paths = (place / name for name in sorted(listing(place)) if _names(name, split, exactly=True))
        yield from filter(Path.is_dir, paths)


def _names(name: str, split: str, *, exactly: bool) -> bool:
    """Return whether a name has a word for this split and none for another; `exactly`: and no unrelated word."""
    words = set(re.findall("[a-z]+", name.lower()))
    others = {word for other, names in SPLIT_NAMES.items() if other != split for word in names}
    own = words & set(SPLIT_NAMES[split])
    return bool(own) and not is_hidden(name) and not words & others and (not exactly or words <= own | _OTHER_WORDS)


def _annotation_files(root: Path, split: str) -> Iterator[Path]:
    """Yield COCO files and VOC lists named after the split, in the usual folders."""
    for folder in (root, root / "annotations", root / "ImageSets" / "Main"):
        for name in sorted(listing(folder)):
            file, (stem, suffix) = folder / name, os.path.splitext(name)
            is_format = {".json": may_be_coco, ".txt": is_voc_list}.get(suffix.lower())
            if is_format and _names(stem, split, exactly=False) and is_format(file):
                yield file


def _label_files(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (
            os.path.join(parent, name)
            for name in sorted(names)
            if name.lower().endswith((".json", ".txt", ".xml")) and not is_hidden(name)
        )


def _has_labels(file: str) -> bool:
    match os.path.splitext(file)[1].lower():
        case ".json":
            return may_be_coco(Path(file))
        case ".xml":
            return has_voc_objects(Path(file))
    return has_objects(file)


def _are_near(images: list[str], root: Path, used: set[str]) -> bool:
    """Return whether the dataset has a label file for one of the images that no other split uses."""
    near = (LabelFiles(suffix).find_misplaced(images, [str(root)]).values() for suffix in (".xml", ".txt"))
    return any(used.isdisjoint(real_files([file])) and _has_labels(file) for files in near for file in files)
