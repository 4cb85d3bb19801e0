"""Pages that people open in a browser: one file each, which needs neither network nor JavaScript.

The report of a run, of an evaluation and of a data check are made of these pieces and share `page.css`, which fits
light and dark screens and phones. `element` is the one place that escapes text. `Html` is text that needs it no more.
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
from rtdetr.files import write_atomically
from rtdetr.images import open_image
from rtdetr.wording import counted

_JPEG_QUALITY = 85
_EMPTY_ELEMENTS = ("img", "meta")


class Html(str):
    """A piece of a page, in which everything is escaped."""

    __slots__ = ()


class Bar(NamedTuple):
    """A cell of a table with a bar behind its text; `share` of the cell's width, in [0, 1]."""

    text: str
    share: float


Cell = str | int | Bar | Html


def element(tag: str, *children: str, **attributes: str) -> Html:
    """One element around its children. Those that are not `Html`, and all attributes, are escaped.

    Args:
        tag: its name.
        *children: texts and other elements.
        **attributes: their names may end in an underscore, as `class_` has to.
    """
    words = "".join(f' {name.rstrip("_")}="{html.escape(value)}"' for name, value in attributes.items())
    end = "" if tag in _EMPTY_ELEMENTS else f"</{tag}>"
    return Html(f"<{tag}{words}>{together(*children)}{end}")


def together(*parts: str) -> Html:
    """Texts and pieces one after the other."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def page(title: str, *, lead: Html, sections: Mapping[str, Html]) -> str:
    """A whole page: its title, what comes first, links to the sections and these; empty ones are left out."""
    filled = {name: body for name, body in sections.items() if body}
    links = [element("a", name, href=f"#{_anchor(name)}") for name in filled]
    parts = [
        together(element("section", element("h2", name), body, id=_anchor(name)), "\n") for name, body in filled.items()
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
    """Write a page; bytes of file names that are no text become question marks.

    Raises:
        RTDETRError: of class `error`: the file cannot be written.
    """
    content = text.encode("utf-8", errors="replace")
    return write_atomically(path, lambda temporary: temporary.write_bytes(content), error=error)


def table(names: Sequence[str], rows: Sequence[Sequence[Cell]], *, text_columns: Sequence[str] = ()) -> Html:
    """Rows of cells under their names. Columns are aligned as numbers, but for the first and `text_columns`."""
    classes = ["text" if name in text_columns else "" for name in names]
    head = element("tr", *(element("th", name, **_class(kind)) for name, kind in zip(names, classes, strict=True)))
    body = [element("tr", *(_cell(cell, kind) for cell, kind in zip(row, classes, strict=True))) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def settings(values: Mapping[str, Any]) -> Html:
    """Nested settings as a folded table of dotted names."""
    rows = [[name, text] for name, text in _leaves(values)]
    names = ("name", "value")
    return folded(counted(len(values), "entry"), table(names, rows, text_columns=names)) if rows else Html()


def folded(summary: str, body: Html) -> Html:
    """Something that shows when one asks for it."""
    return element("details", element("summary", summary), body)


def note(text: str) -> Html:
    """An explanation."""
    return element("p", text, class_="soft")


def cards(pairs: Sequence[tuple[str, str]]) -> Html:
    """Numbers in large letters, each with what it says."""
    texts = [element("div", element("b", value), element("span", label)) for value, label in pairs]
    return element("div", *texts, class_="cards") if texts else Html()


def photo(image: Image.Image, *, alt: str) -> Html:
    """A photo as part of the page."""
    return _embedded(_jpeg(image), "jpeg", size_wh=image.size, alt=alt, class_="photo")


def figure_file(path: Path, folder: Path, *, caption: str = "", is_photo: bool = False) -> Html:
    """An image file as part of the page, linked with the file; nothing if it is missing or damaged.

    Args:
        path: PNG or JPEG file.
        folder: of the page.
        caption: text below it.
        is_photo: embed it as JPEG, which takes a tenth of the room; plots stay PNG, and turn dark with the page.
    """
    try:
        content = path.read_bytes()
        image = open_image(content)
    except (OSError, InputError):
        return Html()
    alt = caption or path.stem.replace("_", " ")
    plot = {"size_wh": image.size, "alt": alt, "class_": "plot"}
    shown = photo(image, alt=alt) if is_photo else _embedded(content, "png", **plot)
    return figure(element("a", shown, href=_link(path, folder)), caption)


def figure(content: Html, caption: str) -> Html:
    """An image with a text below it, which may be empty."""
    return element("figure", content, element("figcaption", caption) if caption else Html())


def gallery(figures: Sequence[Html]) -> Html:
    """Figures side by side, as many as there is room for."""
    return element("div", *figures, class_="gallery") if any(figures) else Html()


def file_list(folder: Path, *, without: str) -> Html:
    """Links to what lies in a folder."""
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
