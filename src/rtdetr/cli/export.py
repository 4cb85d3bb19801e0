"""`rtdetr export`: export a model for ONNX Runtime, OpenVINO, TensorRT or PyTorch, and compare the detections."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtdetr.cli.arguments import (
    BadImages,
    Classes,
    DropUnused,
    JsonFile,
    MaxPixels,
    ModelFile,
    OneLabel,
    Recursive,
    Size,
    parse_size,
)
from rtdetr.cli.output import check_targets, write_json
from rtdetr.errors import ConfigError, one_line, one_of
from rtdetr.exported_files import ENDINGS, ending
from rtdetr.wording import counted

if TYPE_CHECKING:
    from rtdetr.export import ExportOptions, Source
    from rtdetr.export.report import VerifyReport

_log = logging.getLogger(__name__)
REFUSED = 3  # exit status
_SPELLED = {  # settings of an export and their options
    **{name: f"--{name}" for name in ("opset", "precision", "postprocess", "sampling", "format")},
    "num_layers": "--layers",
    "num_queries": "--queries",
    "nms_iou": "--nms",
    "engine.workspace_gib": "--workspace",
}
AXES = {"batch": "dynamic_batch", "size": "dynamic_size"}


def export(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    format: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(ENDINGS)}. Default: by the ending of --output, else onnx."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write. Default: the model's name, in the current folder."),
    ] = None,
    config: ModelFile = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
    dynamic: Annotated[str, typer.Option(help="Dynamic axes: batch, size, or batch,size. Default: none.")] = "",
    size: Size = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset, 13 or higher. Below 16 the graph has no GridSample.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8. int8 is for onnx and openvino, and needs --data or --images.")
    ] = "fp32",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Accept uint8 images of any size and resize them in the graph.")
    ] = False,
    postprocess: Annotated[
        str, typer.Option(help="boxes: labels, boxes in pixels and scores. raw: logits and normalized boxes.")
    ] = "boxes",
    sampling: Annotated[
        str | None, typer.Option(help="Feature sampling in the decoder: bilinear or discrete. Default: as trained.")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers to run. Default: all.")] = None,
    queries: Annotated[int | None, typer.Option(help="Object queries per image. Default: the model's.")] = None,
    nms: Annotated[
        float | None, typer.Option(help="NMS IoU threshold, per class; suppressed boxes get score 0. Default: no NMS.")
    ] = None,
    gather_only: Annotated[
        bool, typer.Option("--gather-only", help="Use no GridSample and no tensors of more than 4 dimensions.")
    ] = False,
    one_label: OneLabel = False,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="torch: write a package compiled by AOTInductor.")
    ] = False,
    workspace: Annotated[
        float | None, typer.Option(help="tensorrt: GPU memory limit of one operation, GiB. Default: 4.")
    ] = None,
    batch_range: Annotated[
        str | None,
        typer.Option(help="tensorrt: smallest, usual and largest batch, such as 1,4,16. Makes the batch dynamic."),
    ] = None,
    size_range: Annotated[
        str | None,
        typer.Option(
            help="tensorrt: the same for the size: 320,640,960 or 320x480,640x640,960x960. Makes the size dynamic."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="tensorrt: timing cache file, which makes the next build faster.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Compare the detections with the model's before writing the file.")
    ] = True,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images for the check and for int8 calibration: files, folders or globs in quotes."),
    ] = None,
    recursive: Recursive = False,
    max_pixels: MaxPixels = None,
    data: Annotated[Path | None, typer.Option(help="Dataset for the check, to compare AP as well.")] = None,
    bad_images: BadImages = "error",
    max_drop: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="int8: largest acceptable drop of AP, 0 to 1. Default: 0.01.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Export a model for another runtime.

    The detections are compared with those of the model in PyTorch, in float32. If they differ by more than the
    precision explains, no file is written and the exit status is 3. With --format tensorrt, the model may also be an
    .onnx file of this library, which is compiled as it is and not compared.
    """
    from rtdetr.export import ExportOptions, Int8Options, open_source
    from rtdetr.images.files import find_images
    from rtdetr.strict import naming

    if not check and (images or data or precision == "int8"):
        raise ConfigError("--images, --data and --precision int8 need the check: omit --no-check, or omit them")
    settings: dict[str, Any] = {
        "format": format if format or output else "onnx",
        "opset": opset,
        "precision": precision,
        "preprocess": preprocess,
        "postprocess": postprocess,
        "sampling": sampling,
        "num_layers": layers,
        "num_queries": queries,
        "nms_iou": nms,
        "gather_only": gather_only,
        "one_label": one_label,
        "compiled": compiled,
        **parse_axes(dynamic),
    }
    if size is not None:
        settings["size_hw"] = parse_size(size)
    if max_drop is not None:
        settings["int8"] = Int8Options(max_drop=max_drop)
    with naming(_SPELLED):
        settings |= _engine_settings(workspace, batch_range, size_range, timing_cache)
        options = ExportOptions(**settings)
    is_plain = config is None and classes is None and not drop_unused
    write_and_report(
        model if is_plain else open_source(model, model=config, categories=classes, drop_unused=drop_unused),
        output or default_file(model, str(options.format)),
        options,
        check=check,
        images=find_images(images, recursive=recursive) if images else None,
        data=data,
        on_bad_image=bad_images,
        json_file=json_file,
    )


