"""`rtdetr quantize`: write a model in INT8, calibrated on images, with its AP before and after."""

from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import BadImages, Classes, DropUnused, MaxPixels, ModelFile, find_images
from rtdetr.cli.exporting import default_file, stated, write_and_report
from rtdetr.cli.predict import parse_size


def quantize(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    data: Annotated[
        Path | None, typer.Argument(help="Folder or annotation file of a dataset: AP is measured on its val.")
    ] = None,
    config: ModelFile = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
    bad_images: BadImages = "error",
    format: Annotated[
        str | None, typer.Option(help="onnx or openvino; default: as --output ends, else openvino.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default MODEL_int8, in this folder.")
    ] = None,
    max_drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Largest loss of AP.")] = 0.01,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="Images to calibrate on: files, folders or globs. Default: the train split."),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="The most images to calibrate on.")] = 100,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", "-r", help="Take the images in subfolders of folders as well.")
    ] = True,
    max_pixels: MaxPixels = None,
    size: Annotated[str | None, typer.Option(help="Network input: 640, or 480x640 (height x width).")] = None,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="As TensorRT needs it: ranges around zero.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="File for all numbers; - is stdout.")] = None,
) -> None:
    """Write a model in 8-bit integers for ONNX Runtime or OpenVINO.

    The decoder stays in float. If more than --max-drop of AP is lost, stages of the network go back to float, the
    worst first, until the loss is small enough; if it never is, no file is written and the exit status is 3. Without
    DATA nothing is measured.
    """
    from rtdetr.export import ExportOptions, Int8Options

    options = ExportOptions(
        format=format if format or output else "openvino",
        size_hw=parse_size(size) if size else None,
        precision="int8",
        int8=Int8Options(max_drop=max_drop, num_calibration=num_calibration, symmetric=symmetric),
    )
    write_and_report(
        stated(model, config, classes, drop_unused=drop_unused),
        output or default_file(model, str(options.format), mark="_int8"),
        options,
        images=None if calibration is None else find_images(calibration, recursive=recursive),
        data=data,
        on_bad_image=bad_images,
        json_file=json_file,
    )
