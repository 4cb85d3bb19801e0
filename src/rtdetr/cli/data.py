"""`rtdetr data`: check datasets and write clean copies."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import ImageFolder, JsonFlag, MaxPixels, parse_size
from rtdetr.cli.output import echo, write_json
from rtdetr.errors import ConfigError

log = logging.getLogger(__name__)
data = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@data.callback()
def _group() -> None:
    """Check and clean datasets."""


@data.command()
def check(
    source: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Folder or annotation file: COCO, YOLO or Pascal VOC.")
    ],
    images: ImageFolder = None,
    max_pixels: MaxPixels = None,
    size: Annotated[str, typer.Option(help="Network input in pixels: 640, or 480x640 (height x width).")] = "640",
    queries: Annotated[
        int, typer.Option(min=1, help="Object queries of the model: the most objects it can detect per image.")
    ] = 300,
    examples: Annotated[int, typer.Option(min=1, help="Maximum number of examples per finding.")] = 8,
    html: Annotated[Path | None, typer.Option(help="HTML file for a report with images of the findings.")] = None,
    as_json: JsonFlag = False,
    fix_out: Annotated[
        Path | None, typer.Option("--fix", metavar="OUT", help="New folder for a cleaned copy in COCO format.")
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the copy even if a split loses over 5% of its images or boxes.")
    ] = False,
) -> None:
    """Check a dataset before training.

    Reads all splits and images, and changes nothing. Several annotation files are the splits of one dataset.

    The exit status is 0 for sound data (notes do not count), 1 for errors or warnings, and 2 if DATA cannot be read.
    With --fix, the copy is checked too and decides the exit status; 2 if too much would be lost.
    """
    from rtdetr.data.doctor import check as examine
    from rtdetr.data.doctor import fix
    from rtdetr.data.doctor.fix import summary
    from rtdetr.data.doctor.page import refuse_other_files

    if allow_loss and not fix_out:
        raise ConfigError("--allow-loss needs --fix: add --fix OUT, or omit --allow-loss")
    size_hw = parse_size(size)
    if html:
        refuse_other_files(html)
    report = examine(source, images=images, size_hw=size_hw, queries=queries, max_examples=examples)
    if as_json:
        write_json(report.to_json(), "-")
    else:
        echo(report.text())
    if html:
        log.info("wrote the page with images to %s", report.save_html(html))
    if fix_out:
        changes = fix(report, fix_out, allow_loss=allow_loss)
        echo(f"\nWrote {fix_out}. Changes, listed in its changes.txt: {len(changes)}\n{summary(changes)}", err=as_json)
        report = examine(fix_out, size_hw=size_hw, queries=queries, max_examples=examples)
        echo(f"Result for the copy: {report.verdict()}", err=as_json)
    if not report.sound:
        raise typer.Exit(1)
