"""Find the files of a Pascal VOC dataset: which XML file belongs to which image. `voc.py` reads them.

If a folder is a split, the XML file of train/a.jpg is searched for next to the image, in train/, in train/Annotations/,
in Annotations/train/ and, if no other split has an image a without an XML file, in Annotations/. In these folders, a
file with a different name that states the image as its <filename> counts too. An XML file anywhere else is an error;
see `label_files.py`.
"""

import functools
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from rtdetr.data.image_files import images_below, listing
from rtdetr.data.label_files import MAX_UNLABELED, LabelFiles, composed, label_stems
from rtdetr.data.records import Found
from rtdetr.data.voc import LABEL_FILES, Item, VocSplit, read_voc
from rtdetr.data.voc_xml import image_of, load_xml
from rtdetr.errors import DatasetError, MissingSplitError
from rtdetr.text_files import read_text
from rtdetr.wording import are, counted, have

_LIST_NAMES = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
_IMAGES, _ANNOTATIONS = "jpegimages", "annotations"


def find_voc(root: Path, split: str, *, images: Path | None) -> Found | None:
    """Find a split, "train", "val" or "test", in the folder of a dataset; None if it is not a VOC dataset.

    Raises:
        DatasetError: the folder has the VOC layout, but not the split.
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
        if found := _in_folder(root, root / name, images):
            return found
    return None


def misplaced_voc_hint(root: Path, split: str, *, images: Path | None) -> str:
    """Return the end of a sentence about a split with XML files in unusual places only; empty if it has none."""
    finder = LabelFiles(".xml", images=_IMAGES, labels=_ANNOTATIONS)
    for name in _LIST_NAMES[split]:
        near = finder.find_misplaced(images_below(images or root / name), [str(root)])
        found = next(((image, xml) for image, xml in near.items() if has_voc_objects(Path(xml))), None)
        if found:
            image, xml = found
            return f"{xml} has the name of {image}. Move such files next to the images"
    return ""


def is_voc_list(file: Path) -> bool:
    """Return whether a text file lists the images of a VOC dataset."""
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        return file.is_file()
    try:
        first, *_ = read_text(file, what="list of images", error=DatasetError).splitlines() or [""]
    except DatasetError:
        return False
    return first.rstrip().lower().endswith(".xml")


def voc_list(file: Path, *, images: Path | None) -> Found:
    """Return the split that a list file of a VOC dataset describes.

    Raises:
        DatasetError: the list cannot be read or is empty.
    """
    text = read_text(file, what="list of images", error=DatasetError)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DatasetError(f"{file}: expected one image per line, but the file is empty")
    finder = LabelFiles(".xml", images="jpegimages", labels="annotations")
    if file.parent.parts[-2:] == ("ImageSets", "Main"):
        root = file.parents[2]
        folder, images_dir = root / "Annotations", images or root / "JPEGImages"
        found = {_named_xml(finder, line, folder, images_dir): None for line in lines}
        items = [Item(xml, None) for xml in found]
        absent = _missing_xml(finder, items, images_dir, root)
        xml_files = sorted(map(Path, LabelFiles(".xml").files_in(str(folder))))
        return _found(VocSplit(root, file, images_dir, items, xml_files, absent))
    pairs = [line.split() for line in lines]
    short = next((number for number, fields in enumerate(pairs, 1) if len(fields) != 2), None)
    if short is not None:
        raise DatasetError(
            f"{file}: entry {short}: expected 'image.jpg annotation.xml', with paths relative to {file.parent}"
        )
    items = [Item(_existing_xml(finder, file.parent / xml), image) for image, xml in pairs]
    every = {item.xml for item in items}
    for other in _lists_in(file.parent):
        every.update(xml for xml in _listed_xml(finder, other) if _exists(finder, xml))
    absent = _missing_xml(finder, items, file.parent, file.parent)
    return _found(VocSplit(file.parent, file, images or file.parent, items, sorted(every), absent))


def _named_xml(finder: LabelFiles, line: str, folder: Path, images_dir: Path) -> Path:
    """Return the XML file of an image in a list, where the name may have a suffix and be followed by a flag."""
    for name in dict.fromkeys([line, line.split()[0]]):  # a name may contain spaces
        parent, base = os.path.split(name)
        for place in (folder, images_dir):
            found = finder.find(os.path.join(place, parent), base)
            if found is not None:
                return Path(found)
    return folder / f"{line.split()[0]}.xml"


def _existing_xml(finder: LabelFiles, xml: Path) -> Path:
    """Return the XML file, or the existing one in another Unicode form or with Windows backslashes replaced by /."""
    for path in dict.fromkeys([xml, Path(str(xml).replace("\\", "/"))]):
        name = finder.listing(str(path.parent)).find(path.name)
        if name is not None:
            return path.with_name(name)
    return xml


def _exists(finder: LabelFiles, xml: Path) -> bool:
    return xml.name in finder.listing(str(xml.parent)).names


def _missing_xml(finder: LabelFiles, items: Sequence[Item], images_dir: Path, root: Path) -> dict[Path, str]:
    missing = {str(images_dir / f"{item.xml.stem}.jpg"): item.xml for item in items if not _exists(finder, item.xml)}
    near = finder.find_misplaced(list(missing), [str(root)]) if missing else {}
    return {xml: near.get(image, "") for image, xml in missing.items()}


def _lists_in(folder: Path) -> list[Path]:
    """Return the paths that the list files of all splits would have in a folder."""
    return [folder / f"{name}.txt" for name in itertools.chain(*_LIST_NAMES.values())]


def _listed_xml(finder: LabelFiles, file: Path) -> list[Path]:
    """Return the XML files in the list of another split; empty for any other file, and invalid lines are skipped."""
    if not is_voc_list(file):
        return []
    lines = [line.split() for line in read_text(file, what="list of images", error=DatasetError).splitlines()]
    return [_existing_xml(finder, file.parent / fields[1]) for fields in lines if len(fields) == 2]


class _Folder(NamedTuple):
    """A folder of images with an XML file for each, next to it or in a folder `Annotations`."""

    images_dir: Path
    items: list[Item]
    bare: list[str]  # paths of images without an XML file
    num_images: int


def _in_folder(root: Path, folder: Path, images: Path | None) -> Found | None:
    """Return the split in a folder; None if no image in it has an XML file."""
    finder = LabelFiles(".xml", images=_IMAGES, labels=_ANNOTATIONS)
    others = [root / name for name in itertools.chain(*_LIST_NAMES.values()) if root / name != folder]
    splits = [_read_folder(finder, place, images if place == folder else None) for place in (folder, *others)]
    splits = _matched_in_shared_folder(finder, root, splits)
    own, every = splits[0], sorted({item.xml for split in splits for item in split.items})
    if not own.items:
        return None
    near = finder.find_misplaced(own.bare, [str(root)]) if own.bare else {}
    used = set(map(str, every))
    near = {image: xml for image, xml in near.items() if xml not in used and has_voc_objects(Path(xml))}
    items = own.items + [
        Item(Path(image).with_suffix(".xml"), os.path.relpath(image, own.images_dir)) for image in near
    ]
    absent = {Path(image).with_suffix(".xml"): xml for image, xml in near.items()}
    bare = [image for image in own.bare if image not in near]
    found = _found(VocSplit(root, folder, own.images_dir, items, every, absent))
    return found._replace(warnings=_unlabeled(folder, own, bare))


def _read_folder(finder: LabelFiles, folder: Path, images: Path | None) -> _Folder:
    """Match the images of a folder with XML files of their split: next to them, in the folder or its `Annotations`."""
    xml_files = [Path(file) for file in finder.files_in(str(folder))]
    images_dir = images or folder
    paths = images_below(images_dir)
    stems = {composed(file.stem) for file in xml_files}
    if any(not label_stems(path) & stems for path in paths):  # XML files may name images with different names
        of_image = set().union(*map(label_stems, paths))
        stems |= {stem for file in xml_files if composed(file.stem) not in of_image for stem in _stems_named(file)}
    items, bare = [Item(file, None) for file in xml_files], []
    for path in paths:
        if label_stems(path) & stems:
            continue
        xml = _first(finder, path, [os.path.dirname(path), *_annotations_in(finder, folder)])
        if xml is None:
            bare.append(path)
        else:
            items.append(Item(xml, os.path.relpath(path, images_dir)))
    used = {str(item.xml) for item in items}
    once = {composed(os.path.basename(path)) for path in bare}
    return _matched_by_stated_name(
        _Folder(images_dir, items, bare, len(paths)), finder, _annotations_in(finder, folder), used, once
    )


def _matched_by_stated_name(
    split: _Folder, finder: LabelFiles, places: Iterable[str], used: Set[str], once: Set[str]
) -> _Folder:
    """Assign to images without an XML file of their name the one in `places` that states the image, if unique.

    Args:
        split: a split.
        finder: lists the folders.
        places: the folders to search.
        used: XML files that belong to other images.
        once: names that only one image without an XML file has.
    """
    if not split.bare:
        return split
    naming = defaultdict(list)
    for file in itertools.chain.from_iterable(map(finder.files_in, places)):
        if file not in used:
            naming[_name_stated(Path(file))].append(file)
    names = {path: composed(os.path.basename(path)) for path in split.bare}
    xml_of = {path: naming[name][0] for path, name in names.items() if name in once and len(naming[name]) == 1}
    items = [Item(Path(xml), os.path.relpath(path, split.images_dir)) for path, xml in xml_of.items()]
    return split._replace(items=split.items + items, bare=[path for path in split.bare if path not in xml_of])


def _matched_in_shared_folder(finder: LabelFiles, root: Path, splits: Sequence[_Folder]) -> list[_Folder]:
    """Assign XML files in `Annotations` of the dataset to images without one, unless two images match the same file."""
    places = _annotations_in(finder, root)
    counts = Counter(stem for split in splits for path in split.bare for stem in label_stems(path))
    result = []
    for split in splits:
        items, bare = list(split.items), []
        for path in split.bare:
            own = [os.path.join(place, split.images_dir.name) for place in places]
            is_only = all(counts[stem] == 1 for stem in label_stems(path))
            xml = _first(finder, path, own + (places if is_only else []))
            if xml is None:
                bare.append(path)
            else:
                items.append(Item(xml, os.path.relpath(path, split.images_dir)))
        result.append(split._replace(items=items, bare=bare))
    used = {str(item.xml) for split in result for item in split.items}
    names = Counter(composed(os.path.basename(path)) for split in result for path in split.bare)
    once = {name for name, count in names.items() if count == 1}
    own = [[*places, *(os.path.join(place, split.images_dir.name) for place in places)] for split in result]
    return [_matched_by_stated_name(split, finder, where, used, once) for split, where in zip(result, own, strict=True)]


def _annotations_in(finder: LabelFiles, folder: Path) -> list[str]:
    return [os.path.join(folder, name) for name in finder.listing(str(folder)).same_names(_ANNOTATIONS)]


def _first(finder: LabelFiles, image: str, places: Iterable[str]) -> Path | None:
    found = (finder.find(place, os.path.basename(image)) for place in places)
    return next((Path(file) for file in found if file is not None), None)


def _stems_named(file: Path) -> set[str]:
    name = _name_stated(file)
    return label_stems(name) if name else set()


def _name_stated(file: Path) -> str:
    """Return the composed image name that an XML file states; empty if there is none."""
    try:
        return composed(os.path.basename(image_of(load_xml(file)).replace("\\", "/")))
    except DatasetError:  # reported when the file is read
        return ""


def has_voc_objects(file: Path) -> bool:
    """Return whether a file is VOC XML with objects."""
    try:
        return load_xml(file).find("object") is not None
    except DatasetError:
        return False


def _unlabeled(source: Path, folder: _Folder, bare: Sequence[str]) -> tuple[str, ...]:
    """Return the warning about images without an XML file in a folder that has both; empty for a few."""
    if len(bare) <= MAX_UNLABELED * folder.num_images:
        return ()
    count = counted(folder.num_images, "image")
    return (
        f"{source}: {len(bare)} of the {count} in {folder.images_dir} {have(bare)} no XML file and {are(bare)} not "
        f"used; the first is {bare[0]}. Add the files; for an image without objects, add one without objects",
    )


def _found(split: VocSplit) -> Found:
    split = split._replace(items=sorted(split.items, key=lambda item: item.xml))
    labels = [str(split.root / name) for name in LABEL_FILES]
    files = {str(item.xml) for item in split.items} | {str(file) for file in split.every}
    lists = map(str, _lists_in(split.root))
    # images too: their size is read from the image file if the XML file does not state it
    listed = [str(split.images_dir / item.image) for item in split.items if item.image]
    images = listed if len(listed) == len(split.items) else images_below(split.images_dir)
    near = filter(None, split.absent.values())
    inputs = [str(split.source), str(split.images_dir), *labels, *lists, *sorted(files), *images, *near]
    return Found("voc", split.source, split.images_dir, inputs, functools.partial(read_voc, split))
