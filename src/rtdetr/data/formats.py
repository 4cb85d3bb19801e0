"""The dataset formats, one entry each: how a format is recognized, and which functions read and write it.

To add a format, write its reader and add it here; docs/extending.md shows how.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.data.coco_files import PATTERNS, coco_file, find_coco, write_coco
from rtdetr.data.records import SPLIT_NAMES, Found
from rtdetr.data.voc_files import find_voc, is_voc_list, voc_list
from rtdetr.data.yolo_files import find_yolo, yolo_file
from rtdetr.yaml_files import YAML_SUFFIXES

Finder = Callable[[Path, str, Path | None], Found | None]


class Format(NamedTuple):
    """A dataset format.

    Both finders take a path, the split ("train", "val" or "test"), and the image folder given by the user, if any. They
    return what was found, with the function that reads it, or None if the path is not in this format. They raise
    `DatasetError` if it is but cannot be used, and `MissingSplitError` if it lacks the split.

    title: display name.
    find: finds the split in the folder of a dataset.
    open_file: the same for a single file.
    expected: describes what `find` looks for, given the name of the split.
    file: describes what `open_file` accepts.
    write: writes a split of a cleaned copy (`rtdetr data check --fix`), given the folder of the copy, the split, and
        the content in COCO format; None: copies are written in COCO format.
    """

    title: str
    find: Finder
    open_file: Finder
    expected: Callable[[str], str]
    file: str
    write: Callable[[Path, str, dict[str, Any]], None] | None = None


FORMATS: dict[str, Format] = {  # the first that matches a folder wins
    "coco": Format(
        title="COCO",
        find=lambda root, split, images: find_coco(root, SPLIT_NAMES[split], images=images),
        open_file=lambda file, split, images: coco_file(file, images=images) if _ends(file, ".json") else None,
        expected=lambda name: (
            ", ".join(pattern.format(name) for pattern in PATTERNS)
            + (" or a single COCO file" if name == "train" else "")
        ),
        file="a COCO file NAME.json",
        write=write_coco,
    ),
    "yolo": Format(
        title="YOLO",
        find=lambda root, split, images: find_yolo(root, SPLIT_NAMES[split], images=images),
        open_file=lambda file, split, images: (
            yolo_file(file, SPLIT_NAMES[split], images=images) if _ends(file, *YAML_SUFFIXES) else None
        ),
        expected=lambda name: "data.yaml or another YAML file with 'names'",
        file="a YOLO file NAME.yaml",
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
    """Find a split in the folder of a dataset, in the first format that matches; None if none does.

    Raises:
        DatasetError: as the finders raise it.
    """
    found = (one.find(root, split, images) for one in FORMATS.values())
    return next(filter(None, found), None)


def find_in_file(file: Path, split: str, images: Path | None = None) -> Found | None:
    """Do the same for a single file."""
    found = (one.open_file(file, split, images) for one in FORMATS.values())
    return next(filter(None, found), None)


def expected_in_folder(split: str) -> str:
    """Describe what is looked for in a folder."""
    return ", ".join(f"{one.expected(SPLIT_NAMES[split][0])} ({one.title})" for one in FORMATS.values())


def expected_files() -> str:
    """Describe which single files are accepted."""
    *first, last = (one.file for one in FORMATS.values())
    return f"{', '.join(first)}, or {last}"
