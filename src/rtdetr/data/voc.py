"""Pascal VOC: one XML file of objects an image, and text files that list the images of each split.

| layout    | objects                 | images        | split                                              |
|-----------|-------------------------|---------------|----------------------------------------------------|
| VOC       | Annotations/a.xml       | JPEGImages/   | ImageSets/Main/train.txt, one name a line          |
| list file | as listed               | as listed     | trainval.txt, one "image.jpg annotation.xml" a line |
| Roboflow  | train/a.xml             | beside        | the folder                                         |

How they are found is in `voc_files.py`.

Coordinates are pixels counted from 1, as VOC defines them: a box over a whole 500x375 image is 1, 1, 500, 375, and
comes out as 0, 0, 500, 375. Where any file of the dataset has an xmin or ymin in [0, 1), a pixel that VOC does not
have, the dataset counts from 0, and its numbers are taken for corners as they stand (a negative one says nothing: that
box begins outside its image). Objects marked `difficult` become
crowd: not trained on, and no mistake to detect. VOC has no class ids: the label, which stands for it, is the position
in label_list.txt, labels.txt or classes.txt, else in VOC's own list if that has all the names, else in alphabetical
order.

Source: the VOC2012 development kit, host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
Differs: published code trains on difficult objects, shifts nothing, and takes the children of bndbox for xmin, ymin,
xmax, ymax in the order they stand in.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr.categories import VOC20, Categories, Category
from rtdetr.data.annotations import Annotations, Objects, OnBad, arrange, ids_of_names
from rtdetr.data.box_forms import CORNERS
from rtdetr.data.image_files import Sizes, is_image_name, listing
from rtdetr.data.image_paths import with_sizes_of_files
from rtdetr.data.label_files import composed
from rtdetr.data.voc_xml import Picture, read_picture
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text
from rtdetr.wording import counted, have

LABEL_FILES = ("label_list.txt", "labels.txt", "classes.txt")


class Item(NamedTuple):
    """One image of the split."""

    xml: Path
    image: str | None  # relative to the folder of images; None: the one with the name of the XML file


class VocSplit(NamedTuple):
    """The files of one split.

    every: all XML files of the dataset, so that each split counts classes and pixels the same way.
    absent: the XML files of items that do not exist, each with the path of one that lies near it, or nothing.
    """

    root: Path
    source: Path
    images_dir: Path
    items: list[Item]
    every: list[Path]
    absent: dict[Path, str]


def read_split(split: VocSplit, on_bad: OnBad) -> Annotations:
    """Read the XML files of a split.

    Raises:
        DatasetError: a file is missing or broken, or contradicts another.
    """
    _refuse_absent(split)
    xml_files = dict.fromkeys([item.xml for item in split.items] + split.every)
    pictures = {file: read_picture(file) for file in xml_files}
    categories, implied = _categories(split.root, pictures)
    label_of_name = {name: label for label, name in enumerate(categories.names)}
    names = image_names(split, pictures)
    rows = [
        (image, number, thing)
        for image, item in enumerate(split.items)
        for number, thing in enumerate(pictures[item.xml].objects, 1)
    ]
    boxes = np.array([thing.corners for *_, thing in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, :2] -= first_pixel(pictures)
    boxes[:, 2:] -= boxes[:, :2]

    def where(row: int) -> str:
        image, number, thing = rows[row]
        return f"{split.items[image].xml}: object {number} ({thing.name!r})"

    sizes = _sizes(split, pictures, names, on_bad.image)
    image_of_box = np.array([image for image, *_ in rows], dtype=np.int64)
    objects = Objects(
        categories=categories,
        image_ids=ids_of_names(names),
        file_names=names,
        sizes_wh=sizes.holding(boxes, image_of_box),
        image_of_box=image_of_box,
        boxes_xywh=boxes,
        labels=np.array([label_of_name[thing.name] for *_, thing in rows], dtype=np.int64),
        areas=np.full(len(rows), np.nan),
        iscrowd=np.array([thing.difficult for *_, thing in rows], dtype=bool),
    )
    notes = filter(None, [sizes.note])
    columns = arrange(objects, source=split.source, on_bad_box=on_bad.box, where=where, form=CORNERS, notes=notes)
    return columns._replace(implied=implied)


def _refuse_absent(split: VocSplit) -> None:
    if split.absent:
        xml = next((xml for xml, near in split.absent.items() if near), next(iter(split.absent)))
        near = split.absent[xml]
        remedy = f", but {near} lies near it. Move it there" if near else ". Put it there, or correct the list"
        raise DatasetError(
            f"{split.source}: {len(split.absent)} of its {counted(len(split.items), 'image')} "
            f"{have(split.absent)} no XML file: {xml} does not exist{remedy}"
        )


def class_list(root: Path) -> tuple[Path | None, list[str]]:
    """The file of class names that a dataset has, if any, and its lines.

    Raises:
        DatasetError: the file cannot be read.
    """
    file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    text = "" if file is None else read_text(file, what="list of class names", error=DatasetError)
    return file, [line.strip() for line in text.splitlines() if line.strip()]


def _categories(root: Path, pictures: dict[Path, Picture]) -> tuple[Categories, tuple[str, ...]]:
    """The classes of the dataset, and the names of VOC's own list that no object has where that list is taken.

    Every object's class must be in the dataset's list where there is one.
    """
    file_of_name = {thing.name: file for file, picture in pictures.items() for thing in picture.objects}
    file, names = class_list(root)
    if file is None:
        if not file_of_name:
            raise DatasetError(
                f"{root}: no object in {counted(len(pictures), 'annotation file')}, so no classes. Add a labels.txt"
            )
        names = VOC20.names if set(file_of_name) <= set(VOC20.names) else sorted(file_of_name)
        implied = tuple(name for name in names if name not in file_of_name)
        return Categories(Category(label, name) for label, name in enumerate(names)), implied
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"{file}: expected the class names, one a line, each once")
    unknown = sorted(set(file_of_name) - set(names))
    if unknown:
        raise DatasetError(f"{file_of_name[unknown[0]]}: class {unknown[0]!r} does not exist: {file} does not list it")
    return Categories(Category(label, name) for label, name in enumerate(names)), ()


def first_pixel(pictures: dict[Path, Picture]) -> int:
    """The number that the dataset gives to the first pixel of a row or column: 1, or 0 where a box begins at one."""
    things = (thing for picture in pictures.values() for thing in picture.objects)
    return 0 if any(0 <= corner < 1 for thing in things for corner in thing.corners[:2]) else 1


def image_names(split: VocSplit, pictures: dict[Path, Picture]) -> list[str]:
    """The image file of each item: the one listed, else with the name of the XML file, else the one that it names."""
    images = sorted(filter(is_image_name, listing(split.images_dir)))
    present = {os.path.splitext(name)[0]: name for name in images} | {name: name for name in images}
    alike = {composed(stem): name for stem, name in present.items()}

    def image(item: Item) -> str:
        stem = item.xml.stem
        found = item.image or present.get(stem) or alike.get(composed(stem))
        return found or pictures[item.xml].file_name or f"{stem}.jpg"

    return [image(item) for item in split.items]


def _sizes(split: VocSplit, pictures: dict[Path, Picture], names: Sequence[str], on_bad_image: str) -> Sizes:
    stated = [pictures[item.xml].size_wh for item in split.items]
    sizes_wh = np.array([size or (0, 0) for size in stated], dtype=np.int64).reshape(-1, 2)
    unstated = [i for i, size in enumerate(stated) if size is None]
    return with_sizes_of_files(
        sizes_wh, unstated, names, split.images_dir, source=split.source, on_bad_image=on_bad_image
    )
