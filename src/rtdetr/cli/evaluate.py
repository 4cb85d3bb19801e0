"""`rtdetr evaluate`: COCO average precision, errors and best score thresholds of a model on a dataset."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtdetr.cli.arguments import (
    BadBoxes,
    BadImages,
    BatchSize,
    Classes,
    Device,
    FastResize,
    Font,
    ImageFolder,
    JsonFile,
    MaxPixels,
    ModelFile,
    Nms,
    OneLabel,
    Precision,
    Size,
    Tuned,
    parse_size,
)
from rtdetr.cli.output import check_targets, echo, write_json
from rtdetr.errors import ConfigError

if TYPE_CHECKING:
    from rtdetr.data import DetectionDataset
    from rtdetr.evaluation import EvaluationReport

_log = logging.getLogger(__name__)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Model name (see 'rtdetr models'), weight file, exported file or folder.")
    ],
    data: Annotated[Path, typer.Argument(help="Folder or annotation file of a dataset.")],
    config: ModelFile = None,
    classes: Classes = None,
    split: Annotated[str, typer.Option(help="Split of the dataset folder: train, val or test.")] = "val",
    images: ImageFolder = None,
    bad_boxes: BadBoxes = "error",
    bad_images: BadImages = "error",
    max_pixels: MaxPixels = None,
    size: Size = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 8,
    fast_resize: FastResize = False,
    tuned: Tuned = False,
    one_label: OneLabel = False,
    nms: Nms = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap samples for the 95% confidence intervals. 0: no intervals.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the bootstrap.")] = 0,
    save_thresholds: Annotated[
        bool,
        typer.Option(
            "--save-thresholds",
            help="Store the best threshold per class in the checkpoint MODEL, for 'rtdetr predict --threshold auto'.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.html, its numbers, plots and the worst images.")
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw plots and the worst images in --output.")] = True,
    font: Font = None,
    detections: Annotated[Path | None, typer.Option(help="File for the detections in COCO's results format.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the average precision of a model.

    Prints COCO AP of the dataset and per class, and how much AP each kind of error costs. Classes of the model and of
    the dataset are matched by name; detections have the dataset's category ids.
    """
    from rtdetr.api import evaluate as evaluate_model
    from rtdetr.data import open_dataset
    from rtdetr.evaluation.page import write_page
    from rtdetr.exported_files import exported_format
    from rtdetr.fonts import given_face
    from rtdetr.runtimes import load
    from rtdetr.weights import read_own, store_thresholds, weights_of_run

    size_hw = parse_size(size) if size else None
    check_targets(json_file, detections, output and output / "report.json")
    if font is not None:
        given_face(font)  # fail early
    dataset = open_dataset(data, split=split, images=images, on_bad_box=bad_boxes, on_bad_image=bad_images)
    detector = load(
        model,
        model=config,
        categories=classes,
        device=device,
        precision=precision,
        one_label=one_label,
        nms_iou=nms,
        fast_resize=fast_resize,
        tuned=tuned,
    )
    weights = weights_of_run(Path(model))
    if save_thresholds:
        if exported_format(weights):
            raise ConfigError(
                f"{model} is an exported file, but thresholds are stored in checkpoints: evaluate its checkpoint with "
                "--save-thresholds, then export it again"
            )
        read_own(weights)  # fail early
    report = evaluate_model(detector, dataset, batch_size=batch_size, size_hw=size_hw)
    intervals = report.intervals(num_resamples=bootstrap, seed=seed) if bootstrap else {}
    echo(report.table(intervals=intervals), err=json_file == "-")
    document = {"model": model, "data": str(data), **report.to_json(intervals=intervals)}
    if json_file:
        write_json(document, json_file)
    if detections:
        report.save_detections(detections)
    if output:
        write_json(document, str(output / "report.json"))
        report.save_detections(output / "detections.json")
        if plots:
            _save_plots(report, dataset, output, font)
        write_page(output)
        _log.info("wrote the report to %s", output)
    if save_thresholds:
        store_thresholds(weights, report.best_f1_thresholds)
        _log.info("stored the best thresholds in %s; use them with: rtdetr predict --threshold auto", model)


def _save_plots(report: "EvaluationReport", dataset: "DetectionDataset", folder: Path, font: Path | None) -> None:
    from rtdetr.evaluation import save_plots, save_worst_images

    save_plots(report, folder, font=font)
    save_worst_images(report, dataset, folder / "worst_images", font=font)
