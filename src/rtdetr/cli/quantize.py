"""`rtdetr quantize`: write a model in INT8, calibrated on pictures, with its AP before and after."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import BadImages, Classes, DropUnused, MaxPixels, ModelFile, find_images
from rtdetr.cli.export import REFUSED, stated
from rtdetr.cli.predict import parse_size, write_json
from rtdetr.errors import one_line, one_of

_log = logging.getLogger(__name__)
_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}


def quantize(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    data: Annotated[
        Path | None, typer.Argument(help="Folder or annotation file of a dataset. AP is measured on its val split.")
    ] = None,
    config: ModelFile = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
    bad_images: BadImages = "error",
    format: Annotated[
        str | None, typer.Option(help="onnx or openvino. Default: by the ending of --output, else openvino.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. Default: MODEL_int8, in the current folder.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Largest drop of AP, 0 to 1.")] = 0.01,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="Images for calibration: files, folders or globs. Default: the train split."),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="Most images for calibration.")] = 100,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", "-r", help="Also take the images in subfolders.")
    ] = True,
    max_pixels: MaxPixels = None,
    size: Annotated[
        str | None,
        typer.Option(help="Network input in pixels: 640, or 480x640 (height x width). Default: the model's own."),
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Use ranges around zero, as TensorRT needs them.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the results as JSON. - is standard output, without the text.")
    ] = None,
) -> None:
    """Quantize a model to INT8.

    Writes a file for ONNX Runtime or OpenVINO; the decoder stays in float. If AP drops by more than --max-drop, stages
    of the network go back to float, worst first, until the drop is small enough. If it never is, no file is written and
    the exit status is 3. Without DATA nothing is measured.
    """
    if format is None:
        format = "onnx" if output is not None and output.suffix.lower() == ".onnx" else "openvino"
    one_of("format", format, _SUFFIXES)
    from rich.console import Console

    from rtdetr.export import ExportOptions
    from rtdetr.export.export import RefusedExportError
    from rtdetr.export.quantize import quantize as quantize_model

    path = output or Path(f"{Path(model.partition(':')[0]).stem}_int8{_SUFFIXES[format]}")
    console = Console(stderr=json_file == "-")
    try:
        done = quantize_model(
            stated(model, config, classes, drop_unused=drop_unused),
            path,
            data=data,
            on_bad_image=bad_images,
            calibration=None if calibration is None else find_images(calibration, recursive=recursive),
            num_calibration=num_calibration,
            max_drop=max_drop,
            options=ExportOptions(size_hw=parse_size(size) if size else None),
            symmetric=symmetric,
        )
    except RefusedExportError as error:
        console.print(error.report.table())
        if json_file:
            write_json({"file": None, **error.report.to_json()}, json_file)
        typer.echo(f"{one_line(error)}; {path} was not written", err=True)
        raise typer.Exit(REFUSED) from None
    console.print(done.report.table())
    if done.report.note:
        _log.warning("%s", done.report.note)
    if done.kept_float:
        typer.echo(f"kept in float: {', '.join(done.kept_float)}", err=json_file == "-")
    if json_file:
        document = {"file": str(done.result.path), "kept_float": list(done.kept_float), **done.report.to_json()}
        write_json(document, json_file)
    _log.info("wrote %s", done.result.path)
