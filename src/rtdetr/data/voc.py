"""Pascal VOC: one XML file of objects per image, and text files that list the images of each split.

| layout    | objects                 | images        | split                                                 |
|-----------|-------------------------|---------------|-------------------------------------------------------|
| VOC       | Annotations/a.xml       | JPEGImages/   | ImageSets/Main/train.txt, one name per line           |
| list file | as listed               | as listed     | trainval.txt, one "image.jpg annotation.xml" per line |
| Roboflow  | train/a.xml             | next to it    | the folder                                            |

`voc_files.py` finds the files.

VOC pixel coordinates start at 1: a box that covers a 500x375 image is 1, 1, 500, 375, and becomes 0, 0, 500, 375. If
any file of the dataset has an xmin or ymin in [0, 1), which VOC does not allow, the coordinates of the dataset start at
0 and are used unchanged (negative values are no evidence: such a box begins outside its image). Objects marked
`difficult` become crowd regions: training omits them, and detecting them is not an error. VOC has no class ids; the
label, which is used as the id, is the position in label_list.txt, labels.txt or classes.txt, else in the list of VOC if
that has all the names, else in alphabetical order.

Source: the VOC2012 development kit, host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
Differs: published code trains on difficult objects, does not shift coordinates, and reads the children of bndbox as
xmin, ymin, xmax, ymax in their order in the file.
"""

import os
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

from rtdetr.categories import VOC20, Category
from rtdetr.data.annotations import ids_of_names
from rtdetr.data.box_forms import CORNERS
from rtdetr.data.image_files import is_image_name, listing
from rtdetr.data.label_files import composed, label_stems
from rtdetr.data.records import UNKNOWN, BoxRecord, ImageRecord, Part
from rtdetr.data.voc_xml import VocFile, read_xml
from rtdetr.errors import DatasetError
from rtdetr.text_files import read_text
from rtdetr.wording import counted, have

LABEL_FILES = ("label_list.txt", "labels.txt", "classes.txt")


class Item(NamedTuple):
    """One image of the split."""

    xml: Path
    image: str | None  # relative to the image folder; None: the one with the name of the XML file


class VocSplit(NamedTuple):
    """The files of one split.

    every: all XML files of the dataset, so all splits have the same classes and first pixel.
    absent: XML files of items that do not exist, each with the path of one with the same name elsewhere, or empty.
    """

    root: Path
    source: Path
    images_dir: Path
    items: list[Item]
    every: list[Path]
    absent: dict[Path, str]


def read_voc(split: VocSplit) -> Part:
    """Read the XML files of a split, and those of the others, which also determine the classes and the first pixel."""
    stems = {composed(file.stem) for file in split.every}
    part = Part("voc", split.source, split.images_dir, form=CORNERS, num_listed_images=len(split.items))
    part.is_annotated = lambda path: bool(label_stems(path) & stems)
    _note_missing_xml(part, split)
    own = {item.xml for item in split.items} - set(split.absent)
    xml_files = dict.fromkeys([item.xml for item in split.items if item.xml in own] + split.every)
    contents = {file: found for file in xml_files if (found := _read_file(part, file, is_own=file in own))}
    names = _class_names(part, split, own, contents)
    part.categories = [Category(label, name) for label, name in enumerate(names)]
    items = [item for item in split.items if item.xml in contents]
    file_names = image_names(split._replace(items=items), contents)
    columns = zip(ids_of_names(file_names).tolist(), file_names, items, strict=True)
    part.images = [ImageRecord(number, name, contents[item.xml].size_wh) for number, name, item in columns]
    shift, label_of_name = first_pixel(contents), {name: label for label, name in enumerate(names)}
    boxes = []
    for image, item in enumerate(items):
        for number, thing in contents[item.xml].objects.items():
            x1, y1, x2, y2 = thing.corners
            xywh = x1 - shift, y1 - shift, x2 - (x1 - shift), y2 - (y1 - shift)
            name = f"object {number} ({thing.name!r})"
            label = label_of_name.get(thing.name, UNKNOWN)
            called, where = f"{item.xml.name} {name}", f"{item.xml}: {name}"
            boxes.append(BoxRecord(image, label, xywh, called, where, iscrowd=thing.difficult))
            if label == UNKNOWN:
                detail = "has a class that is not listed"
                part.problem("unknown-class", file=file_names[image], annotation=called, detail=detail, image=image)
    part.set_boxes(boxes)
    return part


