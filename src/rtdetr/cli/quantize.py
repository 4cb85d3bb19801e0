"""`rtdetr quantize`: write a model in INT8, calibrated on pictures, with its AP before and after."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.predict import find_images, parse_size, write_json
from rtdetr.errors import ConfigError, nearest

_log = logging.getLogger(__name__)
_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def quantize(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    data: Annotated[Path, typer.Argument(help="Folder or annotation file of a dataset: AP is measured on its val.")],
    format: Annotated[str, typer.Option(help="onnx or openvino.")] = "openvino",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default the name of the model and _int8.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Largest loss of AP.")] = 0.01,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="Pictures to calibrate on: files, folders or globs. Default: the train split."),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="At most so many of them.")] = 100,
    size: Annotated[str | None, typer.Option(help="Network input: 640, or 480x640 (height x width).")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="As TensorRT needs it: ranges around zero.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="File for all numbers; - is stdout.")] = None,
) -> None:
    """Write a model in 8-bit integers for ONNX Runtime or OpenVINO.

    The decoder stays in float. If more than --max-drop of AP is lost, stages of the network go back to float, the
    worst first, until the loss is small enough.
    """
    if format not in _SUFFIXES:
        raise ConfigError(f"unknown format {format!r}.{nearest(format, _SUFFIXES)} Known: {', '.join(_SUFFIXES)}.")
    from rich.console import Console

    from rtdetr.export import ExportOptions
    from rtdetr.export.quantize import quantize as quantize_model

    done = quantize_model(
        model,
        output or Path(f"{Path(model.partition(':')[0]).stem}_int8{_SUFFIXES[format]}"),
        data=data,
        calibration=None if calibration is None else find_images(calibration),
        num_calibration=num_calibration,
        max_drop=max_drop,
        options=ExportOptions(size_hw=parse_size(size) if size else None),
        symmetric=symmetric,
    )
    Console(stderr=json_file == "-").print(done.report.table())
    if done.kept_float:
        typer.echo(f"kept in float: {', '.join(done.kept_float)}", err=json_file == "-")
    if json_file:
        document = {"file": str(done.result.path), "kept_float": list(done.kept_float), **done.report.to_json()}
        write_json(document, json_file)
    _log.info("wrote %s", done.result.path)
