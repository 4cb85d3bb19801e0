"""`rtdetr train`: train a model on a dataset, or go on with a run."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rtdetr.cli.arguments import MaxPixels

if TYPE_CHECKING:
    from rtdetr.recipes import TrainSettings


def train(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Dataset: folder or annotation file; several are joined.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML or JSON file with settings, or a published one.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name; default: rtdetrv2_r18vd, or that of --weights.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results; default: runs/MODEL.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Folder of a run to go on with; needs no other option. auto: that of --output, if any."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that share each batch: as many as GPUs to use; --resume keeps the number."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Start from a model name, a file, or none.")] = None,
    backbone_weights: Annotated[str | None, typer.Option(help="ImageNet weights: auto, a file, or none.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="published, finetune, deim; default: finetune with --weights, else published.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Do not train: backbone, encoder (and backbone), or a number of stages.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length of the run.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step, over all processes.")] = None,
    size: Annotated[str | None, typer.Option(help="Image size: 640, or 480x640 (height x width).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; the groups' own rates follow in proportion.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="train.NAME=VALUE of the recipe, model.NAME=VALUE of the network, NAME=VALUE of the run; repeat it.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is random.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Repeat a run bit for bit; slower.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images; default: 4.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(min=0, help="Epochs between evaluations; 0: never.")] = None,
    val_data: Annotated[Path | None, typer.Option(help="Dataset to evaluate, if not the val part of DATA.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not in a usual place.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="The same for --val-data.")] = None,
    bad_boxes: Annotated[str | None, typer.Option(help="Boxes without area in their image: error or drop.")] = None,
    bad_images: Annotated[
        str | None, typer.Option(help="Images that cannot be read: error, or skip to show others instead.")
    ] = None,
    max_pixels: MaxPixels = None,
    logger: Annotated[
        list[str] | None, typer.Option(help="Report to an experiment tracker too: wandb, mlflow; repeat it.")
    ] = None,
    font: Annotated[
        Path | None, typer.Option(help="Font file for class names in images; default: installed ones.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop there.")] = False,
) -> None:
    """Train a model on a dataset.

    What is not given is as in --config, else as in the recipe. Ctrl-C and SIGTERM end the run after the step under way,
    to be continued with --resume; the exit status is 130 or 143 then.
    """
    from rtdetr.training.distributed import is_main_process, launch, without_option

    if processes is None and resume is not None and "RANK" not in os.environ:
        from rtdetr.reports.environment import processes_of

        run = output if resume == "auto" else Path(resume)
        processes = processes_of(run) if run is not None else None
    if processes is not None and (processes > 1 or "RANK" in os.environ):
        launch(processes, without_option("--processes", sys.argv[1:]))

    from rtdetr.api import train as train_model
    from rtdetr.evaluation.report import percent
    from rtdetr.run_files import PLAN_FILE
    from rtdetr.training.signals import exit_status

    settings = settings_of(
        config=config,
        model=model,
        output=output,
        weights=weights,
        backbone_weights=backbone_weights,
        recipe=recipe,
        freeze=freeze,
        epochs=epochs,
        batch_size=batch_size,
        size=size,
        lr=lr,
        set_=set_,
        device=device,
        precision=precision,
        seed=seed,
        deterministic=deterministic,
        workers=workers,
        evaluate_every=evaluate_every,
        val_data=val_data,
        images=images,
        val_images=val_images,
        bad_boxes=bad_boxes,
        bad_images=bad_images,
        max_pixels=max_pixels,
        logger=logger,
        font=font,
    )
    result = train_model(list(data) if data else None, resume=resume, dry_run=dry_run, **settings)
    if result.signal is not None:
        if is_main_process():
            typer.echo(f"interrupted; go on with: rtdetr train --resume {result.output_dir}")
        raise typer.Exit(exit_status(result.signal))
    if not is_main_process():
        return
    if dry_run:
        typer.echo((result.output_dir / PLAN_FILE).read_text(encoding="utf-8"), nl=False)
    elif result.best_weights is None:
        typer.echo(f"finished: {result.last_weights}")
    elif result.best_ap is None:
        typer.echo(f"finished: AP cannot be measured without objects, {result.best_weights} has the last weights")
    else:
        typer.echo(f"finished: best AP {percent(result.best_ap)}, {result.best_weights}")


def settings_of(
    *,
    output: Path | None,
    freeze: str | None,
    size: str | None,
    set_: list[str] | None,
    logger: list[str] | None,
    **others: Any,
) -> "TrainSettings":
    """What the options of the command line are as settings of `rtdetr.train`; those named here have other names there.

    Raises:
        ConfigError, InputError: a value of --set or --size that cannot be read.
    """
    from rtdetr.cli.predict import parse_size
    from rtdetr.recipes.changes import parse_assignments

    settings = {
        **others,
        "output_dir": output,
        "freeze": int(freeze) if freeze is not None and freeze.isdecimal() else freeze,
        "size_hw": parse_size(size) if size else None,
        "set": parse_assignments(list(set_ or ())),  # older releases of typer give a tuple
        "loggers": logger,
    }
    return cast("TrainSettings", settings)
