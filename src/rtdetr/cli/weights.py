"""`rtdetr weights`: convert weight files between the official format, Hugging Face's and ours."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import Classes, DropUnused, JsonFlag
from rtdetr.cli.output import echo, write_json
from rtdetr.wording import counted

log = logging.getLogger(__name__)
weights = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@weights.callback()
def _group() -> None:
    """Convert weight files."""


@weights.command()
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Model name, .pth or .safetensors file, or Hugging Face folder.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".pth or .safetensors file, or folder.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Network of a checkpoint that does not store it: model name, config.json or published YAML file."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="rtdetr, official or huggingface. Default: rtdetr for a .pth file, else huggingface."
        ),
    ] = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
    as_json: JsonFlag = False,
) -> None:
    """Convert weights to another format.

    Learned values do not change; constants that IN lacks are computed. A folder is written in Hugging Face's layout
    and loads with transformers' from_pretrained. A .pth file loads in the published code and in this library.
    """
    from rtdetr.weights import convert as rewrite

    result = rewrite(source, target, model=model, format=format_, categories=classes, drop_unused=drop_unused)
    for note in result.notes:
        log.warning(note)
    config = result.config
    if as_json:
        written = {"file": str(result.path), "format": result.format, "num_entries": result.num_entries}
        network = {"model": config.name, "version": config.version, "num_classes": config.num_classes}
        write_json({**written, **network, "notes": result.notes}, "-")
        return
    echo(
        f"{result.path}: {counted(result.num_entries, 'entry')} of {config.name} "
        f"({config.version}, {counted(config.num_classes, 'class')}), format {result.format}"
    )
