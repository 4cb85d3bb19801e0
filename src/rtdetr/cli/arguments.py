"""Options and arguments that several verbs share."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

_log = logging.getLogger(__name__)


def _set_max_pixels(text: str | None) -> int | None:
    """Raise the limit for this process and for the worker processes that it starts."""
    if text is None:
        return None
    from rtdetr.images import allow_pixels
    from rtdetr.images.limit import parse_pixels

    count = parse_pixels(text)
    allow_pixels(count)
    return count


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        parser=str,
        metavar="COUNT",
        callback=_set_max_pixels,
        help="Most pixels of an image, such as 400M; default: about 179M, as a guard against damaged files.",
    ),
]
BadImages = Annotated[
    str,
    typer.Option(
        "--bad-images",
        help="Images of a dataset that cannot be read: error, or skip to count their objects as missed.",
    ),
]
FastResize = Annotated[
    bool,
    typer.Option(
        "--fast-resize", help="Resize with torch: faster, some pixels off by 1 of 255; not for exported files."
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Also take images in the subfolders of folders.")]

ModelFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="Network of a checkpoint that does not say it: published YAML file, config.json or model name.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|coco|voc|ids",
        help="Classes of a model that names none: annotations or names; ids: its rows are category ids; or ids:FILE.",
    ),
]
DropUnused = Annotated[
    bool, typer.Option("--drop-unused", help="Leave out class rows of no class, such as row 0 of ids that begin at 1.")
]


def find_images(sources: Sequence[str], *, recursive: bool = False) -> list[Path]:
    """Image files of paths, folders and globs; what was passed over is said on one line.

    Raises:
        InputError: as for `rtdetr.images.files.find_images`.
    """
    from rtdetr.images.files import find_images as find

    paths, skipped = find(sources, recursive=recursive)
    if text := skipped.skipped():
        _log.info("skipped: %s", text)
    return paths
