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
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from rtdetr.categories import VOC20, Categories, Category
from rtdetr.data.annotations import LARGEST, Annotations, Found, Objects, arrange, ids_of_names
from rtdetr.data.image_files import images_below, is_image_name, listing, sizes_of
from rtdetr.errors import DatasetError, MissingSplitError

_LIST_NAMES = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
LABEL_FILES = ("label_list.txt", "labels.txt", "classes.txt")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class _Item(NamedTuple):
    """One image of the split."""

    xml: Path
    image: str | None  # relative to the folder of images; None: the one with the name of the XML file


class _Object(NamedTuple):
    """One object of an XML file."""

    name: str
    corners: tuple[float, float, float, float]  # as the file has them
    difficult: bool


class Picture(NamedTuple):
    """What one XML file says."""

    file_name: str
    size_wh: tuple[int, int] | None
    objects: list[_Object]


class VocSplit(NamedTuple):
    """The files of one split.

    every: all XML files of the dataset, so that each split counts classes and pixels the same way.
    """

    root: Path
    source: Path
    images_dir: Path
    items: list[_Item]
    every: list[Path]


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
            items = [_Item(file, None) for file in xml]
            return _found(VocSplit(root, root / name, images or root / name, items, sorted(itertools.chain(*others))))
    return None


def is_voc_list(file: Path) -> bool:
    """Whether a text file lists the images of a VOC dataset."""
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        return file.is_file()
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.readline(10_000).rstrip().endswith(".xml")
    except (OSError, ValueError):
        return False


def voc_list(file: Path, *, images: Path | None) -> Found:
    """The split that a list file of a VOC dataset names.

    Raises:
        DatasetError: the list cannot be read or is empty.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the list of images {file}: {error}") from None
    lines = [fields for fields in lines if fields]
    if not lines or any("\0" in field for fields in lines for field in fields):
        raise DatasetError(f"{file}: expected one image a line, {'got none' if not lines else 'got a zero byte'}")
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        root = file.parents[2]
        folder = root / "Annotations"
        items = [_Item(folder / f"{fields[0]}.xml", None) for fields in dict.fromkeys(map(tuple, lines))]
        return _found(VocSplit(root, file, images or root / "JPEGImages", items, _xml_in(folder)))
    short = next((number for number, fields in enumerate(lines, 1) if len(fields) != 2), None)
    if short is not None:
        raise DatasetError(
            f"{file}: entry {short}: expected 'image.jpg annotation.xml', paths relative to {file.parent}"
        )
    items = [_Item(file.parent / xml, image) for image, xml in lines]
    every = {item.xml for item in items}
    for other in _lists_in(file.parent):
        every.update(xml for xml in _xml_listed(other) if xml.is_file())
    return _found(VocSplit(file.parent, file, images or file.parent, items, sorted(every)))


def _lists_in(folder: Path) -> list[Path]:
    """The list files of all splits that a folder may have."""
    return [folder / f"{name}.txt" for name in itertools.chain(*_LIST_NAMES.values())]


def _xml_listed(file: Path) -> list[Path]:
    """XML files in the list of another split; what is no such list has none, and its faults are not this split's."""
    if not is_voc_list(file):
        return []
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if "\0" not in line]
    except (OSError, ValueError):
        return []
    return [file.parent / fields[1] for fields in lines if len(fields) == 2]


def _xml_in(folder: Path) -> list[Path]:
    return sorted(folder / name for name in listing(folder) if name.endswith(".xml"))


def _found(split: VocSplit) -> Found:
    split = split._replace(items=sorted(split.items, key=lambda item: item.xml))
    labels = [str(split.root / name) for name in LABEL_FILES]
    files = {str(item.xml) for item in split.items} | {str(file) for file in split.every}
    lists = map(str, _lists_in(split.root))
    # images too: the size of one is read from it where its XML file does not state any
    listed = [str(split.images_dir / item.image) for item in split.items if item.image]
    images = listed if len(listed) == len(split.items) else images_below(split.images_dir)
    inputs = [str(split.source), str(split.images_dir), *labels, *lists, *sorted(files), *images]
    return Found("voc", split.source, split.images_dir, inputs, functools.partial(_read, split), split)


