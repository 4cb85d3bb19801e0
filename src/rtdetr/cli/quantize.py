"""`rtdetr quantize`: quantize a model to INT8, and compare its AP before and after."""

from pathlib import Path
from typing import Annotated

import typer

from rtdetr.cli.arguments import BadImages, Classes, DropUnused, JsonFile, MaxPixels, ModelFile, Size, parse_size
from rtdetr.cli.export import default_file, write_and_report


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
    max_drop: Annotated[float, typer.Option(min=0.0, max=1.0, help="Largest acceptable drop of AP, 0 to 1.")] = 0.01,
    calibration: Annotated[
        list[str] | None,
        typer.Option(help="Images for calibration: files, folders or globs. Default: the train split."),
    ] = None,
    num_calibration: Annotated[int, typer.Option(min=1, help="Maximum number of calibration images.")] = 100,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", "-r", help="Include images in subfolders.")
    ] = True,
    max_pixels: MaxPixels = None,
    size: Size = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="Use ranges that are symmetric around zero, as TensorRT requires.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Quantize a model to INT8.

    Writes a file for ONNX Runtime or OpenVINO; the decoder stays in float. If AP drops by more than --max-drop, stages
    of the network are kept in float, worst first, until the drop is small enough. If that does not help, no file is
    written and the exit status is 3. Without DATA, AP is not measured.
    """
    from rtdetr.export import ExportOptions, Int8Options, open_source
    from rtdetr.images.files import find_images

    options = ExportOptions(
        format=format if format or output else "openvino",
        size_hw=parse_size(size) if size else None,
        precision="int8",
        int8=Int8Options(max_drop=max_drop, num_calibration=num_calibration, symmetric=symmetric),
    )
    is_plain = config is None and classes is None and not drop_unused
    write_and_report(
        model if is_plain else open_source(model, model=config, categories=classes, drop_unused=drop_unused),
        output or default_file(model, str(options.format), mark="_int8"),
        options,
        images=None if calibration is None else find_images(calibration, recursive=recursive),
        data=data,
        on_bad_image=bad_images,
        json_file=json_file,
    )
