"""`rtdetr report`: write a run's learning curve and report.html anew."""

from pathlib import Path
from typing import Annotated

import typer

from rtdetr.errors import InputError


def report(run: Annotated[Path, typer.Argument(help="Output folder of 'rtdetr train'.")]) -> None:
    """Write the report of a training run anew.

    A run writes it by itself; this is for one that is still going on, or that was killed.
    """
    from rtdetr.reports.curves import draw_learning_curve
    from rtdetr.reports.metrics import METRICS_FILE
    from rtdetr.reports.page import write_page

    if not (run / METRICS_FILE).is_file():
        raise InputError(f"{run}: expected the output folder of a training run, but it has no {METRICS_FILE}")
    draw_learning_curve(run)
    typer.echo(write_page(run))