def default_file(model: str, format: str, *, mark: str = "") -> Path:
    """Default output file: the name of the model with the suffix `mark`, in the current folder."""
    return Path(f"{Path(model.partition(':')[0]).stem}{mark}{ending(format)}")


def write_and_report(
    model: "str | Source",
    path: Path,
    options: "ExportOptions",
    *,
    check: bool = True,
    images: Sequence[Path] | None,
    data: Path | None,
    on_bad_image: str,
    json_file: str | None = None,
) -> None:
    """Export a model, print the result of the check, and exit with status 3 if the check fails.

    All arguments except the last are those of `rtdetr.export.export`.

    Args:
        model: the model to export.
        path: file to write.
        options: format and settings.
        check: compare the file with the model.
        images: images for the check and for INT8 calibration.
        data: dataset for the same.
        on_bad_image: "error" or "skip".
        json_file: file for all numbers. "-" is standard output; everything else then goes to standard error.
    """
    from rich.console import Console

    from rtdetr.export import RefusedExportError, export

    check_targets(json_file)
    to_stderr = json_file == "-"

    def show(report: "VerifyReport", **more: object) -> None:
        Console(stderr=to_stderr).print(report.table())
        if report.note:
            _log.warning("%s", report.note)
        if json_file:
            write_json({**more, **report.to_json()}, json_file)

    try:
        result = export(model, path, options=options, check=check, images=images, data=data, on_bad_image=on_bad_image)
    except RefusedExportError as error:
        show(error.report, file=None)
        typer.echo(f"{one_line(error)}; {path} was not written", err=True)
        raise typer.Exit(REFUSED) from None
    if result.report is not None:
        show(result.report, file=str(result.path), kept_float=list(result.kept_float))
    elif json_file:  # nothing was compared
        write_json({"file": str(result.path), "kept_float": []}, json_file)
    if result.kept_float:
        typer.echo(f"kept in float: {', '.join(result.kept_float)}", err=to_stderr)
    nodes = "" if result.num_nodes is None else f", {counted(result.num_nodes, 'operator')}"
    typer.echo(f"{result.path}: {result.size_bytes / 1e6:.1f} MB{nodes}", err=to_stderr)


def parse_axes(text: str) -> dict[str, Any]:
    """Parse "batch", "size" or "batch,size" to settings.

    Raises:
        ConfigError: the text has another form.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    return {AXES[one_of("axis of --dynamic", name, AXES)]: True for name in names}


def _engine_settings(
    workspace: float | None, batch_range: str | None, size_range: str | None, timing_cache: Path | None
) -> dict[str, Any]:
    """Settings for TensorRT, if any are given. A range makes its axes dynamic; its usual size is the input size."""
    from rtdetr.export import EngineOptions

    settings: dict[str, Any] = {}
    engine: dict[str, Any] = {"workspace_gib": workspace, "timing_cache": timing_cache}
    if batch_range is not None:
        engine["batch"] = tuple(count for count, _ in parse_range("--batch-range", batch_range))
        settings["dynamic_batch"] = True
    if size_range is not None:
        sizes = parse_range("--size-range", size_range)
        engine["height"], engine["width"] = zip(*sizes, strict=True)
        settings |= {"dynamic_size": True, "size_hw": sizes[1]}
    given = {key: value for key, value in engine.items() if value is not None}
    return {**settings, "engine": EngineOptions(**given)} if given else {}


def parse_range(option: str, text: str) -> list[tuple[int, int]]:
    """Parse "320,640,960" or "320x480,640x640,960x960": smallest, usual and largest, each as height and width.

    Raises:
        ConfigError: the text has another form.
    """
    parts = [part.strip() for part in text.split(",")]
    form = r"\d{1,6}" if option == "--batch-range" else r"\d{1,6}(x\d{1,6})?"
    if len(parts) != 3 or not all(re.fullmatch(form, part) for part in parts):
        example = "1,4,16" if option == "--batch-range" else "320,640,960 or 320x480,640x640,960x960 (height x width)"
        raise ConfigError(f"{option}: expected the smallest, usual and largest value, such as {example}, got {text!r}")
    return [parse_size(part) for part in parts]
