"""`rtdetr data`: look after data sets."""

import json
import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import MaxPixels
from rtdetr.errors import ConfigError

log = logging.getLogger(__name__)
data = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@data.callback()
def _group() -> None:
    """Examine and clean data sets."""


@data.command()
def check(
    source: Annotated[
        list[Path], typer.Argument(metavar="DATA", help="Folder or annotation file: COCO, YOLO or Pascal VOC.")
    ],
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not in a usual place.")] = None,
    max_pixels: MaxPixels = None,
    size: Annotated[str, typer.Option(help="Network input: 640, or 480x640 (height x width).")] = "640",
    queries: Annotated[int, typer.Option(min=1, help="Objects that the model can find in an image.")] = 300,
    examples: Annotated[int, typer.Option(min=1, help="Examples of each finding.")] = 8,
    html: Annotated[Path | None, typer.Option(help="File for a page with pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    fix_out: Annotated[
        Path | None, typer.Option("--fix", metavar="OUT", help="New folder for a cleaned copy, in COCO form.")
    ] = None,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Write the copy even if over 5% of a split's images or boxes are lost.")
    ] = False,
) -> None:
    """Examine a data set before it is trained on.

    Reads every split and every image, and changes nothing. Several files are taken for splits of one data set. The exit
    status is 0 for sound data (notes do not count), 1 where errors or warnings are found, 2 where DATA cannot be read.
    With --fix it is that of the copy, which is examined too, and 2 if too much would be lost.
    """
    from rtdetr.cli.predict import parse_size
    from rtdetr.data.doctor import check as examine
    from rtdetr.data.doctor import fix
    from rtdetr.data.doctor.fix import summary
    from rtdetr.data.doctor.page import refuse_other_files

    if allow_loss and not fix_out:
        raise ConfigError("--allow-loss is for a cleaned copy: give its folder with --fix OUT, or leave it out")
    size_hw = parse_size(size)
    if html:
        refuse_other_files(html)
    report = examine(source, images=images, size_hw=size_hw, queries=queries, max_examples=examples)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report.text())
    if html:
        log.info("the page with pictures is %s", report.save_html(html))
    if fix_out:
        changes = fix(report, fix_out, allow_loss=allow_loss)
        typer.echo(
            f"\nWrote {fix_out}. Changes, listed in its changes.txt: {len(changes)}\n{summary(changes)}", err=as_json
        )
        report = examine(fix_out, size_hw=size_hw, queries=queries, max_examples=examples)
        typer.echo(f"Of the copy: {report.verdict()}", err=as_json)
    if not report.sound:
        raise typer.Exit(1)
