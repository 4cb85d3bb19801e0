"""Shared code of `rtdetr export` and `rtdetr quantize`: model, file name and output."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rtdetr.cli.output import check_targets, write_json
from rtdetr.errors import one_line
from rtdetr.exported_files import ending
from rtdetr.wording import counted

if TYPE_CHECKING:
    from rtdetr.export import ExportOptions, Source
    from rtdetr.export.report import VerifyReport

_log = logging.getLogger(__name__)
REFUSED = 3  # exit status


def default_file(model: str, format: str, *, mark: str = "") -> Path:
    """Default output file: the name of the model with the suffix `mark`, in the current folder."""
    return Path(f"{Path(model.partition(':')[0]).stem}{mark}{ending(format)}")


def stated(model: str, config: str | None, classes: str | None, *, drop_unused: bool) -> "str | Source":
    """Return the model to export, opened if --config, --classes or --drop-unused is given."""
    from rtdetr.export import open_source

    if config is None and classes is None and not drop_unused:
        return model
    return open_source(model, model=config, categories=classes, drop_unused=drop_unused)


def write_and_report(
    model: "str | Source",
    path: Path,
    options: "ExportOptions",
    *,
    check: bool = True,
    images: Sequence[Path] | None,
    data: Path | None,
    on_bad_image: str,
    json_file: str | None = None,
) -> None:
    """Export a model, print the result of the check, and exit with status 3 if the check fails.

    All arguments except the last are those of `rtdetr.export.export`.

    Args:
        model: the model to export.
        path: file to write.
        options: format and settings.
        check: compare the file with the model.
        images: images for the check and for INT8 calibration.
        data: dataset for the same.
        on_bad_image: "error" or "skip".
        json_file: file for all numbers. "-" is standard output; everything else then goes to standard error.
    """
    from rich.console import Console

    from rtdetr.export import RefusedExportError, export

    check_targets(json_file)
    to_stderr = json_file == "-"

    def show(report: "VerifyReport", **more: object) -> None:
        Console(stderr=to_stderr).print(report.table())
        if report.note:
            _log.warning("%s", report.note)
        if json_file:
            write_json({**more, **report.to_json()}, json_file)

    try:
        result = export(model, path, options=options, check=check, images=images, data=data, on_bad_image=on_bad_image)
    except RefusedExportError as error:
        show(error.report, file=None)
        typer.echo(f"{one_line(error)}; {path} was not written", err=True)
        raise typer.Exit(REFUSED) from None
    if result.report is not None:
        show(result.report, file=str(result.path), kept_float=list(result.kept_float))
    elif json_file:  # nothing was compared
        write_json({"file": str(result.path), "kept_float": []}, json_file)
    if result.kept_float:
        typer.echo(f"kept in float: {', '.join(result.kept_float)}", err=to_stderr)
    nodes = "" if result.num_nodes is None else f", {counted(result.num_nodes, 'operator')}"
    typer.echo(f"{result.path}: {result.size_bytes / 1e6:.1f} MB{nodes}", err=to_stderr)
