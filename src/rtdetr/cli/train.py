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
        list[Path] | None, typer.Argument(help="Dataset: folder or annotation file. Several are joined.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML or JSON file of settings, or a published YAML file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name. Default: that of --weights, or else rtdetrv2_r18vd.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results. Default: runs/MODEL.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Run folder to resume; needs no other option. auto: that of --output, if there is one."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that share each batch, one per GPU. Default: 1, or as many as the resumed run had."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Starting weights: model name, file, or none.")] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="ImageNet weights of the backbone: auto, file, or none.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="published, finetune or deim. Default: finetune with --weights, else published.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Layers to freeze: backbone, encoder (includes backbone), or a number of stages.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, over all processes.")] = None,
    size: Annotated[str | None, typer.Option(help="Image size in pixels: 640, or 480x640 (height x width).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Those of parameter groups scale with it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="train.NAME=VALUE of the recipe, model.NAME=VALUE of the network, NAME=VALUE of the run. Repeatable.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Make runs repeatable bit for bit; slower.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images. Default: 4.")] = None,
    evaluate_every: Annotated[int | None, typer.Option(min=0, help="Epochs between evaluations. 0: never.")] = None,
    val_data: Annotated[
        Path | None, typer.Option(help="Dataset to evaluate on. Default: the val split of DATA.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images. Default: where the dataset usually has them.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of the images of --val-data.")] = None,
    bad_boxes: Annotated[
        str | None, typer.Option(help="Boxes without area inside their image: error stops, drop leaves them out.")
    ] = None,
    bad_images: Annotated[
        str | None, typer.Option(help="Unreadable images: error stops, skip replaces them by others.")
    ] = None,
    max_pixels: MaxPixels = None,
    logger: Annotated[
        list[str] | None, typer.Option(help="Experiment tracker to log to: wandb or mlflow. Repeatable.")
    ] = None,
    font: Annotated[
        Path | None, typer.Option(help="Font file for class names in images. Default: an installed font.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop before training.")] = False,
) -> None:
    """Train a model on a dataset.

    Options that you leave out come from --config, then from the recipe. Ctrl-C and SIGTERM stop the run after the
    current step; continue it with --resume. The exit status is then 130 or 143.
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
