"""Pascal VOC: one XML file of objects an image, and text files that list the images of each split.

| layout    | objects                 | images        | split                                              |
|-----------|-------------------------|---------------|----------------------------------------------------|
| VOC       | Annotations/a.xml       | JPEGImages/   | ImageSets/Main/train.txt, one name a line          |
| list file | as listed               | as listed     | trainval.txt, one "image.jpg annotation.xml" a line |
| Roboflow  | train/a.xml             | beside        | the folder                                         |

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

import functools
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtdetr.categories import VOC20, Categories, Category
from rtdetr.data.annotations import Annotations, Found, Objects, arrange, ids_of_names
from rtdetr.data.image_files import images_below, is_image_name, listing, sizes_of
from rtdetr.data.image_paths import folder_of, locate
from rtdetr.data.label_files import MOST_UNLABELED, LabelFiles, composed, label_stems
from rtdetr.data.voc_xml import Picture, read_picture
from rtdetr.errors import DatasetError, MissingSplitError
from rtdetr.text_files import read_text

_LIST_NAMES = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
LABEL_FILES = ("label_list.txt", "labels.txt", "classes.txt")


class _Item(NamedTuple):
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
    items: list[_Item]
    every: list[Path]
    absent: dict[Path, str]


def find_voc(root: Path, split: str, *, images: Path | None) -> Found | None:
    """Find a split, "train", "val" or "test", in a dataset's folder; None: there is no such dataset.

    Raises:
        DatasetError: the folder has the form, but not the split.
    """
    lists = root / "ImageSets" / "Main"
    if (root / "Annotations").is_dir() and lists.is_dir():
        for name in _LIST_NAMES[split]:
            if (lists / f"{name}.txt").is_file():
                return voc_list(lists / f"{name}.txt", images=images)
        known = ", ".join(sorted(name for name in listing(lists) if name.endswith(".txt"))) or "nothing"
        raise MissingSplitError(
            f"{lists} has no list {_LIST_NAMES[split][0]}.txt, only {known}. Give the list file itself"
        )
    for name in _LIST_NAMES[split]:
        if is_voc_list(root / f"{name}.txt"):
            return voc_list(root / f"{name}.txt", images=images)
        if xml := _xml_in(root / name):
            others = [_xml_in(root / other) for names in _LIST_NAMES.values() for other in names]
            items, every = [_Item(file, None) for file in xml], sorted(itertools.chain(*others))
            folder = images or root / name
            found = _found(VocSplit(root, root / name, folder, items, every, {}))
            return found._replace(warning=_unlabeled(root / name, folder, xml))
    return None


def is_voc_list(file: Path) -> bool:
    """Whether a text file lists the images of a VOC dataset."""
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        return file.is_file()
    try:
        first, *_ = read_text(file, what="list of images", error=DatasetError).splitlines() or [""]
    except DatasetError:
        return False
    return first.rstrip().lower().endswith(".xml")


def voc_list(file: Path, *, images: Path | None) -> Found:
    """The split that a list file of a VOC dataset names.

    Raises:
        DatasetError: the list cannot be read or is empty.
    """
    text = read_text(file, what="list of images", error=DatasetError)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"{file}: expected one image a line, got none")
    finder = LabelFiles(".xml", images="jpegimages", labels="annotations")
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        root = file.parents[2]
        folder, images_dir = root / "Annotations", images or root / "JPEGImages"
        found = {_named_xml(finder, line, folder, images_dir): None for line in lines}
        items = [_Item(xml, None) for xml in found]
        absent = _absent(finder, items, images_dir, root)
        return _found(VocSplit(root, file, images_dir, items, _xml_in(folder), absent))
    pairs = [line.split() for line in lines]
    short = next((number for number, fields in enumerate(pairs, 1) if len(fields) != 2), None)
    if short is not None:
        raise DatasetError(
            f"{file}: entry {short}: expected 'image.jpg annotation.xml', paths relative to {file.parent}"
        )
    items = [_Item(_present(finder, file.parent / xml), image) for image, xml in pairs]
    every = {item.xml for item in items}
    for other in _lists_in(file.parent):
        every.update(xml for xml in _xml_listed(finder, other) if _exists(finder, xml))
    absent = _absent(finder, items, file.parent, file.parent)
    return _found(VocSplit(file.parent, file, images or file.parent, items, sorted(every), absent))


def _named_xml(finder: LabelFiles, line: str, folder: Path, images_dir: Path) -> Path:
    """The XML file of an image in a list, by its name, which may have a suffix, and a mark behind it."""
    for name in dict.fromkeys([line, line.split()[0]]):  # a name may have spaces in it
        parent, base = os.path.split(name)
        for place in (folder, images_dir):
            found = finder.find(os.path.join(place, parent), base)
            if found is not None:
                return Path(found)
    return folder / f"{line.split()[0]}.xml"


def _present(finder: LabelFiles, xml: Path) -> Path:
    """The XML file itself, or the one that is there in another Unicode form, or with / for the backslash of Windows."""
    for path in dict.fromkeys([xml, Path(str(xml).replace("\\", "/"))]):
        name = finder.listing(str(path.parent)).find(path.name)
        if name is not None:
            return path.with_name(name)
    return xml


def _exists(finder: LabelFiles, xml: Path) -> bool:
    return xml.name in finder.listing(str(xml.parent)).names


def _absent(finder: LabelFiles, items: Sequence[_Item], images_dir: Path, root: Path) -> dict[Path, str]:
    missing = {str(images_dir / f"{item.xml.stem}.jpg"): item.xml for item in items if not _exists(finder, item.xml)}
    near = finder.near(list(missing), [str(root)]) if missing else {}
    return {xml: near.get(image, "") for image, xml in missing.items()}


def _lists_in(folder: Path) -> list[Path]:
    """The list files of all splits that a folder may have."""
    return [folder / f"{name}.txt" for name in itertools.chain(*_LIST_NAMES.values())]


def _xml_listed(finder: LabelFiles, file: Path) -> list[Path]:
    """XML files in the list of another split; what is no such list has none, and its faults are not this split's."""
    if not is_voc_list(file):
        return []
    lines = [line.split() for line in read_text(file, what="list of images", error=DatasetError).splitlines()]
    return [_present(finder, file.parent / fields[1]) for fields in lines if len(fields) == 2]


