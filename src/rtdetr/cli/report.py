"""`rtdetr report`: rebuild a run's learning curve and report.html."""

from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import JsonFlag
from rtdetr.cli.output import echo, write_json
from rtdetr.errors import InputError


def report(
    run: Annotated[Path, typer.Argument(help="Output folder of 'rtdetr train'.")],
    as_json: JsonFlag = False,
) -> None:
    """Rebuild the report of a training run.

    A run writes its report itself. Use this to update the report of a running or killed run.
    """
    from rtdetr.reports.curves import draw_learning_curve
    from rtdetr.reports.metrics import METRICS_FILE
    from rtdetr.reports.page import write_page

    if not (run / METRICS_FILE).is_file():
        raise InputError(f"{run}: expected the output folder of a training run, but it has no {METRICS_FILE}")
    draw_learning_curve(run)
    page = write_page(run)
    if as_json:
        write_json({"run": str(run), "report": str(page)}, "-")
    else:
        echo(page)
