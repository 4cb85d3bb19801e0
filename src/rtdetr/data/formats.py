"""The formats of datasets, one entry each: how one is recognized, and by which function it is read and written.

To add a format, write its reader and add it here; docs/extending.md shows how.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.data.coco_files import PATTERNS, coco_file, find_coco, write_coco
from rtdetr.data.records import SPLIT_NAMES, Found
from rtdetr.data.voc_files import find_voc, is_voc_list, voc_list
from rtdetr.data.yolo_files import find_yolo, yolo_file

Finder = Callable[[Path, str, Path | None], Found | None]


class Format(NamedTuple):
    """One format of datasets.

    Both finders take a path, the split ("train", "val" or "test"), and the folder of images that the user gave, if any.
    They return what was found, with the function that reads it; None where the path is not of this format. They raise
    `DatasetError` where it is, but cannot be used, and `MissingSplitError` where it lacks the split.

    title: what people call it.
    find: looks for the split in the folder of a dataset.
    open_file: the same for a single file.
    expected: what `find` looks for, in words, given what the split is called.
    file: what `open_file` takes, in words.
    write: writes a split of a cleaned copy (`rtdetr data check --fix`), given the copy's folder, the split, and the
        content in COCO form; None: copies are written in COCO form.
    """

    title: str
    find: Finder
    open_file: Finder
    expected: Callable[[str], str]
    file: str
    write: Callable[[Path, str, dict[str, Any]], None] | None = None


FORMATS: dict[str, Format] = {  # of those that fit a folder, the first wins
    "coco": Format(
        title="COCO",
        find=lambda root, split, images: find_coco(root, SPLIT_NAMES[split], images=images),
        open_file=lambda file, split, images: coco_file(file, images=images) if _ends(file, ".json") else None,
        expected=lambda name: (
            ", ".join(pattern.format(name) for pattern in PATTERNS)
            + (" or a single file in COCO form" if name == "train" else "")
        ),
        file="a COCO file NAME.json",
        write=write_coco,
    ),
    "yolo": Format(
        title="YOLO",
        find=lambda root, split, images: find_yolo(root, SPLIT_NAMES[split], images=images),
        open_file=lambda file, split, images: (
            yolo_file(file, SPLIT_NAMES[split], images=images) if _ends(file, ".yaml", ".yml") else None
        ),
        expected=lambda name: "data.yaml or another YAML file with 'names'",
        file="a YOLO description NAME.yaml",
    ),
    "voc": Format(
        title="Pascal VOC",
        find=lambda root, split, images: find_voc(root, split, images=images),
        open_file=lambda file, split, images: (
            voc_list(file, images=images) if _ends(file, ".txt") and is_voc_list(file) else None
        ),
        expected=lambda name: (
            f"Annotations with ImageSets/Main/{name}.txt, {name}.txt listing XML files, or {name}/*.xml"
        ),
        file="a text file that lists the images and XML files of a VOC dataset",
    ),
}


def _ends(file: Path, *suffixes: str) -> bool:
    return file.suffix.lower() in suffixes


def find_in_folder(root: Path, split: str, images: Path | None = None) -> Found | None:
    """The split in the folder of a dataset, in the first format that fits; None: none does. Raises as the finders."""
    found = (one.find(root, split, images) for one in FORMATS.values())
    return next(filter(None, found), None)


def find_in_file(file: Path, split: str, images: Path | None = None) -> Found | None:
    """The same for a single file."""
    found = (one.open_file(file, split, images) for one in FORMATS.values())
    return next(filter(None, found), None)


def expected_in_folder(split: str) -> str:
    """What is looked for in a folder, in words."""
    return ", ".join(f"{one.expected(SPLIT_NAMES[split][0])} ({one.title})" for one in FORMATS.values())


def expected_files() -> str:
    """What a single file may be, in words."""
    *first, last = (one.file for one in FORMATS.values())
    return f"{', '.join(first)}, or {last}"