def _xml_in(folder: Path) -> list[Path]:
    return sorted(map(Path, LabelFiles(".xml").files_in(str(folder))))


def _unlabeled(source: Path, images_dir: Path, xml_files: Sequence[Path]) -> str:
    """What to say about images without an XML file in a folder of both; nothing about a few."""
    known = {composed(file.stem) for file in xml_files}
    images = images_below(images_dir)
    bare = [image for image in images if not label_stems(image) & known]
    if len(bare) <= MOST_UNLABELED * len(images):
        return ""
    return (
        f"{source}: {len(bare)} of the {len(images)} images in {images_dir} have no XML file and are not used, the "
        f"first is {bare[0]}. Add the files; one without objects makes an image background"
    )


def _found(split: VocSplit) -> Found:
    split = split._replace(items=sorted(split.items, key=lambda item: item.xml))
    labels = [str(split.root / name) for name in LABEL_FILES]
    files = {str(item.xml) for item in split.items} | {str(file) for file in split.every}
    lists = map(str, _lists_in(split.root))
    # images too: the size of one is read from it where its XML file does not state any
    listed = [str(split.images_dir / item.image) for item in split.items if item.image]
    images = listed if len(listed) == len(split.items) else images_below(split.images_dir)
    near = filter(None, split.absent.values())
    inputs = [str(split.source), str(split.images_dir), *labels, *lists, *sorted(files), *images, *near]
    return Found("voc", split.source, split.images_dir, inputs, functools.partial(_read, split), split)