def _read(split: VocSplit, on_bad_box: str) -> Annotations:
    xml_files = dict.fromkeys([item.xml for item in split.items] + split.every)
    pictures = {file: _parse(file) for file in xml_files}
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


def _categories(root: Path, pictures: dict[Path, Picture]) -> Categories:
    """The classes of the dataset; every object's must be in the list where there is one."""
    file_of_name = {thing.name: file for file, picture in pictures.items() for thing in picture.objects}
    file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    if file is None:
        if not file_of_name:
            raise DatasetError(
                f"{root}: no object in {len(pictures)} annotation files, so no classes. Add a labels.txt"
            )
        names = VOC20.names if set(file_of_name) <= set(VOC20.names) else sorted(file_of_name)
        return Categories(Category(label, name) for label, name in enumerate(names))
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the class names {file}: {error}") from None
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
    present = {os.path.splitext(name)[0]: name for name in listing(split.images_dir) if is_image_name(name)}
    return [
        item.image or present.get(item.xml.stem) or pictures[item.xml].file_name or f"{item.xml.stem}.jpg"
        for item in split.items
    ]


def _sizes(split: VocSplit, pictures: dict[Path, Picture], names: Sequence[str]) -> np.ndarray:
    stated = [pictures[item.xml].size_wh for item in split.items]
    sizes_wh = np.array([size or (0, 0) for size in stated], dtype=np.int64).reshape(-1, 2)
    unstated = [i for i, size in enumerate(stated) if size is None]
    sizes_wh[unstated] = sizes_of([str(split.images_dir / names[i]) for i in unstated])
    return sizes_wh


def _parse(file: Path) -> Picture:
    """Read one XML file."""
    root = load_xml(file)
    objects = [object_of(file, number, element) for number, element in enumerate(root.iterfind("object"), 1)]
    return Picture((root.findtext("filename") or "").strip().replace("\0", ""), size_of(file, root), objects)


def size_of(file: Path, root: Element) -> tuple[int, int] | None:
    """Width and height that an XML file states, pixels; None where it does not say."""
    size = tuple(_number(file, "size", root.find(f"size/{side}"), missing=0.0) for side in ("width", "height"))
    if not all(side.is_integer() and 0 <= side < LARGEST for side in size):
        raise DatasetError(f"{file}: expected width and height in whole pixels, got {size[0]:.10g}x{size[1]:.10g}")
    return (int(size[0]), int(size[1])) if 0 not in size else None


def load_xml(file: Path) -> Element:
    """The elements of an XML file without a document type: entities could make a small file fill the memory."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_document_type
    try:
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except OSError as error:
        raise DatasetError(f"cannot read the annotation file {file}: {error.strerror or error}") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DatasetError(f"{file}: expected a VOC annotation in XML, which this is not: {error}") from None


def _refuse_document_type(*_: object) -> None:
    raise DatasetError("has a document type declaration (DOCTYPE), which is not read. Remove it")


def object_of(file: Path, number: int, element: Element) -> _Object:
    """The object that an element describes, the `number`-th of its file."""
    name = (element.findtext("name") or "").strip()
    where = f"object {number} ({name!r})" if name else f"object {number}"
    if not name:
        raise DatasetError(f"{file}: {where} has no name; expected that of a class")
    box = element.find("bndbox")
    if box is None:
        raise DatasetError(f"{file}: {where} has no bndbox; expected one with {', '.join(_CORNERS)}")
    x1, y1, x2, y2 = (_number(file, f"{where}: {corner}", box.find(corner)) for corner in _CORNERS)
    difficult = _number(file, f"{where}: difficult", element.find("difficult"), missing=0.0)
    return _Object(name, (x1, y1, x2, y2), difficult != 0)


def _number(file: Path, what: str, element: Element | None, *, missing: float | None = None) -> float:
    """The number in an element, such as `12` or `12.5`."""
    if element is None and missing is not None:
        return missing
    text = "nothing" if element is None else (element.text or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = np.inf
    if not abs(value) < LARGEST:
        raise DatasetError(f"{file}: {what}: expected a number, got {text[:40]!r}")
    return value
