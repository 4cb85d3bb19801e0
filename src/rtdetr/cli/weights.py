"""`rtdetr weights`: weight files between the official, Hugging Face's and our own format."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import Classes, DropUnused
from rtdetr.wording import counted

log = logging.getLogger(__name__)
weights = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@weights.callback()
def _group() -> None:
    """Convert weight files."""


@weights.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Zoo name, .pth, .safetensors, or Hugging Face folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".pth or .safetensors file, or a folder.")],
    model: Annotated[
        str | None, typer.Option(help="Zoo name or YAML file of the network, where IN does not say.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="rtdetr, official or huggingface; default: by OUT's name.")
    ] = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
) -> None:
    """Rewrite weights in another format, every learned value unchanged.

    A folder is written in Hugging Face's layout and loads with transformers' from_pretrained; a .pth file loads in the
    official tools and here. Constants that IN lacks are generated.
    """
    from rtdetr.weights import convert as rewrite

    result = rewrite(source, target, model=model, format=format_, categories=classes, drop_unused=drop_unused)
    for note in result.notes:
        log.warning(note)
    config = result.config
    typer.echo(
        f"{result.path}: {counted(result.num_entries, 'entry')} of {config.name} "
        f"({config.version}, {counted(config.num_classes, 'class')}), format {result.format}"
    )
