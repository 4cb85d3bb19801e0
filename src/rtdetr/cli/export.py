"""`rtdetr export`: write a model as a file for ONNX Runtime, OpenVINO, TensorRT or PyTorch, compared with the model."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtdetr.cli.arguments import BadImages, Classes, DropUnused, MaxPixels, ModelFile, Recursive, find_images
from rtdetr.cli.predict import parse_size
from rtdetr.errors import ConfigError, one_line, one_of
from rtdetr.wording import counted

if TYPE_CHECKING:
    from rtdetr.export import ExportResult, Source
    from rtdetr.export.verify import VerifyReport

_log = logging.getLogger(__name__)
AXES = {"batch": "dynamic_batch", "size": "dynamic_size"}
REFUSED = 3  # exit status


def export(
    model: Annotated[str, typer.Argument(help="Model name (see 'rtdetr models'), weight file or folder.")],
    format: Annotated[
        str | None,
        typer.Option(help="onnx, openvino, tensorrt or torch. Default: by the ending of --output, else onnx."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write. Default: the model's name, in the current folder."),
    ] = None,
    config: ModelFile = None,
    classes: Classes = None,
    drop_unused: DropUnused = False,
    dynamic: Annotated[str, typer.Option(help="Dynamic axes: batch, size, or batch,size. Default: none.")] = "",
    size: Annotated[
        str | None,
        typer.Option(help="Network input in pixels: 640, or 480x640 (height x width). Default: the model's own."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset, 13 or higher. Below 16 the graph has no GridSample.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8. int8 is for onnx and openvino, and needs --data or --images.")
    ] = "fp32",
    preprocess: Annotated[
        bool, typer.Option("--preprocess", help="Take a uint8 image of any size and resize it in the graph.")
    ] = False,
    postprocess: Annotated[
        str, typer.Option(help="boxes: labels, boxes in pixels and scores. raw: logits and normalized boxes.")
    ] = "boxes",
    sampling: Annotated[
        str | None, typer.Option(help="Sampling of features: bilinear or discrete. Default: as trained.")
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Decoder layers to run. Default: all.")] = None,
    queries: Annotated[int | None, typer.Option(help="Object queries per image. Default: the model's.")] = None,
    nms: Annotated[
        float | None, typer.Option(help="NMS IoU threshold, per class; suppressed boxes get score 0. Default: no NMS.")
    ] = None,
    gather_only: Annotated[
        bool, typer.Option("--gather-only", help="Use no GridSample and at most 4 dimensions, whatever the opset.")
    ] = False,
    one_label: Annotated[bool, typer.Option("--one-label", help="Keep only the best class of each query.")] = False,
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
            help="tensorrt: the same for sizes: 320,640,960 or 320x480,640x640,960x960. Makes the size dynamic."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="tensorrt: file of timings that makes the next build faster.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the detections with PyTorch's before writing the file.")] = True,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images for the check and for int8 calibration: files, folders or globs in quotes."),
    ] = None,
    recursive: Recursive = False,
    max_pixels: MaxPixels = None,
    data: Annotated[Path | None, typer.Option(help="Dataset for the check, to compare AP as well.")] = None,
    bad_images: BadImages = "error",
    max_drop: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="int8: largest drop of AP, 0 to 1. Default: 0.01.")
    ] = None,
) -> None:
    """Export a model for another runtime.

    The detections are compared with those of the model in PyTorch, in float32. If they differ by more than the
    precision explains, no file is written and the exit status is 3. With --format tensorrt, the model may also be an
    .onnx file of this library, which is compiled as it is and not compared.
    """
    from rtdetr.export import ExportOptions
    from rtdetr.export import export as export_model
    from rtdetr.export.export import SUFFIXES, RefusedExportError

    by_suffix = {suffix: kind for kind, suffix in SUFFIXES.items()}
    if format is None:
        if output is not None and output.suffix.lower() not in by_suffix:
            raise ConfigError(f"{output}: expected a name ending in {', '.join(by_suffix)}, which says the format")
        format = "onnx" if output is None else by_suffix[output.suffix.lower()]
    format = one_of("format", format, _FORMATS)
    _refuse_others(
        format,
        opset=opset,
        gather_only=gather_only,
        nms=nms,
        compiled=compiled,
        workspace=workspace,
        batch_range=batch_range,
        size_range=size_range,
        timing_cache=timing_cache,
    )
    values: dict[str, Any] = {
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
        "one_label": one_label,
        "compiled": compiled,
        **parse_axes(dynamic),
    }
    values = {name: value for name, value in values.items() if value is not None}
    engine = _engine_settings(workspace, batch_range, size_range, timing_cache) if format == "tensorrt" else {}
    options = ExportOptions(**{"format": format, **engine, **values})
    path = output or Path(Path(model.partition(":")[0]).stem + SUFFIXES[format])
    if format == "tensorrt" and Path(model).suffix.lower() == ".onnx":
        if images or data or config or classes or drop_unused or options != ExportOptions(format=format, **engine):
            raise ConfigError(
                f"{model} is compiled as it is: with an .onnx file, pass only --output, --workspace, --batch-range, "
                "--size-range and --timing-cache"
            )
        from rtdetr.export.tensorrt import compile_onnx

        _print_result(compile_onnx(Path(model), path, engine=options.engine))
        return
    _refuse_for_int8(options.precision, check=check, data=data, images=images, max_drop=max_drop)
    if not check and (images or data):
        raise ConfigError("--images and --data are for the check: leave --no-check out, or them")
    more: dict[str, Any] = {"on_bad_image": bad_images} | ({} if max_drop is None else {"max_drop": max_drop})
    pictures = find_images(images, recursive=recursive) if images else None
    try:
        result = export_model(
            stated(model, config, classes, drop_unused=drop_unused),
            path,
            options=options,
            check=check,
            images=pictures,
            data=data,
            **more,
        )
    except RefusedExportError as error:
        _print_report(error.report)
        typer.echo(f"{one_line(error)}; {path} was not written", err=True)
        raise typer.Exit(REFUSED) from None
    _print_result(result)


def stated(model: str, config: str | None, classes: str | None, *, drop_unused: bool) -> "str | Source":
    """The model to export: with what was said about it, where something was, read already."""
    from rtdetr.export.export import open_source

    if config is None and classes is None and not drop_unused:
        return model
    return open_source(model, model=config, categories=classes, drop_unused=drop_unused)


_FORMATS = ("onnx", "openvino", "tensorrt", "torch")
_GRAPHS = ("onnx", "openvino", "tensorrt")
_ONLY_FOR = {
    "opset": ("onnx",),
    "gather_only": _GRAPHS,
    "nms": _GRAPHS,
    "compiled": ("torch",),
    **dict.fromkeys(("workspace", "batch_range", "size_range", "timing_cache"), ("tensorrt",)),
}


def _refuse_others(format: str, **given: Any) -> None:
    """Refuse options that the format does not have."""
    for name, value in given.items():
        formats = _ONLY_FOR[name]
        if value is not None and value is not False and format not in formats:
            option = name.replace("_", "-")
            raise ConfigError(
                f"--{option} is for --format {' and '.join(formats)}, got --format {format}: leave it out"
            )


def _refuse_for_int8(
    precision: str, *, check: bool, data: Path | None, images: list[str] | None, max_drop: float | None
) -> None:
    """Refuse what INT8 cannot do without, and what only INT8 has."""
    if precision != "int8" and max_drop is not None:
        raise ConfigError(f"--max-drop is for --precision int8, got --precision {precision}: leave it out")
    if precision == "int8" and not check:
        raise ConfigError("--precision int8 is always measured: leave --no-check out")
    if precision == "int8" and data is None and not images:
        raise ConfigError(
            "--precision int8 is calibrated on pictures: give a dataset with --data, which AP is measured on too, or "
            "pictures alone with --images"
        )


def parse_axes(text: str) -> dict[str, Any]:
    """Read "batch", "size" or "batch,size" as settings.

    Raises:
        ConfigError: anything else.
    """
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    return {AXES[one_of("axis of --dynamic", name, AXES)]: True for name in names}


def _engine_settings(
    workspace: float | None, batch_range: str | None, size_range: str | None, timing_cache: Path | None
) -> dict[str, Any]:
    """Settings of an export for TensorRT; a range frees its axes, and the usual size is the model's own."""
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
    return {**settings, "engine": EngineOptions(**{key: value for key, value in engine.items() if value is not None})}


def parse_range(option: str, text: str) -> list[tuple[int, int]]:
    """Read "320,640,960" or "320x480,640x640,960x960": least, usual and most, each as height and width.

    Raises:
        ConfigError: anything else; a number of images has no width.
    """
    parts = [part.strip() for part in text.split(",")]
    form = r"\d{1,6}" if option == "--batch-range" else r"\d{1,6}(x\d{1,6})?"
    if len(parts) != 3 or not all(re.fullmatch(form, part) for part in parts):
        example = "1,4,16" if option == "--batch-range" else "320,640,960 or 320x480,640x640,960x960 (height x width)"
        raise ConfigError(f"{option}: expected the least, the usual and the most, like {example}, got {text!r}")
    return [parse_size(part) for part in parts]


def _print_result(result: "ExportResult") -> None:
    if result.report is not None:
        _print_report(result.report)
    nodes = "" if result.num_nodes is None else f", {counted(result.num_nodes, 'operator')}"
    typer.echo(f"{result.path}: {result.size_bytes / 1e6:.1f} MB{nodes}")


def _print_report(report: "VerifyReport") -> None:
    from rich.console import Console

    Console().print(report.table())
    if report.note:
        _log.warning("%s", report.note)
