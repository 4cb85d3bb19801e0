"""`rtdetr train`: train a model on a dataset, or go on with a run."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    data: Annotated[Path | None, typer.Argument(help="Folder or annotation file of a dataset in COCO format.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name; default: rtdetrv2_r18vd, or that of --weights.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/MODEL.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with; needs no other option.")] = None,
    weights: Annotated[str | None, typer.Option(help="Start from a model name, a file, or none.")] = None,
    backbone_weights: Annotated[str | None, typer.Option(help="ImageNet weights: auto, a file, or none.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
    size: Annotated[str | None, typer.Option(help="Image size: 640, or 480x640 (height x width).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the groups' own rates follow in proportion.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the recipe; may be repeated.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is random.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images; default: 4.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(min=0, help="Epochs between evaluations; 0: never.")] = None,
    val_data: Annotated[Path | None, typer.Option(help="Dataset to evaluate, if not the val part of DATA.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not in a usual place.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="The same for --val-data.")] = None,
    bad_boxes: Annotated[str | None, typer.Option(help="Boxes without area in their image: error or drop.")] = None,
) -> None:
    """Train a model on a dataset in COCO format.

    What is not given is as in the model's published recipe. Ctrl-C ends the run after the step under way, to be
    continued with --resume.
    """
    from rtdetr.api import train as train_model
    from rtdetr.cli.predict import parse_size
    from rtdetr.training.recipe import parse_assignments

    result = train_model(
        data,
        resume=resume,
        model=model,
        output_dir=output,
        weights=None if weights == "none" else weights,
        backbone_weights=None if backbone_weights == "none" else backbone_weights,
        epochs=epochs,
        batch_size=batch_size,
        size_hw=parse_size(size) if size else None,
        lr=lr,
        recipe=parse_assignments(set_ or []),
        device=device,
        precision=precision,
        seed=seed,
        workers=workers,
        evaluate_every=evaluate_every,
        val_data=val_data,
        images=images,
        val_images=val_images,
        bad_boxes=bad_boxes,
    )
    if not result.finished:
        typer.echo(f"stopped early; go on with: rtdetr train --resume {result.output_dir}")
    elif result.best_weights is None:
        typer.echo(f"finished: {result.last_weights}")
    else:
        typer.echo(f"finished: best AP {result.best_ap:.3f}, {result.best_weights}")
