"""`rtdetr export`: write a model as a file for ONNX Runtime, OpenVINO, TensorRT or PyTorch, compared with the model."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtdetr.cli.predict import find_images, parse_size
from rtdetr.errors import ConfigError, nearest

if TYPE_CHECKING:
    from rtdetr.export import ExportResult
    from rtdetr.export.verify import VerifyReport

_log = logging.getLogger(__name__)
AXES = {"batch": "dynamic_batch", "size": "dynamic_size"}
REFUSED = 3  # exit status


def export(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    format: Annotated[str, typer.Option(help="onnx, openvino, tensorrt or torch.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; its name by default that of the model.")
    ] = None,
    dynamic: Annotated[str, typer.Option(help="Axes left free: batch, size, or batch,size.")] = "",
    size: Annotated[str | None, typer.Option(help="Network input: 640, or 480x640 (height x width).")] = None,
    opset: Annotated[
        int, typer.Option(help="ONNX operator set, 13 or higher; below 16 the graph has no GridSample.")
    ] = 18,
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16 or int8, where the format has it.")] = "fp32",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Take a uint8 picture of any size and resize it in the graph.")
    ] = False,
    postprocess: Annotated[
        str, typer.Option(help="boxes: labels, boxes in pixels, scores; raw: logits and normalised boxes.")
    ] = "boxes",
    sampling: Annotated[str | None, typer.Option(help="bilinear or discrete, if not as trained.")] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers to run, if not all.")] = None,
    queries: Annotated[int | None, typer.Option(help="Object queries, if not those of the model.")] = None,
    nms: Annotated[
        float | None, typer.Option(help="Give boxes that overlap a better one of their class more the score 0.")
    ] = None,
    gather_only: Annotated[
        bool, typer.Option("--gather-only", help="No GridSample, and at most 4 dimensions, whatever the opset.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Compare the detections with PyTorch's before the file appears.")] = True,
    images: Annotated[
        list[str] | None, typer.Option(help="Pictures for the check: files, folders or globs in quotes.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Dataset for the check, to compare AP too.")] = None,
) -> None:
    """Write a model as a file for another runtime.

    Its detections are compared with those of the model in PyTorch, in float32. If they differ by more than the
    precision explains, no file is written and the exit status is 3.
    """
    if format not in _FORMATS:
        raise ConfigError(f"unknown format {format!r}.{nearest(format, _FORMATS)} Known: {', '.join(_FORMATS)}.")
    from rtdetr.export import ExportOptions
    from rtdetr.export import export as export_model
    from rtdetr.export.export import SUFFIXES, RefusedExportError

    values: dict[str, Any] = {
        "format": format,
        "size_hw": parse_size(size) if size else None,
        "opset": opset,
        "precision": precision,
        "preprocess": preprocess,
        "postprocess": postprocess,
        "sampling": sampling,
        "num_layers": layers,
        "num_queries": queries,
        "nms_iou": nms,
        "gather_only": gather_only,
    }
    options = ExportOptions(**values, **parse_axes(dynamic))
    pictures = find_images(images) if images else None
    path = output or Path(Path(model.partition(":")[0]).stem + SUFFIXES[format])
    try:
        result = export_model(model, path, options=options, check=check, images=pictures, data=data)
    except RefusedExportError as error:
        _print_report(error.report)
        typer.echo(f"{type(error).__name__}: {error}; {path} was not written", err=True)
        raise typer.Exit(REFUSED) from None
    _print_result(result)


_FORMATS = ("onnx", "openvino", "tensorrt", "torch")


def parse_axes(text: str) -> dict[str, Any]:
    """Read "batch", "size" or "batch,size" as settings.

    Raises:
        ConfigError: anything else.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    for name in names:
        if name not in AXES:
            raise ConfigError(f"--dynamic: unknown axis {name!r}.{nearest(name, AXES)} Known: {', '.join(AXES)}.")
    return {AXES[name]: True for name in names}


def _print_result(result: "ExportResult") -> None:
    if result.report is not None:
        _print_report(result.report)
    nodes = "" if result.num_nodes is None else f", {result.num_nodes} operators"
    typer.echo(f"{result.path}: {result.size_bytes / 1e6:.1f} MB{nodes}")


def _print_report(report: "VerifyReport") -> None:
    from rich.console import Console

    Console().print(report.table())
    if report.note:
        _log.warning("%s", report.note)
