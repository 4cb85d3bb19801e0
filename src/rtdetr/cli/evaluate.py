"""`rtdetr evaluate`: COCO average precision of a model on a dataset."""

import json
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.predict import parse_size


def evaluate(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    data: Annotated[Path, typer.Argument(help="Folder or annotation file of a dataset in COCO format.")],
    split: Annotated[str, typer.Option(help="Part of the dataset folder: train, val or test.")] = "val",
    images: Annotated[Path | None, typer.Option(help="Folder of the images, if not in a usual place.")] = None,
    bad_boxes: Annotated[str, typer.Option(help="Boxes without area in their image: error or drop.")] = "error",
    size: Annotated[str | None, typer.Option(help="Network input: 640, or 480x640 (height x width).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 8,
    detections: Annotated[Path | None, typer.Option(help="File for the detections, in COCO's results format.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
) -> None:
    """Measure a model's COCO average precision on a dataset.

    The model's classes are matched with the dataset's by name; --detections has the dataset's own category ids.
    """
    from rtdetr.api import evaluate as evaluate_model
    from rtdetr.data import open_dataset

    size_hw = parse_size(size) if size else None
    dataset = open_dataset(data, split=split, images=images, on_bad_box=bad_boxes)
    report = evaluate_model(model, dataset, batch_size=batch_size, device=device, precision=precision, size_hw=size_hw)
    typer.echo(json.dumps(report.metrics._asdict(), indent=1) if as_json else report.table())
    if detections:
        report.save_detections(detections)