def _note_missing_xml(part: Part, split: VocSplit) -> None:
    """Note the XML files that do not exist; the error names one that exists elsewhere, if any."""
    first = next((xml for xml, near in split.absent.items() if near), next(iter(split.absent), None))
    for xml in sorted(split.absent, key=lambda xml: xml != first):
        near = split.absent[xml]
        remedy = f", but {near} does. Move it there" if near else ". Put it there or correct the list"
        error = (
            f"{split.source}: {len(split.absent)} of its {counted(len(split.items), 'image')} "
            f"{have(split.absent)} no XML file: {xml} does not exist{remedy}"
        )
        detail = "does not exist" + (f", but {near} does" if near else "")
        part.problem("misplaced-label" if near else "unreadable-entry", file=xml.name, detail=detail, error=error)


def _read_file(part: Part, file: Path, *, is_own: bool) -> VocFile | None:
    """Return the content of an XML file without invalid objects; None if the file cannot be read.

    The doctor shows problems with files of another split there.
    """
    content, problems = read_xml(file)
    for kind, error in problems:
        detail = error.removeprefix(f"{file}: ")
        part.problem(kind, file=file.name, detail=detail, error=error, is_shown=is_own)
    if content and is_own:
        part.num_listed_boxes += content.num_listed
    return content


def class_list(root: Path) -> tuple[Path | None, list[str]]:
    """Return the file of class names of a dataset, if any, and its lines.

    Raises:
        DatasetError: the file cannot be read.
    """
    file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    text = "" if file is None else read_text(file, what="list of class names", error=DatasetError)
    return file, [line.strip() for line in text.splitlines() if line.strip()]


def _class_names(part: Part, split: VocSplit, own: Set[Path], contents: dict[Path, VocFile]) -> list[str]:
    """Return the classes of the dataset; a class list, if there is one, must have the class of every object."""
    file_of_name = {thing.name: file for file, content in contents.items() for thing in content.objects.values()}
    used, root = set(file_of_name), split.root
    try:
        file, names = class_list(root)
    except DatasetError as error:
        part.problem("unreadable-entry", file=root.name, detail=str(error), error=str(error))
        return sorted(used)
    if file is None:
        if not used:
            count = counted(len(contents), "annotation file")
            error = f"{root}: {count} without objects, so the classes are unknown. Add a labels.txt"
            part.problem("no-class", file=root.name, error=error, is_shown=False)  # the doctor checks this itself
        names = VOC20.names if used and used <= set(VOC20.names) else sorted(used)
        part.implied = tuple(name for name in names if name not in used)
        return names
    error = f"{file}: expected unique class names, one per line"
    for name in sorted({name for name in names if names.count(name) > 1}):
        part.problem(
            "same-class-name", file=file.name, annotation=f"class {name!r}", detail="is listed twice", error=error
        )
    if not names:
        part.problem("no-class", file=file.name, error=error, is_shown=False)
    if unknown := sorted(used - set(names)):
        error = f"{file_of_name[unknown[0]]}: class {unknown[0]!r} does not exist: {file} does not list it"
        part.problem("unknown-class", file=file.name, error=error, is_shown=False)  # the doctor shows every object
    return list(dict.fromkeys(names))


def first_pixel(contents: dict[Path, VocFile]) -> int:
    """Return the coordinate of the first pixel of a row or column in the dataset: 1, or 0 if any box begins there."""
    things = (thing for content in contents.values() for thing in content.objects.values())
    return 0 if any(0 <= corner < 1 for thing in things for corner in thing.corners[:2]) else 1


def image_names(split: VocSplit, contents: dict[Path, VocFile]) -> list[str]:
    """Return the image file per item: the listed one, else the one named like the XML file, else the one it names."""
    images = sorted(filter(is_image_name, listing(split.images_dir)))
    present = {os.path.splitext(name)[0]: name for name in images} | {name: name for name in images}
    alike = {composed(stem): name for stem, name in present.items()}

    def image(item: Item) -> str:
        stem = item.xml.stem
        found = item.image or present.get(stem) or alike.get(composed(stem))
        return found or contents[item.xml].file_name or f"{stem}.jpg"

    return [image(item) for item in split.items]
