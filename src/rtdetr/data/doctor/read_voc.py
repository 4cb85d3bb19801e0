"""Read Pascal VOC annotations that may be broken: keep the objects that can be understood, note the others."""

from pathlib import Path

from rtdetr.categories import VOC20
from rtdetr.data.annotations import ids_of_names
from rtdetr.data.doctor.records import UNKNOWN, BoxRecord, CategoryRecord, ImageRecord, Part
from rtdetr.data.label_files import composed, label_stems
from rtdetr.data.voc import VocSplit, class_list, first_pixel, image_names
from rtdetr.data.voc_xml import Picture, image_of, load_xml, object_of, size_of
from rtdetr.errors import DatasetError


def read_voc(split: VocSplit, *, name: str) -> Part:
    """Read the XML files of a split; the others of the data set too, which decide on classes and counting from 0."""
    stems = {composed(file.stem) for file in split.every}
    part = Part(name, split.source, "voc", is_annotated=lambda path: bool(label_stems(path) & stems))
    for file, near in split.absent.items():
        detail = "does not exist" + (f", but {near} lies near it" if near else "")
        part.defect("misplaced-label" if near else "unreadable-entry", file=file.name, detail=detail)
    own = {item.xml for item in split.items} - set(split.absent)
    pictures = {
        file: picture for file in dict.fromkeys([*own, *split.every]) if (picture := _picture(part, file, file in own))
    }
    part.num_listed_images = len(split.items)
    names = _class_names(part, split.root, pictures)
    part.categories = [CategoryRecord(label, class_name) for label, class_name in enumerate(names)]
    shift = first_pixel(pictures)
    items = [item for item in split.items if item.xml in pictures]
    file_names = image_names(split._replace(items=items), pictures)
    ids = ids_of_names(file_names).tolist()
    label_of_name = {class_name: label for label, class_name in enumerate(names)}
    for image, (item, file_name) in enumerate(zip(items, file_names, strict=True)):
        picture = pictures[item.xml]
        part.images.append(ImageRecord(ids[image], file_name, split.images_dir / file_name, picture.size_wh))
        for number, thing in enumerate(picture.objects, start=1):
            called = f"{item.xml.name} object {number} ({thing.name!r})"
            label = label_of_name.get(thing.name, UNKNOWN)
            if label == UNKNOWN:
                detail = "is of a class that is not listed"
                part.defect("unknown-class", file=file_name, annotation=called, detail=detail)
            x1, y1, x2, y2 = thing.corners
            x1, y1 = x1 - shift, y1 - shift
            part.boxes.append(BoxRecord(image, label, (x1, y1, x2 - x1, y2 - y1), called, None, thing.difficult))
    return part


def _picture(part: Part, file: Path, noted: bool) -> Picture | None:
    """What a file says, without the objects that cannot be understood; None where it cannot be read at all."""
    try:
        root = load_xml(file)
    except DatasetError as error:
        if noted:
            _note(part, "unreadable-entry", file, error)
        return None
    objects = []
    for number, element in enumerate(root.iterfind("object"), start=1):
        part.num_listed_boxes += noted
        try:
            objects.append(object_of(file, number, element))
        except DatasetError as error:
            if noted:
                _note(part, "unreadable-entry", file, error)
    try:
        size_wh = size_of(file, root)
    except DatasetError as error:
        size_wh = None
        if noted:
            _note(part, "wrong-value", file, error)
    return Picture(image_of(root), size_wh, objects)


def _note(part: Part, kind: str, file: Path, error: DatasetError) -> None:
    part.defect(kind, file=file.name, detail=str(error).removeprefix(f"{file}: "))


def _class_names(part: Part, root: Path, pictures: dict[Path, Picture]) -> list[str]:
    used = {thing.name for picture in pictures.values() for thing in picture.objects}
    try:
        file, names = class_list(root)
    except DatasetError as error:
        part.defect("unreadable-entry", file=root.name, detail=str(error))
        return sorted(used)
    if file is None:
        return VOC20.names if used and used <= set(VOC20.names) else sorted(used)
    for name in sorted({name for name in names if names.count(name) > 1}):
        part.defect("same-class-name", file=file.name, annotation=f"class {name!r}", detail="is listed again")
    return list(dict.fromkeys(names))
