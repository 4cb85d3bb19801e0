"""HTML pages in a single file, which need neither network nor JavaScript.

The reports of runs, evaluations and data checks use these functions and share `page.css`, which supports light and dark
screens and phones. Only `element` and `concatenate` escape text; `Html` is text that is already escaped.
"""

import base64
import datetime
import html
import io
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from rtdetr.errors import InputError, RTDETRError
from rtdetr.files import write_bytes
from rtdetr.images import open_image
from rtdetr.wording import counted

_JPEG_QUALITY = 85
_EMPTY_ELEMENTS = ("img", "meta")


class Html(str):
    """A part of a page, already escaped."""

    __slots__ = ()


class Bar(NamedTuple):
    """A table cell with a bar behind its text; `share` is the bar's part of the cell width, in [0, 1]."""

    text: str
    share: float


Cell = str | int | Bar | Html


def element(tag: str, *children: str, **attributes: str) -> Html:
    """Return an element with its children. Children that are not `Html`, and all attributes, are escaped.

    Args:
        tag: name of the element.
        *children: texts and other elements.
        **attributes: a trailing underscore in a name is removed, as in `class_`.
    """
    words = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    end = "" if tag in _EMPTY_ELEMENTS else f"</{tag}>"
    return Html(f"<{tag}{words}>{concatenate(*children)}{end}")


def concatenate(*parts: str) -> Html:
    """Concatenate texts and parts of a page."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def page(title: str, *, lead: Html, sections: Mapping[str, Html]) -> str:
    """Return a complete page: title, lead, links to the sections, and the sections; empty ones are omitted."""
    filled = {name: body for name, body in sections.items() if body}
    links = [element("a", name, href=f"#{_anchor(name)}") for name in filled]
    parts = [
        concatenate(element("section", element("h2", name), body, id=_anchor(name)), "\n")
        for name, body in filled.items()
    ]
    style = resources.files("rtdetr").joinpath("page.css").read_text(encoding="utf-8")
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("header", element("h1", title), lead, element("nav", *links)),
        element("main", *parts),
        element("footer", f"Written by rtdetr, {now}."),
    )
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en") + "\n"


def save_page(path: Path, text: str, *, error: type[RTDETRError]) -> Path:
    """Write a page; undecodable bytes of file names become question marks.

    Raises:
        RTDETRError: of class `error`: the file cannot be written.
    """
    return write_bytes(path, text.encode("utf-8", errors="replace"), error=error)


def table(names: Sequence[str], rows: Sequence[Sequence[Cell]], *, text_columns: Sequence[str] = ()) -> Html:
    """Return a table. Columns are aligned as numbers, except the first one and `text_columns`."""
    classes = ["text" if name in text_columns else "" for name in names]
    head = element("tr", *(element("th", name, **_class(kind)) for name, kind in zip(names, classes, strict=True)))
    body = [element("tr", *(_cell(cell, kind) for cell, kind in zip(row, classes, strict=True))) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def settings(values: Mapping[str, Any]) -> Html:
    """Return nested settings as a collapsed table of dotted names."""
    rows = [[name, text] for name, text in _leaves(values)]
    names = ("name", "value")
    return collapsible(counted(len(values), "entry"), table(names, rows, text_columns=names)) if rows else Html()


def collapsible(summary: str, body: Html) -> Html:
    """Return content that is collapsed until the reader opens it."""
    return element("details", element("summary", summary), body)


def note(text: str) -> Html:
    """Return an explanatory paragraph."""
    return element("p", text, class_="soft")


def cards(pairs: Sequence[tuple[str, str]]) -> Html:
    """Return large numbers, each with its label."""
    texts = [element("div", element("b", value), element("span", label)) for value, label in pairs]
    return element("div", *texts, class_="cards") if texts else Html()


def photo(image: Image.Image, *, alt: str) -> Html:
    """Return a photo embedded in the page."""
    return _embedded(_jpeg(image), "jpeg", size_wh=image.size, alt=alt, class_="photo")


def figure_file(path: Path, folder: Path, *, caption: str = "", is_photo: bool = False) -> Html:
    """Return an image file embedded in the page and linked to the file; empty if it is missing or damaged.

    Args:
        path: PNG or JPEG file.
        folder: folder of the page.
        caption: text below the image.
        is_photo: embed it as JPEG, at a tenth of the size; plots stay PNG and follow the dark mode of the page.
    """
    try:
        content = path.read_bytes()
        image = open_image(content)
    except (OSError, InputError):
        return Html()
    alt = caption or path.stem.replace("_", " ")
    shown = photo(image, alt=alt) if is_photo else _embedded(content, "png", size_wh=image.size, alt=alt, class_="plot")
    return figure(element("a", shown, href=_link(path, folder)), caption)


def figure(content: Html, caption: str) -> Html:
    """Return an image with a caption, which can be empty."""
    return element("figure", content, element("figcaption", caption) if caption else Html())


def gallery(figures: Sequence[Html]) -> Html:
    """Return figures side by side, as many per row as fit."""
    return element("div", *figures, class_="gallery") if any(figures) else Html()


def file_list(folder: Path, *, without: str) -> Html:
    """Return links to the visible files and folders in a folder."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != without)
    links = [element("a", f"{path.name}{'/' * path.is_dir()}", href=_link(path, folder)) for path in paths]
    return element("p", *links, class_="files") if links else Html()


def _class(name: str) -> dict[str, str]:
    return {"class_": name} if name else {}


def _cell(cell: Cell, kind: str) -> Html:
    if isinstance(cell, Bar):
        part = 100 * max(0.0, min(cell.share, 1.0))
        return element("td", cell.text, class_="bar", style=f"--part: {part:.1f}%")
    return element("td", f"{cell:,}" if isinstance(cell, int) else cell, **_class(kind))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _embedded(content: bytes, kind: str, *, size_wh: tuple[int, int], **attributes: str) -> Html:
    data = base64.b64encode(content).decode("ascii")
    width, height = map(str, size_wh)
    return element("img", src=f"data:image/{kind};base64,{data}", width=width, height=height, **attributes)


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="JPEG", quality=_JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _link(path: Path, folder: Path) -> str:
    return urllib.parse.quote(path.relative_to(folder).as_posix())


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
