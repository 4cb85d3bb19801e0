"""`rtdetr compare`: train with several recipes under the same budget, and print which is best on this dataset."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import JsonFile, parse_size
from rtdetr.cli.output import check_targets, echo, write_json

_log = logging.getLogger(__name__)


def compare(
    data: Annotated[Path, typer.Argument(help="Dataset folder or annotation file.")],
    recipes: Annotated[
        str,
        typer.Option(
            help="Recipes to compare, separated by commas: published, finetune, scratch, deim, or settings files."
        ),
    ],
    steps: Annotated[int, typer.Option(min=1, help="Steps of each run; rounded to whole epochs.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs per recipe, with different random seeds.")] = 3,
    output_dir: Annotated[
        Path, typer.Option("--output", help="Folder for the runs. Finished runs in it are not repeated.")
    ] = Path("runs/comparison"),
    model: Annotated[
        str | None, typer.Option(help="Model name. Default: the model of --weights, else rtdetrv2_r18vd.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Starting weights: model name, file, or none.")] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="ImageNet weights of the backbone: auto, file, or none.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step. Default: 16, or down to 4 for few images.")
    ] = None,
    size_hw: Annotated[
        str | None, typer.Option("--size", help="Image size in pixels: 640, or 480x640 (height x width).")
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option(help="Any other setting of all runs, as for 'rtdetr train'. Repeatable.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1. Default: auto.")] = None,
    val_data: Annotated[
        Path | None, typer.Option(help="Dataset to evaluate on. Default: the val split of DATA.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images, per run.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time; they share the CPU cores.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Compare training recipes on a dataset.

    Trains each recipe with each seed for the same number of steps of the same batch size. Prints the mean validation AP
    and its standard deviation, the AP after equal training time, and which recipe is best. An interrupted comparison
    continues if the command is repeated.
    """
    from rtdetr.comparison import compare as compare_recipes
    from rtdetr.recipes.changes import parse_assignments

    check_targets(json_file)
    found = compare_recipes(
        data,
        [name.strip() for name in recipes.split(",") if name.strip()],
        steps=steps,
        seeds=seeds,
        output_dir=output_dir,
        jobs=jobs,
        model=model,
        weights=weights,
        backbone_weights=backbone_weights,
        batch_size=batch_size,
        size_hw=parse_size(size_hw) if size_hw else None,
        set=parse_assignments(set) if set else None,
        device=device,
        val_data=val_data,
        workers=workers,
    )
    echo(f"{found.table()}\n\n{found.verdict()}", err=json_file == "-")
    if json_file:
        write_json(found.to_json(), json_file)
    _log.info("wrote %s", found.draw(output_dir / "comparison.png"))
