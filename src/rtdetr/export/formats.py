"""The table of export formats: what each takes, what writes its files, and what opens them for the check.

`complete` checks the options of an export against it, once, before anything is read or built. The endings of files are
in `rtdetr/exported_files.py`, for the runtimes; what an option means and its default are in `ExportOptions`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtdetr.detections import Detector
from rtdetr.errors import ConfigError, MissingDependencyError, require_extra
from rtdetr.export.job import Job
from rtdetr.export.options import ExportOptions
from rtdetr.export.samples import Feed
from rtdetr.exported_files import ending, exported_format

Writer = Callable[[Job, Path], int | None]
"""Writes the file of a job; returns the number of operators in its graph, None where they are not counted."""
Int8Writer = Callable[[Job, Path, Sequence[str], Sequence[Feed]], int | None]
"""The same in INT8, given the stages of the network to quantize, and inputs of the graph to calibrate on."""


@dataclass(frozen=True)
class Format:
    """One kind of exported file.

    Attributes:
        runs_in: what opens its files.
        writer: imports the packages that write it, and returns the function that does.
        precisions: those of `ExportOptions.precision` that it has, "int8" aside.
        takes: those of `OPTIONS` that it has.
        int8_writer: as `writer`, for precision "int8"; None: it has none.
        load: opens a file for the check; None: `rtdetr.load` does.
        instead: why it lacks an option or a precision, and what to do, by the name of either.
    """

    runs_in: str
    writer: Callable[[], Writer]
    precisions: tuple[str, ...] = ("fp32",)
    takes: tuple[str, ...] = ()
    int8_writer: Callable[[], Int8Writer] | None = None
    load: Callable[[Path], Detector] | None = None
    instead: Mapping[str, str] = field(default_factory=dict)


OPTIONS = {
    "opset": "--opset",
    "gather_only": "--gather-only",
    "preprocess": "--preprocess",
    "nms_iou": "--nms",
    "compiled": "--compiled",
    "engine": "--workspace, --batch-range, --size-range, --timing-cache",
}
"""Fields of `ExportOptions` that not every format has, and what the command line calls them."""


def _onnx() -> Writer:
    from rtdetr.export.onnx import write_onnx

    return write_onnx


def _int8_onnx() -> Int8Writer:
    from rtdetr.export.onnx.int8 import write_int8_onnx

    return write_int8_onnx


def _openvino() -> Writer:
    from rtdetr.export.openvino import write_openvino

    return write_openvino


def _int8_openvino() -> Int8Writer:
    from rtdetr.export.openvino_int8 import write_int8_openvino

    return write_int8_openvino


def _tensorrt() -> Writer:
    from rtdetr.export.tensorrt import write_tensorrt

    return write_tensorrt


def _torch() -> Writer:
    from rtdetr.export.torch_export import write_torch

    return write_torch


FORMATS = {
    "onnx": Format(
        "ONNX Runtime and whatever reads ONNX",
        _onnx,
        precisions=("fp32", "fp16"),
        takes=("opset", "gather_only", "preprocess", "nms_iou"),
        int8_writer=_int8_onnx,
        instead={
            "bf16": "ONNX Runtime has no bfloat16 convolutions; OpenVINO runs fp32 files in bf16 where the machine can"
        },
    ),
    "openvino": Format(
        "OpenVINO",
        _openvino,
        precisions=("fp32", "fp16", "bf16"),
        takes=("gather_only", "preprocess", "nms_iou"),
        int8_writer=_int8_openvino,
    ),
    "tensorrt": Format(
        "TensorRT",
        _tensorrt,
        precisions=("fp32", "fp16"),
        takes=("gather_only", "nms_iou", "engine"),
        instead={
            "int8": "quantize to ONNX with 'rtdetr quantize MODEL DATA --format onnx --symmetric', then run 'rtdetr "
            "export MODEL_int8.onnx --format tensorrt'",
            "preprocess": "TensorRT's resize is not the library's own; the detector that runs the engine resizes",
        },
    ),
    "torch": Format(
        "PyTorch, without this library",
        _torch,
        precisions=("fp32", "fp16", "bf16"),
        takes=("preprocess", "compiled"),
        instead={
            "nms_iou": "PyTorch programs have no non-maximum suppression; the detector that runs them can do it (--nms "
            "of 'rtdetr predict')",
        },
    ),
}


def complete(options: ExportOptions, file: Path, *, has_images: bool) -> ExportOptions:
    """Check the options of an export, and return them with the format filled in.

    Args:
        options: as the user gave them.
        file: to be written; its name says the format where the options do not.
        has_images: whether images or a dataset were given, which INT8 is calibrated on.

    Raises:
        ConfigError: no format, another one than the file's name says, or an option that the format does not have.
    """
    named = exported_format(file)
    format = options.format or named
    if format is None:
        endings = ", ".join(ending(format) for format in FORMATS)
        raise ConfigError(f"{file}: expected a name ending in {endings}, which says the format")
    if file.suffix.lower() != ending(format):
        instead = f"; format {named} has that ending" if named not in (None, format) else ""
        raise ConfigError(f"{file}: expected a name ending in {ending(format)} for format {format}{instead}")
    form = FORMATS[format]
    for name, flags in OPTIONS.items():
        value = getattr(options, name)
        if value is not None and value is not False and name not in form.takes:
            takers = _either([other for other, one in FORMATS.items() if name in one.takes])
            raise ConfigError(
                f"{name} ({flags}) is for format {takers}, got format {format}: leave it out{_because(form, name)}"
            )
    known = [*form.precisions, *(["int8"] if form.int8_writer else [])]
    if options.precision not in known:
        raise ConfigError(
            f"precision (--precision): expected {_either(known)} for format {format}, got {options.precision!r}"
            f"{_because(form, options.precision)}"
        )
    if options.precision == "int8" and not has_images:
        raise ConfigError("INT8 is calibrated on images: give a dataset, which AP is measured on too, or images")
    return options.replace(format=format)


def writer_of(options: ExportOptions) -> Any:
    """Import what writes these options, and return it: an `Int8Writer` for precision "int8", else a `Writer`.

    Raises:
        MissingDependencyError: a package that writes the format is not installed.
    """
    form = FORMATS[str(options.format)]
    find = form.int8_writer if options.precision == "int8" else form.writer
    assert find is not None  # `complete` has refused it
    try:
        with require_extra():
            return find()
    except MissingDependencyError as error:
        raise MissingDependencyError(f"export to {options.format}: {error}") from None


def _because(form: Format, name: str) -> str:
    return f". {form.instead[name]}" if name in form.instead else ""


def _either(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
