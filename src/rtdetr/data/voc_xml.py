"""Read one XML file of a Pascal VOC dataset: the name and size of an image and its objects.

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
_ENCODINGS = re.compile(r"ascii|(iso8859|koi8|cp|gb|big5|shift_jis|euc_)\w*(-\d+|-[ru])?")  # Python's names
_DECIMAL_COMMA = re.compile(r"[-+]?(?![1-9]\d{0,2},\d{3}$)\d+,\d+")


class VocObject(NamedTuple):
    """One object of an XML file."""

    name: str
    corners: tuple[float, float, float, float]  # as in the file
    difficult: bool


class VocFile(NamedTuple):
    """Content of one XML file."""

    file_name: str
    size_wh: tuple[int, int] | None
    objects: dict[int, VocObject]  # by number in the file, from 1
    num_listed: int  # objects in the file, including invalid ones


def read_xml(file: Path) -> tuple[VocFile | None, list[tuple[str, str]]]:
    """Read one XML file.

    Returns:
        Its content without invalid objects, or None if the file cannot be read; and its problems: kinds of finding
        (doctor/findings.py) and messages.
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
    """Return the image that an XML file names: the `filename`, else the `path`; empty if it has neither."""
    texts = (root.findtext(key) or "" for key in ("filename", "path"))
    return next(filter(None, (text.strip().replace("\0", "") for text in texts)), "")


def size_of(file: Path, root: Element) -> tuple[int, int] | None:
    """Return the width and height that an XML file states, in pixels; None if it states none."""
    size = tuple(_number(file, "size", root.find(f"size/{side}"), missing=0.0) for side in ("width", "height"))
    if not all(side.is_integer() and 0 <= side < LARGEST for side in size):
        raise DatasetError(f"{file}: expected width and height in whole pixels, got {size[0]:.10g}x{size[1]:.10g}")
    return (int(size[0]), int(size[1])) if 0 not in size else None


def load_xml(file: Path) -> Element:
    """Parse an XML file; one with a document type is rejected, because entities could make a small file fill memory."""
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
        raise DatasetError(f"{file}: expected a VOC annotation, but it is not valid XML: {error}") from None
    text = decode_text(content, source=file, error=DatasetError, declared=declared)
    try:
        parser.Parse(text, True)  # for text, expat ignores the declared encoding
        return builder.close()
    except DatasetError as error:
        raise DatasetError(f"{file}: {error}") from None
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DatasetError(f"{file}: expected a VOC annotation, but it is not valid XML: {error}") from None


def _declared_encoding(content: bytes) -> str | None:
    """Return the encoding in an XML declaration; None for UTF-8 and UTF-16, which are detected from the content.

    Raises:
        LookupError: there is no such encoding.
    """
    declared = _DECLARATION.match(content)
    name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    if name.startswith(("utf-8", "utf-16")):
        return None
    if not _ENCODINGS.fullmatch(name):
        raise LookupError(f"encoding {name} is not supported")
    return name


def _refuse_document_type(*_: object) -> None:
    raise DatasetError("the document type declaration (DOCTYPE) is not supported. Remove it")


def object_of(file: Path, number: int, element: Element) -> VocObject:
    """Parse the `number`-th object element of a file."""
    name = (element.findtext("name") or "").strip()
    where = f"object {number} ({name!r})" if name else f"object {number}"
    if not name:
        raise DatasetError(f"{file}: {where} has no name; expected a class name")
    box = element.find("bndbox")
    if box is None:
        raise DatasetError(f"{file}: {where} has no bndbox; expected one with {', '.join(_CORNERS)}")
    x1, y1, x2, y2 = (_number(file, f"{where}: {corner}", box.find(corner)) for corner in _CORNERS)
    difficult = _number(file, f"{where}: difficult", element.find("difficult"), missing=0.0)
    return VocObject(name, (x1, y1, x2, y2), difficult != 0)


def _number(file: Path, what: str, element: Element | None, *, missing: float | None = None) -> float:
    """Parse the number in an element, such as `12`, `12.5` or `12,5`; `1,250` is ambiguous and rejected."""
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
