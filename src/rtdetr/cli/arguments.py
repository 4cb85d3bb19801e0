"""Options and arguments shared by several commands."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtdetr.errors import InputError

if TYPE_CHECKING:
    from rtdetr.categories import Categories

_log = logging.getLogger(__name__)


def _set_max_pixels(text: str | None) -> int | None:
    """Set the image size limit for this process and for worker processes that it starts."""
    if text is None:
        return None
    from rtdetr.images import allow_pixels
    from rtdetr.images.decode import parse_pixels

    count = parse_pixels(text, source="--max-pixels")
    allow_pixels(count)
    return count


MaxPixels = Annotated[
    int | None,
    typer.Option(
        "--max-pixels",
        parser=str,
        metavar="COUNT",
        callback=_set_max_pixels,
        help="Maximum number of pixels per image, such as 400M. Default: about 179M, as a guard against damaged files.",
    ),
]
BadBoxes = Annotated[
    str,
    typer.Option("--bad-boxes", help="Boxes without area inside their image. error: stop. drop: ignore these boxes."),
]
BadImages = Annotated[
    str,
    typer.Option("--bad-images", help="Unreadable images. error: stop. skip: count their objects as missed."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images per batch.")]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="FILE|coco|voc|ids",
        help="Class names, if the model stores none: annotation file or list of names. ids or ids:FILE: "
        "class rows are category ids.",
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda or cuda:1. auto is the first GPU, or the CPU if there is none."),
]
DropUnused = Annotated[
    bool,
    typer.Option("--drop-unused", help="Remove class rows without a class, such as row 0 if category ids begin at 1."),
]
FastResize = Annotated[
    bool,
    typer.Option(
        "--fast-resize",
        help="Resize with torch: faster, but some pixel values differ by 1 (of 255). Not for exported files.",
    ),
]
Font = Annotated[
    Path | None, typer.Option("--font", help="Font file for class names in images. Default: an installed font.")
]
ImageFolder = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images. Default: where the dataset usually has them.")
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="File for the results as JSON. -: print JSON to standard output instead of text."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ModelFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="Network, if the checkpoint does not store it: model name, config.json or published YAML file.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, float32, bfloat16 or float16. auto is float16 on GPUs, bfloat16 on CPUs with AMX, else float32.",
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Include images in subfolders.")]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Network input in pixels: 640, or 480x640 (height x width). Default: the model's own."),
]
Nms = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="NMS IoU threshold, per class. Default: no NMS.")]
OneLabel = Annotated[bool, typer.Option("--one-label", help="Keep only the best class of each query.")]
Tuned = Annotated[
    bool,
    typer.Option(
        "--tuned",
        help="Run lists of images with the settings that 'benchmark --throughput --save-tuned' has stored.",
    ),
]


def parse_size(text: str, *, option: str = "--size") -> tuple[int, int]:
    """Parse "640" or "480x640" as height and width; messages name the option.

    Raises:
        InputError: the text has another form.
    """
    height, cross, width = text.lower().partition("x")
    if not (height.isdecimal() and (width.isdecimal() or not cross)):
        raise InputError(f"{option}: expected a size like 640 or 480x640 (height x width), got {text!r}")
    return int(height), int(width or height)


def hint_at_classes(model: str, categories: "Categories") -> None:
    """Warn how to name the classes of a model whose weights do not store names."""
    if categories == type(categories).numbered(len(categories)):
        _log.warning("%s does not name its classes: using class 0, class 1, ... Name them with --classes", model)
