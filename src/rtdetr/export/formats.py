"""The table of export formats: the options each accepts, its writer, and what opens its files for the check.

`complete` checks the options of an export against this table once, before anything is read or built. File extensions
are in `rtdetr/exported_files.py`, because runtimes need them too; `ExportOptions` documents options and defaults.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtdetr.errors import ConfigError, MissingDependencyError, require_extra
from rtdetr.expected import any_of
from rtdetr.export.job import Job
from rtdetr.export.options import ExportOptions
from rtdetr.export.samples import Feed
from rtdetr.exported_files import ending, exported_format

Writer = Callable[[Job, Path], int | None]
"""Writes the file of a job; returns the number of operators in its graph, or None if they are not counted."""
Int8Writer = Callable[[Job, Path, Sequence[str], Sequence[Feed]], int | None]
"""The same in INT8; also takes the network stages to quantize and the graph inputs to calibrate on."""


@dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
        runs_in: what runs its files.
        writer: the `Writer`, as "module.function" of `rtdetr.export`; imported when it is needed, with its packages.
        precisions: supported values of `ExportOptions.precision`, except "int8".
        takes: supported names of `OPTIONS`.
        int8_writer: the `Int8Writer`, named in the same way; None: INT8 is not supported.
        load: the function that opens a file for the check, named in the same way; None: `rtdetr.load`.
        instead: maps an unsupported option or precision to the reason and what to do instead.
    """

    runs_in: str
    writer: str
    precisions: tuple[str, ...] = ("fp32",)
    takes: tuple[str, ...] = ()
    int8_writer: str | None = None
    load: str | None = None
    instead: Mapping[str, str] = field(default_factory=dict)


OPTIONS = {
    "opset": "--opset",
    "gather_only": "--gather-only",
    "preprocess": "--preprocess",
    "nms_iou": "--nms",
    "compiled": "--compiled",
    "engine": "--workspace, --batch-range, --size-range, --timing-cache",
}
"""Fields of `ExportOptions` that not every format has, with their command line options."""

FORMATS = {
    "onnx": Format(
        "ONNX Runtime and other tools that read ONNX",
        "onnx.write_onnx",
        precisions=("fp32", "fp16"),
        takes=("opset", "gather_only", "preprocess", "nms_iou"),
        int8_writer="onnx.int8.write_int8_onnx",
        instead={
            "bf16": "ONNX Runtime has no bfloat16 convolutions; OpenVINO runs fp32 files in bf16 on machines with it"
        },
    ),
    "openvino": Format(
        "OpenVINO",
        "openvino.write_openvino",
        precisions=("fp32", "fp16", "bf16"),
        takes=("gather_only", "preprocess", "nms_iou"),
        int8_writer="openvino_int8.write_int8_openvino",
    ),
    "tensorrt": Format(
        "TensorRT",
        "tensorrt.write_tensorrt",
        precisions=("fp32", "fp16"),
        takes=("gather_only", "nms_iou", "engine"),
        instead={
            "int8": "quantize to ONNX with 'rtdetr quantize MODEL DATA --format onnx --symmetric', then run 'rtdetr "
            "export MODEL_int8.onnx --format tensorrt'",
            "preprocess": "TensorRT resizes differently from this library; the detector that runs the engine resizes",
        },
    ),
    "torch": Format(
        "PyTorch, without this library",
        "torch_export.write_torch",
        precisions=("fp32", "fp16", "bf16"),
        takes=("preprocess", "compiled"),
        instead={
            "nms_iou": "PyTorch programs have no NMS; the detector that runs them can apply it (--nms of 'rtdetr "
            "predict')",
        },
    ),
}


def complete(options: ExportOptions, file: Path, *, has_images: bool) -> ExportOptions:
    """Check the options of an export and return them with the format filled in.

    Args:
        options: the user's options.
        file: the file to write; its extension determines the format if the options do not.
        has_images: whether images or a dataset were given; INT8 is calibrated on them.

    Raises:
        ConfigError: the format is unknown or contradicts the extension, or the format does not support an option.
    """
    named = exported_format(file)
    format = options.format or named
    if format is None:
        is_int8 = options.precision == "int8"
        endings = any_of([ending(name) for name, form in FORMATS.items() if form.int8_writer or not is_int8])
        raise ConfigError(f"{file}: expected a name ending in {endings}, which determines the format")
    if file.suffix.lower() != ending(format):
        instead = f"; the extension of {file.name} is that of format {named}" if named not in (None, format) else ""
        raise ConfigError(f"{file}: expected a name ending in {ending(format)} for format {format}{instead}")
    form = FORMATS[format]
    for name, flags in OPTIONS.items():
        value = getattr(options, name)
        if value is not None and value is not False and name not in form.takes:
            supporting = any_of([other for other, one in FORMATS.items() if name in one.takes])
            raise ConfigError(
                f"{name} ({flags}) needs format {supporting}, got format {format}: leave it out{_reason(form, name)}"
            )
    known = [*form.precisions, *(["int8"] if form.int8_writer else [])]
    if options.precision not in known:
        raise ConfigError(
            f"precision (--precision): expected {any_of(known)} for format {format}, got {options.precision!r}"
            f"{_reason(form, options.precision)}{_where_int8(options)}"
        )
    if options.precision == "int8" and not has_images:
        raise ConfigError(
            "INT8 needs images to calibrate on. Pass a dataset to measure AP as well (--data of 'rtdetr export', DATA "
            "of 'rtdetr quantize', Python: data), or only images (--images of 'rtdetr export', --calibration of "
            "'rtdetr quantize')"
        )
    return options.replace(format=format)


def writer_of(options: ExportOptions) -> Any:
    """Import and return the writer for these options: an `Int8Writer` for precision "int8", otherwise a `Writer`.

    Raises:
        MissingDependencyError: a package that writes the format is not installed.
    """
    form = FORMATS[str(options.format)]
    name = form.int8_writer if options.precision == "int8" else form.writer
    assert name is not None  # otherwise `complete` has raised
    try:
        with require_extra():
            return imported(name)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"cannot export to {options.format}: {error}") from None


def imported(name: str) -> Any:
    """Import and return a function of this package, named "module.function"."""
    module, _, function = name.rpartition(".")
    return getattr(importlib.import_module(f"rtdetr.export.{module}"), function)


def _where_int8(options: ExportOptions) -> str:
    supporting = any_of([name for name, form in FORMATS.items() if form.int8_writer])
    return f". INT8 needs format {supporting} (--format)" if options.precision == "int8" else ""


def _reason(form: Format, name: str) -> str:
    return f". {form.instead[name]}" if name in form.instead else ""
