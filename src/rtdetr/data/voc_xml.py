"""Read one XML file of a Pascal VOC dataset: name and size of an image, and its objects.

Source: the VOC2012 development kit, host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf.
"""

import codecs
import re
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from rtdetr.data.annotations import LARGEST
from rtdetr.errors import DatasetError
from rtdetr.text_files import decode_text

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARATION = re.compile(rb"""<\?xml[^>]{0,80}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_ENCODINGS = re.compile(r"ascii|(iso8859|koi8|cp|gb|big5|shift_jis|euc_)\w*(-\d+|-[ru])?")  # names that Python gives
_DECIMAL_COMMA = re.compile(r"[-+]?(?![1-9]\d{0,2},\d{3}$)\d+,\d+")


class VocObject(NamedTuple):
    """One object of an XML file."""

    name: str
    corners: tuple[float, float, float, float]  # as the file has them
    difficult: bool


class VocFile(NamedTuple):
    """What one XML file says."""

    file_name: str
    size_wh: tuple[int, int] | None
    objects: dict[int, VocObject]  # by number in the file, counted from 1
    num_listed: int  # objects in the file, those included that cannot be used


def read_xml(file: Path) -> tuple[VocFile | None, list[tuple[str, str]]]:
    """Read one XML file.

    Returns:
        What it says, without the objects that are not as VOC defines them; None: it cannot be read at all. And what is
        wrong with it: kinds of finding (doctor/findings.py) and messages.
    """
    problems: list[tuple[str, str]] = []
    try:
        root = load_xml(file)
    except DatasetError as error:
        return None, [("unreadable-entry", str(error))]
    found = VocFile(image_of(root), None, {}, 0)
    for number, element in enumerate(root.iterfind("object"), 1):
        found = found._replace(num_listed=number)
        try:
            found.objects[number] = object_of(file, number, element)
        except DatasetError as error:
            problems.append(("unreadable-entry", str(error)))
    try:
        return found._replace(size_wh=size_of(file, root)), problems
    except DatasetError as error:
        return found, [*problems, ("wrong-value", str(error))]


def image_of(root: Element) -> str:
    """The image that an XML file names: the `filename`, else the `path`; nothing where it has neither."""
    texts = (root.findtext(key) or "" for key in ("filename", "path"))
    return next(filter(None, (text.strip().replace("\0", "") for text in texts)), "")


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
        content = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"cannot read the annotation file {file}: {error.strerror or error}") from None
    try:
        declared = _declared_encoding(content)
    except LookupError as error:
        raise DatasetError(f"{file}: expected a VOC annotation in XML, which this is not: {error}") from None
    text = decode_text(content, source=file, error=DatasetError, declared=declared)
    try:
        parser.Parse(text, True)  # for text, expat passes over the encoding that the file declares
        return builder.close()
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DatasetError(f"{file}: expected a VOC annotation in XML, which this is not: {error}") from None


def _declared_encoding(content: bytes) -> str | None:
    """The encoding in an XML declaration; None for UTF-8, and for UTF-16, which zero bytes show if it is true.

    Raises:
        LookupError: there is no such encoding.
    """
    declared = _DECLARATION.match(content)
    name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    if name.startswith(("utf-8", "utf-16")):
        return None
    if not _ENCODINGS.fullmatch(name):
        raise LookupError(f"encoding {name} is not read")
    return name


def _refuse_document_type(*_: object) -> None:
    raise DatasetError("has a document type declaration (DOCTYPE), which is not read. Remove it")


def object_of(file: Path, number: int, element: Element) -> VocObject:
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
    return VocObject(name, (x1, y1, x2, y2), difficult != 0)


def _number(file: Path, what: str, element: Element | None, *, missing: float | None = None) -> float:
    """The number in an element, such as `12`, `12.5` or `12,5`; but `1,250` could be a thousand and more."""
    if element is None and missing is not None:
        return missing
    text = "nothing" if element is None else (element.text or "").strip()
    try:
        value = float(text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        value = np.inf
    if not abs(value) < LARGEST:
        raise DatasetError(f"{file}: {what}: expected a number, got {text[:40]!r}")
    return value
