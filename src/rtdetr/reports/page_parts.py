"""Pieces of HTML for report.html (`page.py`): tables, pictures and settings. Every text of others is escaped here."""

import base64
import html
import io
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtdetr.errors import InputError
from rtdetr.images import open_image
from rtdetr.wording import counted

_JPEG_QUALITY = 88


class Bar(NamedTuple):
    """A cell of a table with a bar behind its text; `share` of the cell's width, in [0, 1]."""

    text: str
    share: float


def table(names: Sequence[str], rows: Sequence[Sequence[str | Bar]]) -> str:
    """A table of texts and bars under a row of names."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def settings(values: Mapping[str, Any]) -> str:
    """Nested settings as a folded table of dotted names."""
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="text">{html.escape(text)}</td></tr>'
        for name, text in _leaves(values)
    )
    return f"<details><summary>{counted(len(values), 'entry')}</summary><table>{rows}</table></details>" if rows else ""


def folded(summary: str, body: str) -> str:
    """Something that shows when one asks for it."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def note(text: str) -> str:
    """An explanation."""
    return f'<p class="soft">{html.escape(text)}</p>'


def cards(pairs: Sequence[tuple[str, str]]) -> str:
    """Numbers in large letters, each with what it says."""
    texts = [f"<div><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>" for value, label in pairs]
    return f'<div class="cards">{"".join(texts)}</div>' if texts else ""


def figure(path: Path, folder: Path, *, caption: str = "", is_photo: bool = False) -> str:
    """A picture as a part of the page, linked with its file; nothing if it is missing or damaged.

    Args:
        path: PNG file.
        folder: of the page.
        caption: text below it.
        is_photo: embed it as JPEG, which takes a tenth of the room.
    """
    try:
        content, kind = path.read_bytes(), "png"
        image = open_image(content)
    except (OSError, InputError):
        return ""
    width, height = image.size
    if is_photo:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
        content = buffer.getvalue()
    data = base64.b64encode(content).decode("ascii")
    alt = html.escape(caption or path.stem.replace("_", " "))
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><a href="{_link(path, folder)}"><img src="data:image/{kind};base64,{data}" width="{width}" '
        f'height="{height}" alt="{alt}"></a>{below}</figure>'
    )


def gallery(figures: Sequence[str]) -> str:
    """Pictures side by side, as many as there is room for."""
    return f'<div class="photos">{"".join(figures)}</div>' if any(figures) else ""


def file_list(folder: Path, *, without: str) -> str:
    """Links to what lies in a folder."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != without)
    links = [f'<a href="{_link(path, folder)}">{html.escape(path.name)}{"/" * path.is_dir()}</a>' for path in paths]
    return f'<p class="files">{" ".join(links)}</p>' if links else ""


def _cell(cell: str | Bar) -> str:
    if isinstance(cell, Bar):
        part = 100 * max(0.0, min(cell.share, 1.0))
        return f'<td class="bar" style="--part: {part:.1f}%">{html.escape(cell.text)}</td>'
    return f"<td>{html.escape(cell)}</td>"


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _link(path: Path, folder: Path) -> str:
    return urllib.parse.quote(path.relative_to(folder).as_posix())
