"""Hints for error messages: what a folder without a usual dataset layout contains, and how to make it a dataset."""

import itertools
import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from rtdetr.data.formats import find_in_folder
from rtdetr.data.image_files import images_below, is_image_name, listing
from rtdetr.data.label_files import LabelFiles
from rtdetr.data.label_rows import has_objects
from rtdetr.data.records import SPLIT_NAMES
from rtdetr.data.voc_files import has_voc_objects
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text
from rtdetr.wording import are, counted, listed

_CLASSES = ("classes.txt", "obj.names", "labels.txt", "names.txt")  # written by YOLO tools
_MAX_FOLDERS = 200


def describe_contents(root: Path) -> str:
    """Return the end of a sentence about datasets below a folder, or about its annotation files; empty if none."""
    if _is_dataset(root):  # without the requested split
        return ""
    folders = list(_folders(root))
    below = [folder for folder in folders[1:] if _is_dataset(folder)]
    below = [folder for folder in below if not any(other in folder.parents for other in below)]
    if below:
        remedy = "is a dataset: give that folder" if len(below) == 1 else "are datasets: give one or all"
        return f"{listed(below, 3)} {remedy}"
    return _yolo(root, folders) or _voc(root, folders)


def _is_dataset(folder: Path) -> bool:
    for split in SPLIT_NAMES:
        try:
            if find_in_folder(folder, split):
                return True
        except DatasetError:
            continue
    return False


def _folders(root: Path) -> Iterator[Path]:
    """Yield a folder and its subfolders, breadth first."""
    queue, seen = deque([root]), 0
    finder = LabelFiles()
    while queue and seen < _MAX_FOLDERS:
        folder = queue.popleft()
        seen += 1
        yield folder
        queue += [folder / name for name in finder.listing(str(folder)).folders]


def _yolo(root: Path, folders: list[Path]) -> str:
    """Return what to write to a data.yaml if there are YOLO labels."""
    lists = (folder / name for folder in folders for name in _CLASSES)
    file = next((file for file in lists if file.is_file()), None)
    files = itertools.chain.from_iterable(LabelFiles().files_in(str(folder)) for folder in folders)
    labels = [path for path in itertools.islice(files, 100) if has_objects(path)]
    if not labels:
        return ""
    names = ["NAME OF CLASS 0", "..."]
    if file is not None:
        try:
            text = read_text(file, what="list of class names", error=DatasetError)
        except DatasetError:
            return ""
        names = [name.strip() for name in text.split("\n") if name.strip()]
    parts = {split: place for split, words in SPLIT_NAMES.items() if (place := _images_of(root, words))}
    parts = parts or {"train": "images" if (root / "images").is_dir() else ".", "val": "FOLDER"}
    text = ", ".join([*(f"{split}: {place}" for split, place in parts.items()), f"names: {json.dumps(names[:20])}"])
    there = f"{file} and YOLO label files" if file else f"YOLO label files such as {labels[0]}"
    return (
        f"there are {there}. A YAML file must state where the images of each split are: write "
        f"{root / 'data.yaml'} with the line {{{text}}}"
    )


def _images_of(root: Path, words: tuple[str, ...]) -> str | None:
    """Return the image folder of a split, relative to the root."""
    places = [place for word in words for place in (f"images/{word}", f"{word}/images", word)]
    return next((place for place in places if any(map(is_image_name, listing(root / place)))), None)


def _voc(root: Path, folders: list[Path]) -> str:
    """Return how to list the images of each split if there are VOC XML files."""
    finder = LabelFiles(".xml")
    found = {folder: files for folder in folders if (files := finder.files_in(str(folder)))}
    first = next((file for files in found.values() for file in files[:20] if has_voc_objects(Path(file))), None)
    if first is None:
        return ""
    stem = Path(first).stem
    image = next((path for path in images_below(root) if Path(path).stem == stem), "IMAGE.jpg")
    line = f"{os.path.relpath(image, root) if os.path.isabs(image) else image} {os.path.relpath(first, root)}"
    count = sum(map(len, found.values()))
    return (
        f"there {are(count)} {counted(count, 'XML file')}, such as {first} in Pascal VOC format. List the images of "
        f"each split in {root / 'train.txt'} and {root / 'val.txt'}, with one line such as '{line}' per image"
    )