def _read(split: VocSplit, on_bad_box: str) -> Annotations:
    _refuse_absent(split)
    xml_files = dict.fromkeys([item.xml for item in split.items] + split.every)
    pictures = {file: read_picture(file) for file in xml_files}
    categories = _categories(split.root, pictures)
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

    objects = Objects(
        categories=categories,
        image_ids=ids_of_names(names),
        file_names=names,
        sizes_wh=_sizes(split, pictures, names),
        image_of_box=np.array([image for image, *_ in rows], dtype=np.int64),
        boxes_xywh=boxes,
        labels=np.array([label_of_name[thing.name] for *_, thing in rows], dtype=np.int64),
        areas=np.full(len(rows), np.nan),
        iscrowd=np.array([thing.difficult for *_, thing in rows], dtype=bool),
    )
    return arrange(objects, source=split.source, on_bad_box=on_bad_box, where=where)


def _refuse_absent(split: VocSplit) -> None:
    if split.absent:
        xml = next((xml for xml, near in split.absent.items() if near), next(iter(split.absent)))
        near = split.absent[xml]
        remedy = f", but {near} lies near it. Move it there" if near else ". Put it there, or correct the list"
        raise DatasetError(
            f"{split.source}: {len(split.absent)} of its {len(split.items)} images have no XML file: {xml} does not "
            f"exist{remedy}"
        )


def class_list(root: Path) -> tuple[Path | None, list[str]]:
    """The file of class names that a dataset has, if any, and its lines.

    Raises:
        DatasetError: the file cannot be read.
    """
    file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    text = "" if file is None else read_text(file, what="list of class names", error=DatasetError)
    return file, [line.strip() for line in text.splitlines() if line.strip()]


def _categories(root: Path, pictures: dict[Path, Picture]) -> Categories:
    """The classes of the dataset; every object's must be in the list where there is one."""
    file_of_name = {thing.name: file for file, picture in pictures.items() for thing in picture.objects}
    file, names = class_list(root)
    if file is None:
        if not file_of_name:
            raise DatasetError(
                f"{root}: no object in {len(pictures)} annotation files, so no classes. Add a labels.txt"
            )
        names = VOC20.names if set(file_of_name) <= set(VOC20.names) else sorted(file_of_name)
        return Categories(Category(label, name) for label, name in enumerate(names))
    if not names or len(set(names)) < len(names):
        raise DatasetError(f"{file}: expected the class names, one a line, each once")
    unknown = sorted(set(file_of_name) - set(names))
    if unknown:
        raise DatasetError(f"{file_of_name[unknown[0]]}: class {unknown[0]!r} does not exist: {file} does not list it")
    return Categories(Category(label, name) for label, name in enumerate(names))


def first_pixel(pictures: dict[Path, Picture]) -> int:
    """The number that the dataset gives to the first pixel of a row or column: 1, or 0 where a box begins at one."""
    things = (thing for picture in pictures.values() for thing in picture.objects)
    return 0 if any(0 <= corner < 1 for thing in things for corner in thing.corners[:2]) else 1


def image_names(split: VocSplit, pictures: dict[Path, Picture]) -> list[str]:
    """The image file of each item: the one listed, else with the name of the XML file, else the one that it names."""
    images = sorted(filter(is_image_name, listing(split.images_dir)))
    present = {os.path.splitext(name)[0]: name for name in images} | {name: name for name in images}
    alike = {composed(stem): name for stem, name in present.items()}

    def image(item: _Item) -> str:
        stem = item.xml.stem
        found = item.image or present.get(stem) or alike.get(composed(stem))
        return found or pictures[item.xml].file_name or f"{stem}.jpg"

    return [image(item) for item in split.items]


def _sizes(split: VocSplit, pictures: dict[Path, Picture], names: Sequence[str]) -> np.ndarray:
    stated = [pictures[item.xml].size_wh for item in split.items]
    sizes_wh = np.array([size or (0, 0) for size in stated], dtype=np.int64).reshape(-1, 2)
    unstated = [i for i, size in enumerate(stated) if size is None]
    located = locate([names[i] for i in unstated], split.images_dir, beside=folder_of(split.source))
    sizes_wh[unstated] = sizes_of([str(split.images_dir / name) for name in located.names])
    return sizes_wh
