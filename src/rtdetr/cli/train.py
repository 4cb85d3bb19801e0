"""`rtdetr train`: train a model on a dataset, or resume a run.

Parameters of `train` have the names of the settings of `rtdetr.train` (`rtdetr.recipes.TrainSettings`).
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from rtdetr.cli.arguments import MaxPixels

if TYPE_CHECKING:
    from rtdetr.recipes import TrainSettings
    from rtdetr.training import TrainResult


def train(
    data: Annotated[
        list[Path] | None, typer.Argument(help="Dataset folder or annotation file. Several are merged.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="YAML or JSON file of settings, or a published YAML file.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model name. Default: the model of --weights, else rtdetrv2_r18vd.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output", help="Folder for the results. Default: runs/MODEL.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Run folder to resume; needs no other option. auto: resume the run in --output, if any."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that share each batch, one per GPU. Default: as in the resumed run, else 1."
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Starting weights: model name, file, or none.")] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="ImageNet weights of the backbone: auto, file, or none.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Trained detector that guides the training: model name, file, or none."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="published, finetune, scratch or deim. Default: finetune with --weights, else scratch; published for "
            "the classes of COCO."
        ),
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(help="Layers to freeze: backbone, encoder (includes backbone), or a number of stages.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, over all processes.")] = None,
    size_hw: Annotated[
        str | None, typer.Option("--size", help="Image size in pixels: 640, or 480x640 (height x width).")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Base learning rate. The rates of parameter groups scale with it.")
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option(
            help="Any other setting: train.NAME=VALUE (recipe), model.NAME=VALUE (network) or NAME=VALUE (run). "
            "Repeatable.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:1. Default: auto.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Make runs repeatable bit for bit; slower.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images. Default: 4.")] = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=0, help="Epochs between evaluations. 0: never evaluate.")
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option(help="Dataset to evaluate on. Default: the val split of DATA.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images. Default: where the dataset usually has them.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of the images of --val-data.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Folder of images without annotations, which the teacher labels.")
    ] = None,
    bad_boxes: Annotated[
        str | None,
        typer.Option(help="Boxes without area inside their image. error (default): stop. drop: ignore them."),
    ] = None,
    bad_images: Annotated[
        str | None, typer.Option(help="Unreadable images. error (default): stop. skip: use other images instead.")
    ] = None,
    max_pixels: MaxPixels = None,
    loggers: Annotated[
        list[str] | None, typer.Option("--logger", help="Experiment tracker to log to: wandb or mlflow. Repeatable.")
    ] = None,
    font: Annotated[
        Path | None, typer.Option(help="Font file for class names in images. Default: an installed font.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop before training.")] = False,
) -> None:
    """Train a model on a dataset.

    Options that you leave out come from --config, then from the recipe. Ctrl-C (exit status 130) and SIGTERM (143)
    stop the run after the current step; continue it with --resume.
    """
    options = locals()
    _launch(processes, resume=resume, output=output_dir)
    from rtdetr.api import train as train_model
    from rtdetr.cli.logs import once_per_command

    with once_per_command():
        result = train_model(list(data) if data else None, resume=resume, dry_run=dry_run, **settings_of(options))
    _print_result(result, dry_run=dry_run)


def settings_of(options: Mapping[str, Any]) -> "TrainSettings":
    """Convert command-line options, by parameter of `train`, to settings of `rtdetr.train`.

    Raises:
        ConfigError, InputError: a value of --set or --size is invalid.
    """
    from rtdetr.cli.arguments import parse_size
    from rtdetr.recipes import TrainSettings
    from rtdetr.recipes.changes import parse_assignments

    names = [name for name in TrainSettings.__annotations__ if options.get(name) not in (None, [], ())]
    settings = {name: options[name] for name in names}
    if settings.get("freeze", "").isdecimal():
        settings["freeze"] = int(settings["freeze"])
    if "size_hw" in settings:
        settings["size_hw"] = parse_size(settings["size_hw"])
    if "set" in settings:
        settings["set"] = parse_assignments(settings["set"])
    return cast("TrainSettings", settings)


def _launch(processes: int | None, *, resume: str | None, output: Path | None) -> None:
    """Start the processes of a run with several processes, and exit when they end."""
    from rtdetr.training.distributed import launch, without_option

    if processes is None and resume is not None and "RANK" not in os.environ:
        from rtdetr.reports.environment import processes_of

        run = output if resume == "auto" else Path(resume)
        processes = processes_of(run) if run is not None else None
    if processes is not None and (processes > 1 or "RANK" in os.environ):
        launch(processes, without_option("--processes", sys.argv[1:]))


def _print_result(result: "TrainResult", *, dry_run: bool) -> None:
    """Print the result in the main process, and exit with the status of the signal if there was one."""
    from rtdetr.evaluation.report import percent
    from rtdetr.training.distributed import is_main_process
    from rtdetr.training.signals import exit_status

    if result.signal is not None:
        text = f"interrupted; resume with: rtdetr train --resume {result.output_dir}"
    elif dry_run:
        text = result.plan
    elif result.best_weights is None:
        text = f"finished: {result.last_weights}"
    elif result.best_ap is None:
        text = f"finished: AP cannot be measured without objects; {result.best_weights} has the last weights"
    else:
        text = f"finished: best AP {percent(result.best_ap)}, {result.best_weights}"
    if is_main_process():
        typer.echo(text)
    if result.signal is not None:
        raise typer.Exit(exit_status(result.signal))
